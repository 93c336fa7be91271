//! Threads for reading, and others for building indexes.
//!
//! Planning and evaluating an expression can take a core for long, and a deep expression takes a
//! deep stack: neither is for the threads that answer requests. Training an index takes cores for
//! minutes: that is not for the threads that read either.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};

/// Room for the deepest expression that is served. Memory is taken only as far as a stack reaches.
const STACK_BYTES: usize = 64 << 20;
const MIN_THREADS: usize = 2;

/// A handle on the threads; they end after the last handle is gone.
#[derive(Clone)]
pub(super) struct Readers(Arc<Pool>);

struct Pool(Option<Runtime>);

impl Readers {
    /// # Errors
    /// `Internal` when the system gives no threads.
    pub(super) fn start(name: &str) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(MIN_THREADS, usize::from);
        let runtime = Builder::new_multi_thread()
            .thread_name(name)
            .worker_threads(cores.max(MIN_THREADS))
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| Error::internal("starting the threads for reading", error))?;
        Ok(Self(Arc::new(Pool(Some(runtime)))))
    }

    /// Runs `work` on these threads; it stops at its next await when the handle is dropped.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<AbortOnDropHandle<T>> {
        let runtime = self.0.0.as_ref().ok_or_else(stopped)?;
        Ok(AbortOnDropHandle::new(runtime.spawn(work)))
    }

    /// Runs `work` on these threads to its end.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.spawn(work)?.await.map_err(failed)?
    }
}

/// What it means that `work` did not come to its end.
pub(super) fn failed(error: JoinError) -> Error {
    if error.is_panic() { Error::internal("reading the table panicked", error) } else { stopped() }
}

fn stopped() -> Error {
    Error::ServiceUnavailable("the server is stopping: nothing more is read".into())
}

impl Drop for Pool {
    /// The default would wait for the threads, which a thread of another runtime must not.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_threads_live_on() {
        let readers = Readers::start("reading").expect("threads");
        let outcome: Result<()> = readers.run(async { panic!("on purpose") }).await;
        assert!(matches!(outcome, Err(Error::Internal { .. })), "{outcome:?}");
        assert_eq!(readers.run(async { Ok(1) }).await.expect("a number"), 1);
    }

    #[tokio::test]
    async fn dropping_the_handle_stops_the_work() {
        let readers = Readers::start("reading").expect("threads");
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let handle = readers.spawn(async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(handle.expect("a task"));
        assert!(receiver.await.is_err());
    }
}
