//! The `tiltyard` binary: everything it does is in [`tiltyard::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tiltyard::cli::main()
}
