use std::collections::BTreeMap;

use uuid::Uuid;

use super::{ManifestEntry, NamespaceId, TableId};

/// What a caller stores with a namespace or a table.
pub type Properties = BTreeMap<String, String>;

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

/// A table as the catalog knows it. `key` stays the same through a rename.
#[derive(Debug, Clone)]
pub struct Table {
    pub key: Uuid,
    pub id: TableId,
    pub location: String,
    pub state: TableState,
    pub properties: Properties,
}

/// By which road a version came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Committed by this server.
    Catalog,
    /// Committed straight to storage and adopted later.
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
}
