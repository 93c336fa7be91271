//! The nouns: validated, without I/O.

mod access;
mod branch;
mod caller;
mod clock;
mod event;
mod ids;
mod job;
mod manifest;
mod mark;
mod multipart;
mod page;
mod table;
mod upload;
mod view;

pub use access::{ApiKey, Grant, Object, Role, check_principal};
pub use branch::Branch;
pub use caller::Caller;
pub use clock::Clock;
pub use event::{Asked, Event, EventInfo, EventKind};
pub use ids::{Name, NamespaceId, STORED_SEPARATOR, TableId};
pub use job::{Job, JobKind, JobState};
pub use manifest::{ClaimState, ManifestClaim, ManifestEntry, NamingScheme};
pub use mark::{Attempt, Mark, StreamKey};
pub use multipart::{InsertMode, MultipartState, MultipartWrite, Part};
pub use page::{Page, PageScope};
pub use table::{
    DELETION_PROTECTION, DroppedTable, Namespace, Origin, Properties, Table, TableState,
    TableVersion, protection_of,
};
pub use upload::{Staged, Upload, UploadKind, UploadState};
pub use view::View;

/// A name, an identifier or a page that cannot be one; the sentence says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

type Result<T> = std::result::Result<T, Invalid>;
