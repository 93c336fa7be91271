//! Changes to the columns that a table has, and to what is kept with them.

use std::collections::{BTreeMap, HashSet};

use arrow::datatypes::DataType;
use lance::Dataset;
use lance::dataset::ColumnAlteration;
use lance::dataset::transaction::UpdateMapEntry;
use lance::datatypes::Schema;
use lance_core::datatypes::{Field, parse_field_path};

use super::add_columns::check_new_name;
use super::storable::check_type;
use super::{Changed, Location, Snapshot, Terms, failure};
use crate::error::{Error, Result};
use crate::model::Properties;

/// Lance's own rules say what goes together with the change of a column.
pub(super) const TERMS: Terms = Terms::REBASE;

/// How the names begin under which formats keep what they need to read a field.
const RESERVED_KEYS: [&str; 5] =
    ["arrow:", "lance-encoding:", "lance-schema:", "lance:", "tiltyard:"];
/// An older name of one of them.
const PACKED_KEY: &str = "packed";

/// A change to one column; what is absent stays.
#[derive(Debug, Clone)]
pub struct Alteration {
    /// The path of the field, as `a.b`, or with backticks where a name holds a dot.
    pub path: String,
    pub rename: Option<String>,
    pub nullable: Option<bool>,
    pub data_type: Option<DataType>,
}

/// A change to the metadata of one field.
#[derive(Debug, Clone)]
pub struct FieldMetadata {
    pub path: String,
    /// What is to be kept; without a value, the key goes.
    pub values: BTreeMap<String, Option<String>>,
    pub others: Others,
}

/// What becomes of the keys that a change does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    Stay,
    Go,
}

impl Snapshot {
    /// Renames columns, changes their types, and whether they may be null, all in one version.
    ///
    /// # Errors
    /// `TableColumnNotFound`; `InvalidInput` for a name that is taken, a type to which the values
    /// cannot be cast, and nulls in what must not be null.
    pub async fn alter_columns(&self, alterations: Vec<Alteration>) -> Changed<()> {
        let location = self.location.clone();
        self.change(&TERMS, move |mut dataset| async move {
            check_alterations(dataset.schema(), &alterations)?;
            let alterations: Vec<ColumnAlteration> =
                alterations.into_iter().map(into_lance).collect();
            let altered = dataset.alter_columns(&alterations).await;
            altered.map_err(|error| failure::from_expression(error, &location))
        })
        .await
    }

    /// Takes columns out of the table; their values stay in the files that older versions read.
    ///
    /// # Errors
    /// `TableColumnNotFound`; `InvalidInput` when no column would be left.
    pub async fn drop_columns(&self, columns: Vec<String>) -> Changed<()> {
        let location = self.location.clone();
        self.change(&TERMS, move |mut dataset| async move {
            let paths = columns_to_drop(dataset.schema(), &columns)?;
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let dropped = dataset.drop_columns(&paths).await;
            dropped.map_err(|error| failure::from_lance(error, &location))
        })
        .await
    }

    /// Changes what is kept with fields, and answers all that is kept with them after it, by path.
    ///
    /// # Errors
    /// `TableColumnNotFound`; `InvalidInput` for a field that is named twice.
    pub async fn update_field_metadata(
        &self,
        updates: Vec<FieldMetadata>,
    ) -> Changed<BTreeMap<String, Properties>> {
        let location = self.location.clone();
        self.change(&TERMS, move |dataset| async move {
            update_field_metadata(dataset, updates, &location).await
        })
        .await
    }

    /// All that is kept with the fields that a change names, by path, as it is in this version.
    ///
    /// # Errors
    /// `TableColumnNotFound`.
    pub fn field_metadata(
        &self,
        updates: &[FieldMetadata],
    ) -> Result<BTreeMap<String, Properties>> {
        let schema = self.dataset.schema();
        let kept = |update: &FieldMetadata| {
            let field = find_field(schema, &update.path)?;
            let path = schema.field_path_minimal(field.id);
            let path = path.map_err(|error| self.failed(error))?;
            Ok((path, field.metadata.clone().into_iter().collect()))
        };
        updates.iter().map(kept).collect()
    }

    /// Puts key-value pairs in the place of those that the schema has.
    pub async fn replace_schema_metadata(&self, metadata: Properties) -> Changed<Properties> {
        let location = self.location.clone();
        self.change(&TERMS, move |mut dataset| async move {
            let replaced = dataset.update_schema_metadata(metadata).replace().await;
            let metadata = replaced.map_err(|error| failure::from_lance(error, &location))?;
            Ok(metadata.into_iter().collect())
        })
        .await
    }
}

pub(super) fn is_reserved(key: &str) -> bool {
    let key = key.to_lowercase();
    key == PACKED_KEY || RESERVED_KEYS.iter().any(|prefix| key.starts_with(prefix))
}

