//! Rows that have to be read more than once: in memory while they are few, then in a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use futures::StreamExt;
use lance_datafusion::exec::provider_to_stream;
use lance_datafusion::spill::spilling_table_provider;
use tokio::sync::oneshot;

use super::write::into_lance;
use super::{Batches, Location, failure};
use crate::error::Result;

/// How much is kept in memory.
const MEMORY_BYTES: usize = 32 << 20;

/// All rows of a request's body. The file, if there is one, goes with the last handle.
#[derive(Clone)]
pub struct Spooled {
    pub schema: SchemaRef,
    pub num_rows: u64,
    pub(super) provider: Arc<dyn TableProvider>,
}

impl Spooled {
    /// Takes in every row, so that what is done with them waits for no client.
    ///
    /// # Errors
    /// What the stream of batches ends with.
    pub async fn receive(batches: Batches, location: &Location) -> Result<Self> {
        let schema = batches.schema.clone();
        let num_rows = Arc::new(AtomicU64::new(0));
        let counted = num_rows.clone();
        let (done, all_in) = oneshot::channel();
        let mut done = Some(done);
        let end = futures::stream::poll_fn(move |_| {
            // The stream ended well; one that ended with an error is dropped before this.
            done.take().map(|done| done.send(()));
            Poll::Ready(None)
        });
        let stream = batches.stream.inspect(move |batch| {
            let rows = batch.as_ref().map_or(0, |batch| batch.num_rows());
            counted.fetch_add(rows as u64, Ordering::Relaxed);
        });
        let batches = Batches { schema: schema.clone(), stream: stream.chain(end).boxed() };
        let (stream, failure) = into_lance(batches);
        let provider = spilling_table_provider(stream, MEMORY_BYTES).await;
        let provider = provider.map_err(|error| failure::from_datafusion(error, location))?;
        if all_in.await.is_err() {
            let unknown = lance::Error::io("the rows could not be kept for the change");
            return Err(failure.or(unknown, location));
        }
        Ok(Self { schema, num_rows: num_rows.load(Ordering::Relaxed), provider })
    }

    /// All rows, from the first.
    pub async fn batches(&self, location: &Location) -> Result<Batches> {
        let stream = provider_to_stream(self.provider.clone()).await;
        let stream = stream.map_err(|error| failure::from_lance(error, location))?;
        let location = location.clone();
        let stream = stream
            .map(move |batch| batch.map_err(|error| failure::from_datafusion(error, &location)));
        Ok(Batches { schema: self.schema.clone(), stream: stream.boxed() })
    }
}
