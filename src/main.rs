//! The `tiltyard` binary: everything it does is in [`tiltyard::cli`].

use std::process::ExitCode;

/// Uploads take and give back the memory of whole batches all the time. The system's allocator hands
/// that back to the kernel each time, and pays for it page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tiltyard::cli::main()
}
