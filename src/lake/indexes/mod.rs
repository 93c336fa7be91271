//! Indexes: what they are built with, building, dropping.

mod describe;
mod kind;
mod scalar;
mod vector;

use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::vector::{VectorIndexParams, has_vectors_to_train};
use lance_core::datatypes::{format_field_path, parse_field_path};
use lance_index::scalar::{InvertedIndexParams, ScalarIndexParams};
use lance_index::{IndexParams, is_system_index};
use lance_table::format::IndexMetadata;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Changed, Location, Snapshot, Terms, failure, remove_folder};
use crate::error::{Error, Result};

pub use describe::Index;
pub use kind::IndexKind;
pub use scalar::TextOptions;
pub use vector::VectorOptions;

/// The folder of a table that holds its indexes; Lance's own choice.
const INDICES_DIR: &str = "_indices";
const MAX_NAME_BYTES: usize = 256;
/// Names that begin so are Lance's own.
const RESERVED: &str = "__lance";

/// What is done when the table has an index of that name on the same column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existing {
    /// The new one takes its place in the same version, whatever the kinds.
    Replace,
    Refuse,
}

/// An index to be built, as a caller asked for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewIndex {
    /// A path of fields: `a.b`, and backticks around a name with dots.
    pub column: String,
    pub kind: IndexKind,
    /// Lance's own `<column>_idx` when absent.
    pub name: Option<String>,
    pub existing: Existing,
    pub vector: VectorOptions,
    pub text: TextOptions,
}

/// What Lance builds it with, on one version.
struct Plan {
    /// The column as Lance writes it.
    path: String,
    field_id: i32,
    params: Params,
}

enum Params {
    Vector(VectorIndexParams),
    Text(InvertedIndexParams),
    Scalar(ScalarIndexParams),
}

impl Params {
    fn as_lance(&self) -> &dyn IndexParams {
        match self {
            Self::Vector(params) => params,
            Self::Text(params) => params,
            Self::Scalar(params) => params,
        }
    }
}

impl Snapshot {
    /// Whether the index can be built on this version, as far as its schema and manifest tell.
    ///
    /// # Errors
    /// `TableColumnNotFound`; `TableIndexAlreadyExists` for a name that another column's index has;
    /// `InvalidInput` that says what does not fit.
    pub async fn check_index(&self, index: &NewIndex) -> Result<()> {
        let plan = self.plan_index(index).await?;
        check_name(&self.dataset, index, &plan).await.map_err(|error| self.failed(error))?
    }

    /// Builds an index and puts the version that has it; answers its name. `uuid` will be the
    /// index's own.
    ///
    /// # Errors
    /// As [`Self::check_index`], and `InvalidInput` for data that no index can be trained on. Then
    /// nothing is left behind.
    pub async fn build_index(
        &self,
        terms: &Terms,
        index: &NewIndex,
        uuid: Uuid,
    ) -> Changed<String> {
        let (snapshot, index) = (self.clone(), index.clone());
        let work = move |dataset| async move { snapshot.build(dataset, &index, uuid).await };
        let changed = self.on_build_threads().change(terms, work).await;
        if let Err(error) = &changed.outcome
            && error.is_certainly_not_committed()
            && changed.landed.is_empty()
            && !self.is_listed_now(uuid).await
        {
            self.remove_index_files(uuid).await;
        }
        changed
    }

    /// Reads an index into the memory that is kept between requests, as far as it fits.
    pub async fn prewarm_index(&self, name: &str) -> Result<()> {
        let (snapshot, name) = (self.clone(), name.to_owned());
        let reading = async move {
            let read = snapshot.dataset.prewarm_index(&name).await;
            read.map_err(|error| snapshot.failed(error))
        };
        self.readers.run(reading).await
    }

    /// Whether the newest version has the index: another run of the same job may have landed it.
    async fn is_listed_now(&self, uuid: Uuid) -> bool {
        let listed = async {
            let newest = self.lake.list_manifests(&self.location).await?.pop();
            let version = newest.map_or(self.version(), |newest| newest.version);
            let newest = self.lake.snapshot(&self.location, version).await?;
            let indexes = newest.dataset.load_indices().await;
            let indexes = indexes.map_err(|error| self.failed(error))?;
            Ok::<bool, Error>(indexes.iter().any(|index| index.uuid == uuid))
        };
        listed.await.unwrap_or(true)
    }

