use uuid::Uuid;

use super::{Branch, Properties};

/// How far work that outlasts its request has come; the words are the spec's `TransactionStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Canceled,
}

impl JobState {
    pub const ALL: [Self; 5] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Canceled];

    /// The inverse of [`Self::as_str`].
    pub fn from_stored(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The word that the catalog and the wire use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    CreateIndex,
    BackfillColumn,
    RefreshView,
}

impl JobKind {
    const ALL: [Self; 3] = [Self::CreateIndex, Self::BackfillColumn, Self::RefreshView];

    /// The inverse of [`Self::as_str`].
    pub fn from_stored(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word that the catalog and the wire use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateIndex => "create_index",
            Self::BackfillColumn => "backfill_column",
            Self::RefreshView => "refresh_view",
        }
    }
}

/// Work that outlasts its request.
#[derive(Debug, Clone)]
pub struct Job {
    pub key: Uuid,
    pub table_key: Uuid,
    pub branch: Branch,
    pub kind: JobKind,
    /// What is to be done, as JSON text of the kind's own.
    pub request: String,
    pub state: JobState,
    /// Why it failed, for a person.
    pub error: Option<String>,
    /// The version that it made.
    pub version: Option<u64>,
    /// What callers keep with it.
    pub properties: Properties,
    pub created_by: String,
    /// Microseconds since the Unix epoch.
    pub created_at_us: i64,
    /// Microseconds since the Unix epoch.
    pub updated_at_us: i64,
}
