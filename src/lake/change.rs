//! Changes that Lance plans and commits itself: our guard stands in its way to storage, so that each
//! version is checked before it is put and known once it stands.

use std::sync::Arc;

use lance::Dataset;
use tokio::time::Instant;

use super::Snapshot;
use super::guard::{Guard, Landed, Ledger};
use crate::error::{Error, Result};

/// What is done when others commit while a change is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Lance's own rules: what goes together lands, what does not is refused.
    Rebase,
    /// Refuse: the change is right only on top of exactly the version that it read.
    Refuse,
}

/// What a change must respect.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub meanwhile: Meanwhile,
    /// When it is given up, unless its first put has begun.
    pub until: Option<Instant>,
}

impl Terms {
    /// Lance's own rules, for as long as it takes.
    pub const REBASE: Self = Self { meanwhile: Meanwhile::Rebase, until: None };
}

/// How a change went, and the versions that stand because of it, whichever way it went.
pub struct Changed<T> {
    pub outcome: Result<T>,
    pub landed: Vec<Landed>,
    /// Whether storage was asked to take a version, whatever it answered.
    pub put_begun: bool,
}

impl<T> Changed<T> {
    /// One that ended before anything was tried.
    pub(super) fn refused(error: Error) -> Self {
        Self { outcome: Err(error), landed: Vec::new(), put_begun: false }
    }
}

impl Snapshot {
    /// Runs a change on this version, on the readers' threads: expressions are planned there.
    pub(super) async fn change<T, W, F>(&self, terms: &Terms, work: W) -> Changed<T>
    where
        T: Send + 'static,
        W: FnOnce(Dataset) -> F + Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let ledger = Ledger::default();
        let outcome = async {
            let dataset = self.guarded(terms, ledger.clone()).await?;
            let work = async move { Box::pin(work(dataset)).await };
            let mut work = std::pin::pin!(self.readers.run(work));
            let Some(until) = terms.until else { return work.await };
            match tokio::time::timeout_at(until, &mut work).await {
                Ok(outcome) => outcome,
                Err(_) if ledger.close() => Err(Error::ServiceUnavailable(
                    "the change took longer than its timeout; nothing was changed".into(),
                )),
                Err(_) => work.await,
            }
        };
        let outcome = outcome.await;
        Changed { outcome, landed: ledger.take(), put_begun: ledger.put_begun() }
    }

    /// The same version, opened so that every put passes through a guard.
    async fn guarded(&self, terms: &Terms, ledger: Ledger) -> Result<Dataset> {
        let guard = Guard {
            expected: (terms.meanwhile == Meanwhile::Refuse).then(|| self.version() + 1),
            fence: self.fence.clone(),
            mark: self.mark.clone(),
            read_version: self.version(),
            ledger,
            ..Guard::new(self.lake.commit_handler(&self.location).await?)
        };
        self.lake.open_with(&self.location, self.version(), Arc::new(guard)).await
    }
}
