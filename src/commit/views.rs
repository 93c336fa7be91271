//! Materialized views: tables whose rows are those of a query over another table.

use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    CommitOutcome, CommitRequest, CreateMode, Engine, Home, NewLocation, NewTable, OnConflict,
    StagedUpload, UploadsAfter,
};
use crate::catalog::{namespaces, tables, views};
use crate::error::{Error, Result};
use crate::lake::{Batches, Change, ViewQuery, WriteMode, WriteOptions};
use crate::model::{Caller, Job, JobKind, Properties, Table, TableId, View};

/// How long rows that are written wait for others who replace the view's rows at the same time.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// What a version of a view tells of the rows that it was made of.
const SOURCE_VERSION: &str = "source_version";

/// A view to be made.
#[derive(Debug, Clone)]
pub struct NewView {
    pub source: TableId,
    pub query: ViewQuery,
    /// What the caller expects it to have, in any order.
    pub output_schema: Option<SchemaRef>,
    pub rows: FirstRows,
}

/// What a new view holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRows {
    None,
    /// Those of the query, as soon as a job has read them.
    OfTheQuery,
}

/// A view that was made.
pub struct CreatedView {
    pub version: u64,
    /// What fills it.
    pub job: Option<Uuid>,
}

/// How a view is made anew.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Refresh {
    /// The version of the source; the newest when the job gets to it when absent.
    pub source_version: Option<u64>,
    pub max_rows_per_fragment: Option<usize>,
}

impl Engine {
    /// Makes a view: a table of its own, without rows at first.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `TableAlreadyExists`, `TableNotFound` for the source,
    /// `TableSchemaValidation` for an output schema that is another; as [`Engine::open`] for the
    /// source, and `InvalidInput` and `TableColumnNotFound` for the query. Nothing is made then.
    pub async fn create_view(
        &self,
        id: &TableId,
        new: &NewView,
        caller: &Caller,
    ) -> Result<CreatedView> {
        let source = {
            let mut tx = self.catalog.read().await?;
            namespaces::get_namespace(&mut tx, &id.namespace).await?;
            if tables::find_table(&mut tx, id).await?.is_some() {
                return Err(Error::TableAlreadyExists(id.clone()));
            }
            tables::get_table(&mut tx, &new.source).await?
        };
        let schema = self.open(&source, None).await?.view_schema(&new.query).await?;
        if let Some(expected) = &new.output_schema {
            check_output(expected, &schema)?;
        }
        let query = serde_json::to_string(&new.query)
            .map_err(|error| Error::internal("noting a view", error))?;
        let view = View { source_key: source.key, query };
        let nothing = Batches { schema, stream: futures::stream::empty().boxed() };
        let table = NewTable {
            id,
            mode: CreateMode::Create,
            location: NewLocation::Own,
            properties: Properties::new(),
            home: Home::Known,
        };
        let created = self.create_new(table, nothing, Some(&view), caller).await?;
        let job = match new.rows {
            FirstRows::None => None,
            FirstRows::OfTheQuery => {
                let (kind, refresh) = (JobKind::RefreshView, Refresh::default());
                Some(self.begin_job(&created.table, kind, &refresh, caller).await?.job)
            }
        };
        Ok(CreatedView { version: created.version, job })
    }

    /// The table that a view is made of.
    ///
    /// # Errors
    /// `InvalidInput` for a table that is no view, and for a view whose source is gone.
    pub async fn source_of_view(&self, view: &Table) -> Result<TableId> {
        self.source_of(view).await.map(|(source, _)| source.id)
    }

    /// Begins to put the rows of the query in the place of those of the view. Answers the job.
    ///
    /// # Errors
    /// `InvalidInput` for a table that is no view, and for a view whose source was dropped;
    /// `TableVersionNotFound` for the source; what the query fails with as the source is now.
    pub async fn begin_refresh(
        &self,
        table: &Table,
        refresh: &Refresh,
        caller: &Caller,
    ) -> Result<Uuid> {
        let (source, query) = self.source_of(table).await?;
        self.open(&source, refresh.source_version).await?.view_schema(&query).await?;
        Ok(self.begin_job(table, JobKind::RefreshView, refresh, caller).await?.job)
    }

