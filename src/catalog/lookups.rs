//! Looking tables up by their names, which nearly every request begins with.
//!
//! A connection to SQLite is a thread of its own: waking it takes longer than finding a row. Those who
//! ask while it is at work are answered by the next statement together.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::readers::Readers;
use super::{Connection, Session, Tx, failed, tables};
use crate::error::{Error, Result};
use crate::model::{Table, TableId};

/// How many statements run at once: while the answers of one are sent, another is at work.
const ASKING: usize = 2;

/// Where those who ask wait for the next statement.
#[derive(Clone)]
pub(super) struct Lookups(mpsc::UnboundedSender<Lookup>);

struct Lookup {
    id: TableId,
    answer: oneshot::Sender<Result<Option<Table>>>,
}

impl Lookups {
    /// Starts the tasks that ask; they end when the last handle is dropped.
    pub(super) fn start(readers: &Readers) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..ASKING {
            tokio::spawn(serve(readers.clone(), receiver.clone()));
        }
        Self(sender)
    }

    /// The table as it is at some moment between the call and the answer.
    pub(super) async fn find(&self, id: &TableId) -> Result<Option<Table>> {
        let (answer, found) = oneshot::channel();
        let ended = || Error::internal("reading a table", "whoever reads it has ended");
        self.0.send(Lookup { id: id.clone(), answer }).map_err(|_| ended())?;
        found.await.map_err(|_| ended())?
    }
}

async fn serve(readers: Readers, receiver: Arc<Mutex<mpsc::UnboundedReceiver<Lookup>>>) {
    let mut waiting = Vec::new();
    loop {
        if receiver.lock().await.recv_many(&mut waiting, tables::MOST_AT_ONCE).await == 0 {
            return;
        }
        let ids: Vec<&TableId> = waiting.iter().map(|lookup| &lookup.id).collect();
        let found = async {
            let reader = readers.acquire().await;
            let reader = reader.map_err(|error| failed(error, "connecting to the catalog"))?;
            tables::find_tables(&mut Tx::on(Connection::Sqlite(Session::Read(reader))), &ids).await
        };
        // Whoever asked may be gone.
        match found.await {
            Ok(found) => {
                for (lookup, table) in waiting.drain(..).zip(found) {
                    let _ = lookup.answer.send(Ok(table));
                }
            }
            Err(error) => {
                for lookup in waiting.drain(..) {
                    let _ = lookup.answer.send(Err(error.for_another("reading a table")));
                }
            }
        }
    }
}
