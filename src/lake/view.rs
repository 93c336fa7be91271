//! Rows of one table as another stores them.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::StreamExt;
use lance::datatypes::Field as LanceField;
use lance_io::stream::RecordBatchStream;
use serde::{Deserialize, Serialize};

use super::add_columns::{COMPUTED_KEY, check_new_name};
use super::{Batches, Query, Selection, Snapshot};
use crate::error::{Error, Result};

/// Which rows and columns of its source a view shows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ViewQuery {
    pub selection: Selection,
    /// A SQL expression.
    pub filter: Option<String>,
    pub limit: Option<u64>,
    pub offset: Option<u64>,
}

impl ViewQuery {
    fn query(&self) -> Query {
        Query {
            selection: self.selection.clone(),
            filter: self.filter.clone(),
            limit: self.limit,
            offset: self.offset,
            ..Query::default()
        }
    }
}

impl Snapshot {
    /// The schema of the rows, without reading any.
    ///
    /// # Errors
    /// As [`Snapshot::query`]; `InvalidInput` for a column that no table can have under the name
    /// that it would get, `Unsupported` for one whose values stand outside of its rows.
    pub async fn view_schema(&self, view: &ViewQuery) -> Result<SchemaRef> {
        self.check_inline(&view.selection)?;
        let (snapshot, query) = (self.clone(), view.query());
        let planning = async move {
            let plan = snapshot.plan(snapshot.dataset.scan(), &query).await?;
            Ok(snapshot.execute(plan, &query)?.schema())
        };
        let schema = self.readers.run(Box::pin(planning)).await?;
        stored(&schema)
    }

    /// The rows, read as they are taken.
    ///
    /// # Errors
    /// As [`Self::view_schema`].
    pub async fn view_rows(&self, view: &ViewQuery) -> Result<Batches> {
        self.check_inline(&view.selection)?;
        let Batches { schema, stream } = self.query(&view.query()).await?;
        let schema = stored(&schema)?;
        let of_the_view = schema.clone();
        let stream = stream.map(move |batch| with_schema(&batch?, &of_the_view));
        Ok(Batches { schema, stream: stream.boxed() })
    }

    /// A blob is read as the place where it stands, which is nothing to another table.
    fn check_inline(&self, selection: &Selection) -> Result<()> {
        let schema = self.dataset.schema();
        let of_path =
            |path: &String| schema.resolve(path).and_then(|fields| fields.first().copied());
        let shown: Vec<&LanceField> = match selection {
            Selection::All => schema.fields.iter().collect(),
            Selection::Columns(paths) => paths.iter().filter_map(of_path).collect(),
            Selection::Aliases(aliases) => aliases.values().filter_map(of_path).collect(),
            Selection::Expressions(_) => {
                return Err(Error::Unsupported(
                    "a view shows columns of its source, not expressions over them".into(),
                ));
            }
        };
        match shown.into_iter().find(|field| holds_blob(field)) {
            None => Ok(()),
            Some(field) => Err(Error::Unsupported(format!(
                "column '{}' holds blobs, which a view cannot show: name the other columns",
                field.name
            ))),
        }
    }
}

fn holds_blob(field: &LanceField) -> bool {
    field.is_blob() || field.children.iter().any(holds_blob)
}

/// What is computed in the source is plain in the view.
fn stored(schema: &Schema) -> Result<SchemaRef> {
    let plain = |field: &Arc<Field>| {
        check_new_name(field.name()).map_err(|error| {
            Error::invalid_input(format!("{error}: give it another by column_aliases"))
        })?;
        let mut metadata = field.metadata().clone();
        metadata.remove(COMPUTED_KEY);
        Ok(field.as_ref().clone().with_metadata(metadata))
    };
    let fields = schema.fields().iter().map(plain).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

fn with_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
        .map_err(|error| Error::internal("reading the rows of a view", error))
}