    /// Takes all segments of an index out of the table. `false` when there is none of that name.
    pub async fn drop_index(&self, terms: &Terms, name: &str) -> Changed<bool> {
        let (name, location) = (name.to_owned(), self.location.clone());
        let work = move |mut dataset: Dataset| async move {
            if name.starts_with(RESERVED) {
                return Ok(false);
            }
            match dataset.drop_index(&name).await {
                Ok(()) => Ok(true),
                Err(lance::Error::IndexNotFound { .. }) => Ok(false),
                Err(error) => Err(failure::from_lance(error, &location)),
            }
        };
        self.change(terms, work).await
    }

    /// The same version, changed on threads that nobody reads on.
    fn on_build_threads(&self) -> Self {
        Self { readers: self.lake.builders.clone(), ..self.clone() }
    }

    async fn build(&self, mut dataset: Dataset, index: &NewIndex, uuid: Uuid) -> Result<String> {
        let plan = self.plan_index(index).await?;
        check_name(&dataset, index, &plan).await.map_err(|error| self.failed(error))??;
        if let Params::Vector(params) = &plan.params {
            let least = vector::minimum_vectors(params);
            let enough = has_vectors_to_train(&dataset, &plan.path, least).await;
            if !enough.map_err(|error| self.failed(error))? {
                return Err(too_few(index, least));
            }
        }
        let columns = [plan.path.as_str()];
        let kind = index.kind.lance_type();
        let mut builder = dataset
            .create_index_builder(&columns, kind, plan.params.as_lance())
            .replace(index.existing == Existing::Replace)
            .index_uuid(uuid);
        if let Some(name) = &index.name {
            builder = builder.name(name.clone());
        }
        let built = builder.await.map_err(|error| build_failed(error, &self.location))?;
        Ok(built.name)
    }

    async fn plan_index(&self, index: &NewIndex) -> Result<Plan> {
        let (path, field_id) = self.checked_column(index)?;
        let kind = index.kind;
        let out_of_place = index
            .vector
            .out_of_place(kind)
            .or_else(|| if kind == IndexKind::Fts { None } else { index.text.first_given() });
        if let Some(option) = out_of_place {
            return Err(Error::invalid_input(format!("a {} index has no {option}", kind.as_str())));
        }
        let params = if kind.is_vector() {
            let data_type = self.data_type_of(field_id)?;
            let column = vector::VectorColumn::of(&path, &data_type)?;
            let rows = self.num_rows().await?;
            let params = vector::params(kind, &index.vector, &column, rows)?;
            let least = vector::minimum_vectors(&params);
            if rows == 0 || (!column.is_multi() && rows < least as u64) {
                return Err(too_few(index, least));
            }
            Params::Vector(params)
        } else if kind == IndexKind::Fts {
            Params::Text(index.text.params()?)
        } else {
            let kind = kind.lance_type().try_into().map_err(|error| self.failed(error))?;
            Params::Scalar(ScalarIndexParams::for_builtin(kind))
        };
        Ok(Plan { path, field_id, params })
    }

    fn data_type_of(&self, field_id: i32) -> Result<arrow::datatypes::DataType> {
        let field = self.dataset.schema().field_by_id(field_id);
        field.map(|field| field.data_type()).ok_or_else(|| {
            Error::internal("planning an index", "a field that was found is not there")
        })
    }

    /// The column's path as Lance writes it, and its field.
    fn checked_column(&self, index: &NewIndex) -> Result<(String, i32)> {
        let schema = self.dataset.schema();
        let given: String = index.column.chars().take(256).collect();
        if parse_field_path(&index.column).is_err() {
            return Err(Error::invalid_input(format!(
                "'{given}' is not a path of fields: join names with dots, and put a name with dots \
                 into backticks"
            )));
        }
        let found: Option<Vec<_>> = schema.resolve_case_insensitive(&index.column);
        let through_lists = || scalar::resolve_through_lists(schema, &index.column);
        let (path, field) = match found {
            Some(ref fields) => {
                let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                (format_field_path(&names), fields.last().copied())
            }
            None if index.kind == IndexKind::Fts => (index.column.clone(), through_lists()),
            None => (index.column.clone(), None),
        };
        let Some(field) = field else {
            let columns: Vec<&str> =
                schema.fields.iter().take(32).map(|field| field.name.as_str()).collect();
            return Err(Error::TableColumnNotFound(format!(
                "the table has no column '{given}'; it has: {}",
                columns.join(", ")
            )));
        };
        let leads_through_a_list = found
            .iter()
            .flatten()
            .rev()
            .skip(1)
            .any(|parent| !matches!(parent.data_type(), arrow::datatypes::DataType::Struct(_)));
        if leads_through_a_list && index.kind != IndexKind::Fts {
            return Err(Error::invalid_input(format!(
                "'{given}' leads into a list or a map: only an FTS index is built on what is in one"
            )));
        }
        scalar::check_column(index.kind, &path, field)?;
        Ok((path, field.id))
    }

