use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Branch, Part};

/// What an upload carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadKind {
    /// New rows: whole fragments.
    Fragments,
    /// New columns for one fragment.
    Columns,
}

impl UploadKind {
    /// The word that the catalog and the wire use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fragments => "fragments",
            Self::Columns => "columns",
        }
    }
}

/// How far an upload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadState {
    /// Its body is being received.
    Writing,
    /// All of it stands in storage; it may be committed.
    Staged,
    /// A commit is about to put a version that refers to its files.
    Committing,
    /// A version refers to its files.
    Committed,
    /// It was aborted or its time is over; its files are being removed.
    Removing,
}

impl UploadState {
    const ALL: [Self; 5] =
        [Self::Writing, Self::Staged, Self::Committing, Self::Committed, Self::Removing];

    /// The inverse of [`Self::as_str`].
    pub fn from_stored(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The word that the catalog and the wire use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Staged => "staged",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Removing => "removing",
        }
    }
}

/// Data that was written and not yet committed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Staged {
    /// Lance's own JSON of each fragment.
    pub fragments: Vec<serde_json::Value>,
    /// The schema with its field ids, in Lance's protobuf form: JSON would lose units and ids.
    pub schema: Vec<u8>,
    pub num_rows: u64,
    pub num_bytes: u64,
    /// Whether a table that these rows create keeps row ids through compaction.
    pub stable_row_ids: bool,
}

/// An upload as the catalog knows it.
#[derive(Debug, Clone)]
pub struct Upload {
    pub key: Uuid,
    pub table_key: Uuid,
    /// The branch in whose folder the files are.
    pub branch: Branch,
    pub kind: UploadKind,
    pub state: UploadState,
    /// The multipart write that it is a part of, if it is one.
    pub part: Option<Part>,
    /// The version that the data was written against; 0 for a table without one.
    pub read_version: u64,
    pub staged: Staged,
    pub created_by: String,
    /// Microseconds since the Unix epoch.
    pub created_at_us: i64,
    /// Microseconds since the Unix epoch.
    pub expires_at_us: i64,
}