/// # Errors
/// `InvalidInput` for what is no path, `TableColumnNotFound` for one that leads nowhere.
pub(super) fn find_field<'a>(schema: &'a Schema, path: &str) -> Result<&'a Field> {
    parse_field_path(path)
        .map_err(|_| Error::invalid_input(format!("'{path}' is not the path of a field")))?;
    schema.field(path).ok_or_else(|| {
        let known: Vec<&str> =
            schema.fields.iter().map(|field| field.name.as_str()).take(20).collect();
        Error::TableColumnNotFound(format!(
            "the table has no column '{path}'; it has: {}",
            known.join(", ")
        ))
    })
}

fn check_alterations(schema: &Schema, alterations: &[Alteration]) -> Result<()> {
    if alterations.is_empty() {
        return Err(Error::invalid_input("alterations names no column to alter"));
    }
    let mut altered = schema.clone();
    let mut seen = HashSet::new();
    for Alteration { path, rename, nullable, data_type } in alterations {
        let field = find_field(schema, path)?;
        if rename.is_none() && nullable.is_none() && data_type.is_none() {
            return Err(Error::invalid_input(format!(
                "nothing is to change in column '{path}': give rename, nullable or data_type"
            )));
        }
        if let Some(data_type) = data_type {
            check_type(path, data_type)?;
        }
        if !seen.insert(field.id) {
            return Err(Error::invalid_input(format!("the column '{path}' is named twice")));
        }
        if let Some(name) = rename {
            check_new_name(name)?;
            if let Some(renamed) = altered.mut_field_by_id(field.id) {
                renamed.name.clone_from(name);
            }
        }
    }
    check_distinct(&altered.fields)
}

fn check_distinct(siblings: &[Field]) -> Result<()> {
    let mut seen = HashSet::new();
    for field in siblings {
        if !seen.insert(field.name.as_str()) {
            return Err(Error::invalid_input(format!(
                "two columns would have the name '{}'",
                field.name
            )));
        }
        check_distinct(&field.children)?;
    }
    Ok(())
}

fn into_lance(alteration: Alteration) -> ColumnAlteration {
    let Alteration { path, rename, nullable, data_type } = alteration;
    ColumnAlteration { path, rename, nullable, data_type }
}

fn columns_to_drop(schema: &Schema, columns: &[String]) -> Result<Vec<String>> {
    if columns.is_empty() {
        return Err(Error::invalid_input("columns names no column to drop"));
    }
    let mut seen = HashSet::new();
    let mut paths = Vec::with_capacity(columns.len());
    for path in columns {
        if seen.insert(find_field(schema, path)?.id) {
            paths.push(path.clone());
        }
    }
    Ok(paths)
}

async fn update_field_metadata(
    mut dataset: Dataset,
    updates: Vec<FieldMetadata>,
    location: &Location,
) -> Result<BTreeMap<String, Properties>> {
    if updates.is_empty() {
        return Err(Error::invalid_input("updates names no field"));
    }
    let failed = |error| failure::from_lance(error, location);
    let mut fields = Vec::with_capacity(updates.len());
    for update in &updates {
        let id = find_field(dataset.schema(), &update.path)?.id;
        if fields.contains(&id) {
            let path = &update.path;
            return Err(Error::invalid_input(format!("the field '{path}' is named twice")));
        }
        if let Some(key) = update.values.keys().find(|key| is_reserved(key)) {
            let shown: String = key.chars().take(64).collect();
            return Err(Error::invalid_input(format!(
                "the key '{}' is not a caller's: '{PACKED_KEY}' and those that begin with {} say \
                 how the field is read",
                shown.escape_debug(),
                RESERVED_KEYS.join(", ")
            )));
        }
        fields.push(id);
    }
    let kept = |id: i32| -> Vec<UpdateMapEntry> {
        let field = dataset.schema().field_by_id(id);
        let pairs = field.iter().flat_map(|field| &field.metadata);
        let reserved = pairs.filter(|(key, _)| is_reserved(key));
        reserved
            .map(|(key, value)| UpdateMapEntry { key: key.clone(), value: Some(value.clone()) })
            .collect()
    };
    let kept: Vec<_> = fields.iter().map(|id| kept(*id)).collect();
    let mut builder = dataset.update_field_metadata();
    for ((id, kept), FieldMetadata { values, others, .. }) in fields.iter().zip(kept).zip(updates) {
        let values = values.into_iter().map(|(key, value)| UpdateMapEntry { key, value });
        builder = match others {
            Others::Stay => builder.update(*id, values),
            Others::Go => {
                builder.replace(*id, kept.into_iter().chain(values.filter(|e| e.value.is_some())))
            }
        }
        .map_err(failed)?;
    }
    let schema = builder.await.map_err(failed)?;
    let of_field = |id: &i32| {
        let path = schema.field_path_minimal(*id).map_err(failed)?;
        let field = schema.field_by_id(*id);
        let metadata = field.map(|field| field.metadata.clone()).unwrap_or_default();
        Ok((path, metadata.into_iter().collect()))
    };
    fields.iter().map(of_field).collect()
}
