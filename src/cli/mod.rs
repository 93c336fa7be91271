//! The command line: one file per subcommand.

mod doctor;
mod gc;
mod grant;
mod health;
mod key;
mod migrate;
mod openapi;
mod serve;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};

use crate::auth::Keeper;
use crate::catalog::Catalog;
use crate::config::{Overrides, Settings};
use crate::error::{Error, Result};
use crate::model::{Caller, Clock};
use crate::telemetry;

/// A REST catalog and commit server for Lance tables.
#[derive(Parser)]
#[command(name = "tiltyard", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the catalog; with nothing set: SQLite and a local folder, on 127.0.0.1:2333
    Serve(serve::Serve),
    /// Bring the schema of the database up to date, or move a catalog to another one; and stop
    Migrate(migrate::Migrate),
    /// Remove once what nothing refers to any more, and say what it was
    Gc(gc::Gc),
    /// Compare catalog and storage, say what does not fit together, and mend it with --repair
    Doctor(doctor::Doctor),
    /// Make, list, replace and take away API keys
    Key(key::Key),
    /// Say who has which role on what
    Grant(grant::Grant),
    /// Ask a running server whether it is well, and say so by the exit status
    Health(health::Health),
    /// Print the OpenAPI document of what is served
    Openapi,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    // SAFETY: the process has just started; no thread was.
    unsafe { crate::lake::widen_cpu_pool() };
    let done = match Cli::parse().command {
        Command::Serve(serve) => serve::run(&serve).map(|()| ExitCode::SUCCESS),
        Command::Migrate(migrate) => migrate::run(&migrate).map(|()| ExitCode::SUCCESS),
        Command::Gc(gc) => gc::run(&gc),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Key(key) => key::run(key).map(|()| ExitCode::SUCCESS),
        Command::Grant(grant) => grant::run(grant).map(|()| ExitCode::SUCCESS),
        Command::Health(health) => health::run(&health).map(|()| ExitCode::SUCCESS),
        Command::Openapi => openapi::run().map(|()| ExitCode::SUCCESS),
    };
    telemetry::finish();
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tiltyard: {error}");
            if let Some(cause) = std::error::Error::source(&error) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The settings that the command line, the environment and the file come to.
fn settings(overrides: &Overrides) -> Result<Settings> {
    let settings = Settings::load(overrides)
        .map_err(|error| Error::invalid_input(format!("configuration: {error}")))?;
    let collector = settings.otlp_endpoint.as_deref();
    telemetry::install(settings.log_format, &settings.log, collector)?;
    Ok(settings)
}

/// What the threads are called that only wait for files.
const OF_FILES: &str = "tiltyard-files";

/// Runs async work to its end on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let is_built = Arc::new(AtomicBool::new(false));
    let names = is_built.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // The workers are begun while it is built, all others when they are first needed.
        .thread_name_fn(move || {
            if names.load(Ordering::Relaxed) { OF_FILES } else { "tiltyard-worker" }.to_owned()
        })
        .on_thread_start(|| {
            if std::thread::current().name() == Some(OF_FILES) {
                let_others_finish();
            }
        })
        .build()
        .map_err(|error| Error::internal("starting the runtime", error))?;
    is_built.store(true, Ordering::Relaxed);
    runtime.block_on(work)
}

/// A commit on a disk is a few calls on such threads, some microseconds each. By itself Linux stops
/// whoever is at work for each of them, and comes back to it after; a thread of `SCHED_BATCH` begins
/// when a processor is free, or when the other's time is over.
fn let_others_finish() {
    #[cfg(target_os = "linux")]
    {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: 0 is the calling thread; the parameters are only read, and outlive the call. Where it
        // is not allowed, all stays as it is, and so does what somebody chose for this process.
        unsafe {
            if libc::sched_getscheduler(0) == libc::SCHED_OTHER {
                libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters);
            }
        }
    }
}

/// Who is recorded for what the command line changes.
const OPERATOR: &str = "operator";

/// Works on the keys and grants of the catalog, which has to be there.
async fn with_keeper<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(Keeper<'_>) -> Result<T>,
) -> Result<T> {
    let catalog = Catalog::open_existing(&settings.database).await?;
    let operator = Caller::from_stored(OPERATOR);
    let keeper = Keeper { catalog: &catalog, by: &operator, now_us: Clock::system().now_us() };
    let done = work(keeper).await;
    catalog.close().await;
    done
}

/// Prints a line. A reader that hung up, as `head` does, does not stop the work.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
