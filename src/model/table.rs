use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Branch, Invalid, ManifestEntry, NamespaceId, Result, TableId};

/// What a caller stores with a namespace or a table.
pub type Properties = BTreeMap<String, String>;

/// The property of a namespace or a table that keeps it from being dropped while it is `true`.
pub const DELETION_PROTECTION: &str = "deletion_protection";

/// Whether properties protect what has them from deletion; `None` when they do not say.
///
/// # Errors
/// [`Invalid`] for a value that is neither `true` nor `false`.
pub fn protection_of(properties: &Properties) -> Result<Option<bool>> {
    properties
        .get(DELETION_PROTECTION)
        .map(|word| match word.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Invalid::new(format!(
                "the property {DELETION_PROTECTION} is 'true' or 'false'"
            ))),
        })
        .transpose()
}

/// A namespace as the catalog knows it.
#[derive(Debug, Clone)]
pub struct Namespace {
    pub key: Uuid,
    pub id: NamespaceId,
    pub properties: Properties,
}

/// Whether a table has been written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    /// It has a name and a location, and no version.
    Declared,
    /// It has at least one version.
    Created,
}

impl TableState {
    /// The word that the catalog stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Created => "created",
        }
    }
}

/// A table as the catalog knows it, on one of its branches. `key` stays the same through a rename.
#[derive(Debug, Clone)]
pub struct Table {
    pub key: Uuid,
    pub id: TableId,
    /// The folder of the table, which is that of its main branch.
    pub location: String,
    /// The line of versions that is meant when the table is read or changed.
    pub branch: Branch,
    pub state: TableState,
    /// Foreign when it was registered as it stood in storage.
    pub origin: Origin,
    pub properties: Properties,
}

/// By which road a table or a version came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made by this server.
    Catalog,
    /// Made straight in storage and registered or adopted later.
    Foreign,
}

impl Origin {
    /// The word that the catalog stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Foreign => "foreign",
        }
    }

    /// The inverse of [`Self::as_str`]; anything else is taken for the safer of the two.
    pub fn from_stored(word: &str) -> Self {
        if word == Self::Catalog.as_str() { Self::Catalog } else { Self::Foreign }
    }
}

/// One version of a table: its manifest, and what the catalog knows of how it came to be.
#[derive(Debug, Clone)]
pub struct TableVersion {
    pub manifest: ManifestEntry,
    pub origin: Origin,
    /// Lance's name of the operation; `None` for an adopted version.
    pub operation: Option<String>,
    /// The UUID of Lance's transaction; `None` for an adopted version.
    pub transaction_id: Option<String>,
    pub committed_by: Option<String>,
    /// Microseconds since the Unix epoch.
    pub committed_at_us: i64,
    /// What callers keep with the transaction that made it.
    pub properties: Properties,
}

/// A table that was dropped and can be had back until it is purged.
#[derive(Debug, Clone)]
pub struct DroppedTable {
    /// With the name that it had.
    pub table: Table,
    pub dropped_by: String,
    /// Microseconds since the Unix epoch, as the other.
    pub dropped_at_us: i64,
    pub purge_after_us: i64,
}
