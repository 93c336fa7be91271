//! What can go wrong, in the words of the Lance Namespace spec.
//!
//! One variant for each error code of the spec that this server answers. Which HTTP status and
//! which number a variant gets is decided in one place, `http/error.rs`.

use crate::model::{Branch, Invalid, NamespaceId, TableId};

/// The result of every fallible function above the drivers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a commit was refused, for the 409 answer of a commit.
#[derive(Debug, Clone, Default)]
pub struct Conflict {
    /// What happened, for a person.
    pub message: String,
    /// The table's newest version at the time of the refusal.
    pub current_version: Option<u64>,
    /// The version that the commit clashes with, where it is known.
    pub conflicting_version: Option<u64>,
    /// Lance's name of the operation that won, such as `Append`.
    pub conflicting_operation: Option<String>,
    /// Whether the same commit can succeed when tried again from the current version.
    pub retryable: bool,
}

/// Everything that can go wrong, one variant for each code of the spec.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Code 0. The operation, or this form of it, is not served.
    #[error("{0}")]
    Unsupported(String),
    /// Code 1.
    #[error("namespace '{0}' not found")]
    NamespaceNotFound(NamespaceId),
    /// Code 2.
    #[error("namespace '{0}' already exists")]
    NamespaceAlreadyExists(NamespaceId),
    /// Code 3.
    #[error("namespace '{0}' is not empty: it holds tables or namespaces")]
    NamespaceNotEmpty(NamespaceId),
    /// Code 4.
    #[error("table '{0}' not found")]
    TableNotFound(TableId),
    /// Code 5.
    #[error("table '{0}' already exists")]
    TableAlreadyExists(TableId),
    /// Code 6.
    #[error("index '{index}' of table '{table}' not found")]
    TableIndexNotFound { table: TableId, index: String },
    /// Code 7.
    #[error("{0}")]
    TableIndexAlreadyExists(String),
    /// Code 8.
    #[error("tag '{tag}' of table '{table}' not found")]
    TableTagNotFound { table: TableId, tag: String },
    /// Code 9.
    #[error("tag '{tag}' of table '{table}' already exists")]
    TableTagAlreadyExists { table: TableId, tag: String },
    /// Code 10.
    #[error("transaction '{0}' not found")]
    TransactionNotFound(String),
    /// Code 11.
    #[error("version {version} of table '{table}' not found")]
    TableVersionNotFound { table: TableId, version: u64 },
    /// Code 12.
    #[error("{0}")]
    TableColumnNotFound(String),
    /// Code 13. The sentence says what to change.
    #[error("{0}")]
    InvalidInput(String),
    /// Code 14. Nothing was changed.
    #[error("{}", .0.message)]
    ConcurrentModification(Box<Conflict>),
    /// Code 15. The caller may see it, and may not do this to it.
    #[error("{0}")]
    PermissionDenied(String),
    /// Code 16. Nobody knows who the caller is.
    #[error("{0}")]
    Unauthenticated(String),
    /// Code 17. Nothing was changed, or the sentence says that the outcome is unknown.
    #[error("{0}")]
    ServiceUnavailable(String),
    /// Code 18. The source is for the log, never for the caller.
    #[error("internal error: {message}")]
    Internal {
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Code 19.
    #[error("{0}")]
    InvalidTableState(String),
    /// Code 20. The data and the table's schema do not fit.
    #[error("{0}")]
    TableSchemaValidation(String),
    /// Code 21. Nothing was changed; the same request can succeed a moment later.
    #[error("{0}")]
    Throttling(String),
    /// Code 22.
    #[error("branch '{branch}' of table '{table}' not found")]
    TableBranchNotFound { table: TableId, branch: Branch },
    /// Code 23.
    #[error("branch '{branch}' of table '{table}' already exists")]
    TableBranchAlreadyExists { table: TableId, branch: Branch },
    /// One entry of a request for several tables was refused, and so all of it: the code is that of
    /// the entry's error.
    #[error("entry {index}: {error}")]
    Entry { index: usize, error: Box<Error> },
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::InvalidInput(invalid.to_string())
    }
}

impl Error {
    /// Code 13 with a sentence that helps the caller.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::InvalidInput(message.into())
    }

    /// Code 18; `source` goes to the log only.
    pub fn internal(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal { message: message.into(), source: Some(source.into()) }
    }

    /// The error of work that several wait for, once more. What its source says goes to the log.
    pub fn for_another(&self, doing: &'static str) -> Self {
        match self {
            Self::ServiceUnavailable(text) => Self::ServiceUnavailable(text.clone()),
            error => Self::internal(doing, error.to_string()),
        }
    }

    /// Code 14.
    pub fn conflict(conflict: Conflict) -> Self {
        Self::ConcurrentModification(Box::new(conflict))
    }

    /// The error of an entry, with its place; an error that has one keeps it.
    pub fn of_entry(index: usize, error: Self) -> Self {
        match error {
            Self::Entry { .. } => error,
            error => Self::Entry { index, error: Box::new(error) },
        }
    }

    /// The error itself, and the place of the entry that it is about.
    pub fn and_entry(&self) -> (&Self, Option<usize>) {
        match self {
            Self::Entry { index, error } => (error.and_entry().0, Some(*index)),
            error => (error, None),
        }
    }

    /// Whether the change that ended in this error certainly did not happen, so that its
    /// leftovers may be removed and the caller may be told so with a 4xx status.
    pub fn is_certainly_not_committed(&self) -> bool {
        !matches!(self.and_entry().0, Self::Internal { .. } | Self::ServiceUnavailable(_))
    }
}
