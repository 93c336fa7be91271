//! Threads for reading, and others for building indexes.
//!
//! Planning and evaluating an expression can take a core for long, and a deep expression takes a
//! deep stack: neither is for the threads that answer requests. Training an index takes cores for
//! minutes: that is not for the threads that read either.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use futures::FutureExt;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};

/// Room for the deepest expression that is served. Memory is taken only as far as a stack reaches.
const STACK_BYTES: usize = 64 << 20;
const MIN_THREADS: usize = 2;

tokio::task_local! {
    /// Whether the work has taken an expression of a caller.
    static EXPRESSION: Arc<AtomicBool>;
}

/// Says that the work on these threads evaluates an expression of a caller: if it panics from then
/// on, that is the expression's fault.
pub(super) fn takes_expression() {
    // Elsewhere there is nobody to tell.
    let _ = EXPRESSION.try_with(|taken| taken.store(true, Ordering::Relaxed));
}

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
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<AbortOnDropHandle<Result<T>>> {
        let runtime = self.0.0.as_ref().ok_or_else(stopped)?;
        let taken = Arc::new(AtomicBool::new(false));
        let work = EXPRESSION.scope(taken.clone(), AssertUnwindSafe(work).catch_unwind());
        let outcome = work.map(move |outcome| {
            outcome.unwrap_or_else(|panic| Err(panicked(taken.load(Ordering::Relaxed), &*panic)))
        });
        Ok(AbortOnDropHandle::new(runtime.spawn(outcome)))
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

/// Functions of expressions may panic at values that they did not expect.
fn panicked(took_expression: bool, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    if took_expression {
        tracing::warn!(panic = text, "an expression panicked");
        Error::invalid_input("the expression cannot be evaluated")
    } else {
        Error::internal("reading the table panicked", text)
    }
}

fn stopped() -> Error {
    Error::ServiceUnavailable("the server is stopping: nothing more is read".into())
}

impl Drop for Pool {
    /// The default would wait for the threads, which a thread of another runtime must not. To let
    /// them run on unwatched is no better: a process that ends under them may crash in its exit.
    /// So a thread of its own waits for them.
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else { return };
        let (hand_over, taken) = mpsc::channel::<Runtime>();
        let waiting = std::thread::Builder::new().name("tiltyard-end".into());
        let waiting = waiting.spawn(move || drop(taken.recv()));
        if let Err(unsent) = hand_over.send(runtime) {
            // The system gave no thread, and took the receiver with it.
            unsent.0.shutdown_background();
        }
        drop(waiting);
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
        let work = async {
            takes_expression();
            panic!("at a value")
        };
        let outcome: Result<()> = readers.run(work).await;
        assert!(matches!(outcome, Err(Error::InvalidInput(_))), "{outcome:?}");
        assert_eq!(readers.run(async { Ok(1) }).await.expect("a number"), 1);
    }

    #[tokio::test]
    async fn dropping_the_handle_stops_the_work() {
        let readers = Readers::start("reading").expect("threads");
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let handle = readers.spawn(async move {
            std::future::pending::<()>().await;
            drop(sender);
            Ok(())
        });
        drop(handle.expect("a task"));
        assert!(receiver.await.is_err());
    }
}
