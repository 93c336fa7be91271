use std::net::IpAddr;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Branch, Caller, Object, Table};

/// The request that something is done for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What the answer carries as `x-request-id`.
    pub request_id: String,
    /// The `operationId`, or method and path of one that has none.
    pub operation: String,
    /// Where the connection came from.
    pub remote: Option<IpAddr>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    NamespaceCreated,
    NamespaceDropped,
    /// Protected from deletion, or not any more.
    NamespaceProtected,
    TableDeclared,
    TableCreated,
    TableRegistered,
    TableRenamed,
    TableDropped,
    TableUndropped,
    TablePurged,
    /// Protected from deletion, or not any more.
    TableProtected,
    TableDeregistered,
    /// A commit became part of a version.
    VersionCreated,
    /// A version was found in storage that somebody made past the server.
    VersionFound,
    VersionDeleted,
    TagCreated,
    TagUpdated,
    TagDeleted,
    BranchCreated,
    BranchDeleted,
    KeyCreated,
    KeyRotated,
    KeyDeleted,
    GrantCreated,
    GrantDeleted,
    /// Somebody got credentials for a table's storage.
    CredentialsVended,
    /// Somebody asked for what they may not, or for a change that was not made.
    RequestRefused,
}

impl EventKind {
    pub const ALL: [Self; 27] = [
        Self::NamespaceCreated,
        Self::NamespaceDropped,
        Self::NamespaceProtected,
        Self::TableDeclared,
        Self::TableCreated,
        Self::TableRegistered,
        Self::TableRenamed,
        Self::TableDropped,
        Self::TableUndropped,
        Self::TablePurged,
        Self::TableProtected,
        Self::TableDeregistered,
        Self::VersionCreated,
        Self::VersionFound,
        Self::VersionDeleted,
        Self::TagCreated,
        Self::TagUpdated,
        Self::TagDeleted,
        Self::BranchCreated,
        Self::BranchDeleted,
        Self::KeyCreated,
        Self::KeyRotated,
        Self::KeyDeleted,
        Self::GrantCreated,
        Self::GrantDeleted,
        Self::CredentialsVended,
        Self::RequestRefused,
    ];

    /// The word that the catalog stores and that callers see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NamespaceCreated => "namespace.created",
            Self::NamespaceDropped => "namespace.dropped",
            Self::NamespaceProtected => "namespace.protected",
            Self::TableDeclared => "table.declared",
            Self::TableCreated => "table.created",
            Self::TableRegistered => "table.registered",
            Self::TableRenamed => "table.renamed",
            Self::TableDropped => "table.dropped",
            Self::TableUndropped => "table.undropped",
            Self::TablePurged => "table.purged",
            Self::TableProtected => "table.protected",
            Self::TableDeregistered => "table.deregistered",
            Self::VersionCreated => "version.created",
            Self::VersionFound => "version.found",
            Self::VersionDeleted => "version.deleted",
            Self::TagCreated => "tag.created",
            Self::TagUpdated => "tag.updated",
            Self::TagDeleted => "tag.deleted",
            Self::BranchCreated => "branch.created",
            Self::BranchDeleted => "branch.deleted",
            Self::KeyCreated => "key.created",
            Self::KeyRotated => "key.rotated",
            Self::KeyDeleted => "key.deleted",
            Self::GrantCreated => "grant.created",
            Self::GrantDeleted => "grant.deleted",
            Self::CredentialsVended => "credentials.vended",
            Self::RequestRefused => "request.refused",
        }
    }

    /// Whether it is about who may do what, which only admins see.
    pub fn is_of_access(self) -> bool {
        use EventKind::{
            CredentialsVended, GrantCreated, GrantDeleted, KeyCreated, KeyDeleted, KeyRotated,
            RequestRefused,
        };
        matches!(
            self,
            KeyCreated
                | KeyRotated
                | KeyDeleted
                | GrantCreated
                | GrantDeleted
                | CredentialsVended
                | RequestRefused
        )
    }
}

