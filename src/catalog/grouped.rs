//! Small writes that wait for each other share one transaction: with many writers the database
//! makes a group of them durable at once, where each alone would wait for its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{Pools, Tx, write};
use crate::error::{Error, Result};

/// The most writes of one transaction.
const AT_ONCE: usize = 64;

/// Where writes wait for the next transaction.
#[derive(Clone)]
pub(super) struct Group(mpsc::UnboundedSender<Box<dyn Member>>);

impl Group {
    /// Starts `writers` tasks, each with a transaction at a time. They end when the last handle is
    /// dropped.
    pub(super) fn start(pools: &Pools, writers: usize) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..writers {
            tokio::spawn(serve(pools.clone(), receiver.clone()));
        }
        Self(sender)
    }

    /// Runs `work` in a transaction that others may share. It may be run twice: an error of any
    /// member rolls the group back, and then each goes alone.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    {
        let (done, answer) = oneshot::channel();
        let ended = |error| Error::internal("writing to the catalog", error);
        let waiting = Box::new(Waiting { work, outcome: None, done });
        self.0.send(waiting).map_err(|_| ended("its writer has ended".to_owned()))?;
        answer.await.map_err(|error| ended(error.to_string()))?
    }
}

/// A write that waits, whatever it answers.
trait Member: Send {
    /// Answers whether it went well.
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> BoxFuture<'t, bool>;
    /// Tells whoever waits what came of it, or why that did not last.
    fn finish(self: Box<Self>, lasted: Result<()>);
}

struct Waiting<T, W> {
    work: W,
    outcome: Option<Result<T>>,
    done: oneshot::Sender<Result<T>>,
}

impl<T, W> Member for Waiting<T, W>
where
    T: Send,
    W: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + Sync,
{
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> BoxFuture<'t, bool> {
        Box::pin(async move {
            let outcome = (self.work)(tx).await;
            let well = outcome.is_ok();
            self.outcome = Some(outcome);
            well
        })
    }

    fn finish(self: Box<Self>, lasted: Result<()>) {
        let outcome = match (self.outcome, lasted) {
            // What it failed with itself says more than that nothing was kept.
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(outcome), Ok(())) => outcome,
            (None, Ok(())) => Err(Error::internal("writing to the catalog", "it was not run")),
        };
        // Whoever waited may be gone.
        let _ = self.done.send(outcome);
    }
}

async fn serve(pools: Pools, receiver: Arc<Mutex<mpsc::UnboundedReceiver<Box<dyn Member>>>>) {
    loop {
        let mut group = Vec::new();
        // Held while waiting: what comes meanwhile goes to one writer, not a bit to each.
        if receiver.lock().await.recv_many(&mut group, AT_ONCE).await == 0 {
            return;
        }
        let together = if group.len() == 1 { None } else { commit(&pools, &mut group).await };
        match together {
            Some(lasted) => finish(group, &lasted),
            None => {
                for member in group {
                    let mut alone = vec![member];
                    let lasted = commit(&pools, &mut alone).await.unwrap_or(Ok(()));
                    finish(alone, &lasted);
                }
            }
        }
    }
}

/// Runs all in one transaction. Answers whether it lasted; `None` when one of them failed, so that
/// nothing was kept.
async fn commit(pools: &Pools, group: &mut [Box<dyn Member>]) -> Option<Result<()>> {
    let mut tx = match write(pools).await {
        Ok(tx) => tx,
        Err(error) => return Some(Err(error)),
    };
    for member in &mut *group {
        if !member.run(&mut tx).await {
            return None;
        }
    }
    // What one of them records or tells of is no other's fault.
    match tx.write_down().await {
        Err(_) if group.len() > 1 => None,
        Err(error) => Some(Err(error)),
        Ok(()) => Some(tx.commit().await),
    }
}

fn finish(group: Vec<Box<dyn Member>>, lasted: &Result<()>) {
    for member in group {
        let lasted = lasted.as_ref().copied();
        member.finish(lasted.map_err(|error| error.for_another("writing to the catalog")));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::catalog::{Catalog, events};
    use crate::model::{Caller, Event, EventKind, NamespaceId, Object};

    #[tokio::test]
    async fn what_one_tells_of_fails_no_other() {
        const REFUSE: &str = "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.at_us = 1 \
            BEGIN SELECT RAISE(ABORT, 'no'); END";
        const TOLD: &str = "SELECT at_us FROM events ORDER BY at_us";
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/catalog.db", folder.path().display());
        let catalog = Catalog::open(&url, 4).await.unwrap();
        catalog.migrate().await.unwrap();
        let Pools::Sqlite { writer, .. } = &catalog.pools else { panic!("SQLite") };
        sqlx::query(REFUSE).execute(writer).await.unwrap();
        // They wait for its end, together.
        let before = catalog.write().await.unwrap();
        let told = (0..3).map(|at_us| {
            let (object, caller) =
                (Object::Namespace(NamespaceId::root()), Caller::from_stored("me"));
            let event = Event::new(EventKind::NamespaceCreated, object, &caller, at_us);
            catalog.write_with_others(move |tx| Box::pin(events::insert_event(tx, event.clone())))
        });
        let told = futures::future::join_all(told);
        let (told, ()) = tokio::join!(told, async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(before);
        });
        assert_eq!(told.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        let found: Vec<i64> = sqlx::query_scalar(TOLD).fetch_all(writer).await.unwrap();
        assert_eq!(found, [0, 2]);
    }
}