    /// Reads the source and replaces the rows of the view in one version, whoever else did so
    /// meanwhile: the last one wins. Done twice, the second has the same rows. Answers the version.
    pub(super) async fn run_refresh(
        &self,
        table: &Table,
        job: &Job,
        caller: &Caller,
    ) -> Result<Option<u64>> {
        let refresh: Refresh = Self::request_of(job)?;
        let (source, query) = self.source_of(table).await?;
        let snapshot = self.open(&source, refresh.source_version).await?;
        let source_version = snapshot.version();
        let batches = snapshot.view_rows(&query).await?;
        let options = WriteOptions {
            max_rows_per_file: refresh.max_rows_per_fragment,
            ..WriteOptions::default()
        };
        let mode = Some(WriteMode::Overwrite);
        let staged = self.upload_fragments(table, mode, batches, &options, caller).await?;
        let outcome = match self.replace_rows(table, &staged, source_version, caller).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let upload = staged.upload.key;
                if error.is_certainly_not_committed()
                    && let Err(failure) = self.abort_upload(table, upload, caller).await
                {
                    tracing::warn!(upload.id = %upload, error = %failure, "could not abort yet");
                }
                return Err(error);
            }
        };
        tracing::info!(
            table.id = %table.id, source.id = %source.id, source_version,
            version = outcome.version, num_rows = outcome.num_rows, "refreshed a view"
        );
        Ok(Some(outcome.version))
    }

    /// Two that replace all rows are in each other's way; the rows stand, so that only the commit
    /// goes again.
    async fn replace_rows(
        &self,
        table: &Table,
        staged: &StagedUpload,
        source_version: u64,
        caller: &Caller,
    ) -> Result<CommitOutcome> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let read_version = self.latest(table).await?.map_or(0, |last| last.manifest.version);
            let request = CommitRequest {
                change: Change::Overwrite,
                read_version,
                fragments: Vec::new(),
                uploads: vec![staged.upload.key],
                session: None,
                schema: None,
                on_conflict: OnConflict::Rebase,
                properties: Properties::from([(SOURCE_VERSION.into(), source_version.to_string())]),
                coalesce: false,
                brought: None,
                uploads_after: UploadsAfter::Kept,
            };
            match self.commit_table(table, request, None, caller).await {
                Err(Error::ConcurrentModification(conflict))
                    if conflict.retryable && Instant::now() < deadline =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// # Errors
    /// `InvalidInput` for a table that is no view, and for a view whose source was dropped.
    async fn source_of(&self, table: &Table) -> Result<(Table, ViewQuery)> {
        let mut tx = self.catalog.read().await?;
        let Some(view) = views::find_view(&mut tx, table.key).await? else {
            let id = &table.id;
            return Err(Error::invalid_input(format!("table '{id}' is no materialized view")));
        };
        let Some(source) = tables::find_table_by_key(&mut tx, view.source_key).await? else {
            return Err(source_gone(&table.id));
        };
        let query = serde_json::from_str(&view.query)
            .map_err(|error| Error::internal("reading what a view is made of", error))?;
        Ok((source, query))
    }
}

/// What is said of a view whose source is not there, or not for the caller.
pub fn source_gone(view: &TableId) -> Error {
    Error::invalid_input(format!(
        "the table that view '{view}' was made of is not there any more: the view keeps its rows and \
         cannot be refreshed"
    ))
}

/// # Errors
/// `TableSchemaValidation` that names the first column which is another.
fn check_output(expected: &Schema, given: &Schema) -> Result<()> {
    let refused = |name: &str, why: String| {
        let name: String = name.chars().take(200).collect();
        Err(Error::TableSchemaValidation(format!("output_schema: column '{name}' {why}")))
    };
    for field in given.fields() {
        match expected.fields().iter().find(|other| other.name() == field.name()) {
            None => return refused(field.name(), "of the query is missing".into()),
            Some(other) if !same_type(other.data_type(), field.data_type()) => {
                return refused(
                    field.name(),
                    format!("is {}, and the query has {}", other.data_type(), field.data_type()),
                );
            }
            Some(_) => {}
        }
    }
    let mut names: Vec<&String> = expected.fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return refused(twice[0], "is there twice".into());
    }
    match names.into_iter().find(|name| given.field_with_name(name).is_err()) {
        Some(name) => refused(name, "is none of the query".into()),
        None => Ok(()),
    }
}

/// Whether values are of one type. What lists call their items, whether something may be null, and
/// what is kept with fields makes no difference.
fn same_type(one: &DataType, other: &DataType) -> bool {
    let same_fields = |one: &Field, other: &Field| same_type(one.data_type(), other.data_type());
    match (one, other) {
        (DataType::List(one), DataType::List(other))
        | (DataType::LargeList(one), DataType::LargeList(other))
        | (DataType::Map(one, _), DataType::Map(other, _)) => same_fields(one, other),
        (DataType::FixedSizeList(one, width), DataType::FixedSizeList(other, of_other)) => {
            width == of_other && same_fields(one, other)
        }
        (DataType::Struct(one), DataType::Struct(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| one.name() == other.name() && same_fields(one, other))
        }
        _ => one == other,
    }
}