/// Something that happened, or was refused.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: Uuid,
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    pub kind: EventKind,
    /// What it happened to, by its name then.
    pub object: Object,
    pub table: Option<Uuid>,
    pub branch: Option<Branch>,
    pub version: Option<u64>,
    pub transaction_id: Option<String>,
    /// Who asked for it.
    pub principal: String,
    pub asked: Option<Asked>,
    /// The spec's number of the error, of what was refused.
    pub code: Option<u32>,
    /// What else there is to say, such as a new name.
    pub detail: serde_json::Map<String, serde_json::Value>,
}

impl Event {
    pub fn new(kind: EventKind, object: Object, caller: &Caller, at_us: i64) -> Self {
        Self {
            id: Uuid::now_v7(),
            at_us,
            kind,
            object,
            table: None,
            branch: None,
            version: None,
            transaction_id: None,
            principal: caller.name().to_owned(),
            asked: caller.asked().cloned(),
            code: None,
            detail: serde_json::Map::new(),
        }
    }

    pub fn of_table(kind: EventKind, table: &Table, caller: &Caller, at_us: i64) -> Self {
        let object = Object::Table(table.id.clone());
        Self { table: Some(table.key), ..Self::new(kind, object, caller, at_us) }
    }

    /// The same, with something more to say.
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

/// Something that happened, as callers and webhooks are told of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventInfo {
    /// Unlike that of every other event.
    event_id: Uuid,
    /// Where to read on after this event.
    cursor: String,
    /// Milliseconds since the Unix epoch.
    at_millis: i64,
    /// What happened: `namespace.created`, `namespace.dropped`, `namespace.protected`,
    /// `table.declared`, `table.created`, `table.registered`, `table.renamed`, `table.dropped`,
    /// `table.undropped`, `table.purged`, `table.protected`, `table.deregistered`, `version.created`,
    /// `version.found` (in storage; if another of our servers made it, `version.created` follows),
    /// `version.deleted`, `tag.created`,
    /// `tag.updated`, `tag.deleted`, `branch.created`, `branch.deleted`, `key.created`, `key.rotated`,
    /// `key.deleted`, `grant.created`, `grant.deleted`, `credentials.vended`, or `request.refused`.
    kind: String,
    /// The names of the namespace that it happened to; none for the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<Vec<String>>,
    /// The names that the table had.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<Vec<String>>,
    /// The same through all names of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    table_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    /// Who asked for it.
    principal: String,
    /// The `operationId` of the request, or its method and path.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    /// The `x-request-id` of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The address that the request came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    /// The spec's number of the error, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    /// What else there is to say, such as the new name of a table, or which versions were deleted: as
    /// `ranges` up to and without their `end_version`, or as one around all; `count` is how many.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, serde_json::Value>)]
    detail: serde_json::Map<String, serde_json::Value>,
}

impl EventInfo {
    /// With its number.
    pub fn new(seq: i64, event: Event) -> Self {
        let names = Some(event.object.to_list());
        let (namespace, table) = match event.object {
            Object::Namespace(_) => (names, None),
            Object::Table(_) => (None, names),
        };
        let (request_id, operation, remote) = match event.asked {
            Some(asked) => (Some(asked.request_id), Some(asked.operation), asked.remote),
            None => (None, None, None),
        };
        Self {
            event_id: event.id,
            cursor: seq.to_string(),
            at_millis: event.at_us / 1000,
            kind: event.kind.as_str().into(),
            namespace,
            table,
            table_id: event.table,
            branch: event.branch.map(|branch| branch.as_str().to_owned()),
            version: event.version,
            transaction_id: event.transaction_id,
            principal: event.principal,
            operation: operation.filter(|operation| !operation.is_empty()),
            request_id,
            remote: remote.map(|remote| remote.to_string()),
            code: event.code,
            detail: event.detail,
        }
    }

    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    pub fn kind(&self) -> &str {
        &self.kind
    }
}