    /// A failure here leaves files that Lance's own clean-up removes in time.
    async fn remove_index_files(&self, uuid: Uuid) {
        let removed = async {
            let (store, base) = self.lake.store(&self.location).await?;
            let folder = base.join(INDICES_DIR).join(uuid.to_string());
            remove_folder(&store, folder, &self.location).await
        };
        if let Err(error) = removed.await {
            tracing::warn!(%error, "the files of an index that was not built stay");
        }
    }
}

/// # Errors
/// The inner one: `InvalidInput` for a name that no index may have, `TableIndexAlreadyExists`.
async fn check_name(dataset: &Dataset, index: &NewIndex, plan: &Plan) -> lance::Result<Result<()>> {
    let Some(name) = &index.name else {
        let indices = dataset.load_indices().await?;
        // Lance's own name; where another column's index has it, it finds another.
        let name = format!("{}_idx", index.column);
        let is_taken = |known: &IndexMetadata| {
            known.name == name && known.keyed_field() == Some(plan.field_id)
        };
        if index.existing == Existing::Refuse && indices.iter().any(is_taken) {
            return Ok(Err(Error::TableIndexAlreadyExists(format!(
                "index '{name}' exists already"
            ))));
        }
        return Ok(Ok(()));
    };
    let is_name = !name.trim().is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.chars().any(|c| c.is_control() || c == '/')
        && !name.starts_with(RESERVED);
    if !is_name {
        return Ok(Err(Error::invalid_input(format!(
            "an index name has 1 to {MAX_NAME_BYTES} bytes, no '/' and no control characters, and \
             does not begin with '{RESERVED}'"
        ))));
    }
    let indices = dataset.load_indices().await?;
    let named: Vec<&IndexMetadata> =
        indices.iter().filter(|found| found.name == *name && !is_system_index(found)).collect();
    let other = named.iter().find(|found| found.keyed_field() != Some(plan.field_id));
    if let Some(other) = other {
        let fields = other.fields.iter();
        let on: Vec<String> =
            fields.filter_map(|id| dataset.schema().field_path_minimal(*id).ok()).collect();
        return Ok(Err(Error::TableIndexAlreadyExists(format!(
            "index '{name}' exists already, on column '{}': give another name",
            on.join(", ")
        ))));
    }
    if !named.is_empty() && index.existing == Existing::Refuse {
        return Ok(Err(Error::TableIndexAlreadyExists(format!("index '{name}' exists already"))));
    }
    Ok(Ok(()))
}

fn too_few(index: &NewIndex, least: usize) -> Error {
    let column: String = index.column.chars().take(256).collect();
    let kind = index.kind.as_str();
    let rather =
        if least > 1 { ", or build IVF_FLAT, which needs no training of codes" } else { "" };
    Error::invalid_input(format!(
        "a {kind} index is trained on at least {least} vectors, and '{column}' holds fewer: add \
         rows first{rather}"
    ))
}

/// Lance calls a fault of the data an error of the index.
fn build_failed(error: lance::Error, location: &Location) -> Error {
    match error {
        lance::Error::Index { message, .. } if message.contains("already exists") => {
            Error::TableIndexAlreadyExists(failure::said(&message, location))
        }
        // Vectors that are not finite do not count.
        lance::Error::Unprocessable { message, .. } if message.contains("KMeans cannot train") => {
            Error::invalid_input(format!(
                "the index cannot be trained: the column holds too few vectors of finite numbers: {}",
                failure::said(&message, location)
            ))
        }
        lance::Error::Index { message, .. } => Error::invalid_input(format!(
            "the index cannot be built: {}",
            failure::said(&message, location)
        )),
        error => failure::from_lance(error, location),
    }
}
