//! Reading requests: ids, pages, callers and JSON are parsed here, once, so that a handler never
//! sees an invalid one.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{HttpBody, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Required, Schema};

use super::AppState;
use super::admission::Taken;
use super::error::ApiError;
use super::middleware::cut_off;
use crate::error::{Error, Result};
use crate::model::{Asked, Caller, Mark, Name, NamespaceId, StreamKey, TableId};

/// The delimiter of identifiers when the caller names none.
pub const DEFAULT_DELIMITER: &str = "$";
/// The largest JSON body in MiB, whatever is configured, where the operation does not say.
const MAX_JSON_MIB: u64 = 4;
/// The largest JSON body of a commit: some hundred thousand fragments.
const MAX_COMMIT_BYTES: u64 = 128 << 20;
/// One of this size takes no room.
const SMALL_COMMIT_BYTES: u64 = 64 << 10;

#[derive(Deserialize)]
struct IdSegment {
    id: String,
}

#[derive(Deserialize)]
struct DelimiterQuery {
    delimiter: Option<String>,
}

/// The raw identifier of the path and the delimiter that it is written with.
async fn raw_id(parts: &mut Parts) -> Result<(String, String)> {
    let Path(IdSegment { id }) = Path::from_request_parts(parts, &())
        .await
        .map_err(|_| Error::invalid_input("the identifier in the path is not valid UTF-8"))?;
    Ok((id, delimiter(parts)?))
}

fn delimiter(parts: &Parts) -> Result<String> {
    if parts.uri.query().is_none() {
        return Ok(DEFAULT_DELIMITER.into());
    }
    let AxumQuery(query) =
        AxumQuery::<DelimiterQuery>::try_from_uri(&parts.uri).map_err(|error| {
            Error::invalid_input(format!("the query string: {}", error.body_text()))
        })?;
    Ok(query.delimiter.unwrap_or_else(|| DEFAULT_DELIMITER.into()))
}

/// The delimiter of the identifiers in the answer.
pub struct Delimiter(pub String);

impl<S: Sync> FromRequestParts<S> for Delimiter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(delimiter(parts)?))
    }
}

/// Which database a LanceDB client is connected to, and the folder within it.
const DATABASE_HEADER: HeaderName = HeaderName::from_static("x-lancedb-database");
const DATABASE_PREFIX_HEADER: HeaderName = HeaderName::from_static("x-lancedb-database-prefix");

/// The database that a LanceDB client is connected to: the root namespace in which everything that
/// the request names is. `db://a/b/c` is the root namespace `a/b/c`. Without the headers there is
/// none, and names start at the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database(Option<Name>);

impl<S: Sync> FromRequestParts<S> for Database {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let text = |name: HeaderName| match parts.headers.get(&name).map(|value| value.to_str()) {
            // A proxy may have added one: nobody can say which is meant.
            _ if parts.headers.get_all(&name).iter().count() > 1 => {
                Err(Error::invalid_input(format!("the header {name} stands there twice")))
            }
            None => Ok(""),
            Some(Ok(text)) => Ok(text.trim_matches('/')),
            Some(Err(_)) => Err(Error::invalid_input(format!("the header {name} is not text"))),
        };
        let (database, prefix) = (text(DATABASE_HEADER)?, text(DATABASE_PREFIX_HEADER)?);
        let name = match (database, prefix) {
            ("", "") => return Ok(Self(None)),
            (database, "") => database.to_owned(),
            ("", prefix) => prefix.to_owned(),
            (database, prefix) => format!("{database}/{prefix}"),
        };
        Ok(Self(Some(Name::new(name).map_err(Error::from)?)))
    }
}

impl Database {
    /// Its namespace; `None` when names start at the root.
    pub fn namespace(&self) -> Option<NamespaceId> {
        self.0.as_ref().map(|_| self.holds(NamespaceId::root()))
    }

    /// The namespace that a client of this database means.
    pub fn holds(&self, id: NamespaceId) -> NamespaceId {
        match &self.0 {
            Some(name) => id.under(name.clone()),
            None => id,
        }
    }

    /// The table that a client of this database means.
    pub fn holds_table(&self, id: TableId) -> TableId {
        TableId { namespace: self.holds(id.namespace), name: id.name }
    }

    /// An identifier as a client of this database knows it.
    pub fn shown(&self, mut names: Vec<String>) -> Vec<String> {
        if self.0.is_some() && !names.is_empty() {
            names.remove(0);
        }
        names
    }
}

/// What a path names.
pub(super) trait Named: Send + Sync + Sized + 'static {
    /// # Errors
    /// `InvalidInput` for what is no identifier.
    fn read(id: &str, delimiter: &str, database: Database) -> Result<Self>;
}

/// What the path of a request names, which is read once, whichever of its layers asks for it.
pub(super) async fn named<T: Named>(parts: &mut Parts) -> Result<Arc<T>, ApiError> {
    if let Some(known) = parts.extensions.get::<Arc<T>>() {
        return Ok(known.clone());
    }
    let (id, delimiter) = raw_id(parts).await?;
    let database = Database::from_request_parts(parts, &()).await?;
    let read = Arc::new(T::read(&id, &delimiter, database)?);
    parts.extensions.insert(read.clone());
    Ok(read)
}

/// A namespace that the path names.
#[derive(Debug, Clone)]
pub struct NamespacePath(pub NamespaceId, pub Database);

impl Named for NamespacePath {
    fn read(id: &str, delimiter: &str, database: Database) -> Result<Self> {
        Ok(Self(database.holds(NamespaceId::parse(id, delimiter)?), database))
    }
}

impl<S: Sync> FromRequestParts<S> for NamespacePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        named(parts).await.map(Arc::unwrap_or_clone)
    }
}

impl NamespacePath {
    /// # Errors
    /// `InvalidInput` when the body names another object than the path.
    pub fn matching(self, body_id: Option<&[String]>) -> Result<NamespaceId> {
        same_id(body_id, || self.1.shown(self.0.to_list()))?;
        Ok(self.0)
    }
}

/// A table that the path names.
#[derive(Debug, Clone)]
pub struct TablePath(pub TableId, pub Database);

impl Named for TablePath {
    fn read(id: &str, delimiter: &str, database: Database) -> Result<Self> {
        Ok(Self(database.holds_table(TableId::parse(id, delimiter)?), database))
    }
}

impl<S: Sync> FromRequestParts<S> for TablePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        named(parts).await.map(Arc::unwrap_or_clone)
    }
}

impl TablePath {
    /// # Errors
    /// `InvalidInput` when the body names another object than the path.
    pub fn matching(self, body_id: Option<&[String]>) -> Result<TableId> {
        same_id(body_id, || self.1.shown(self.0.to_list()))?;
        Ok(self.0)
    }
}

/// A transaction that the path names: its id, alone or after the names of its table.
pub struct TransactionPath(Vec<String>);

impl<S: Sync> FromRequestParts<S> for TransactionPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let (id, delimiter) = raw_id(parts).await?;
        if delimiter.is_empty() {
            return Err(Error::invalid_input("the delimiter must not be empty").into());
        }
        Ok(Self(id.split(&delimiter).map(str::to_owned).collect()))
    }
}

impl TransactionPath {
    /// # Errors
    /// `InvalidInput` when the body names another transaction than the path.
    pub fn matching(self, body_id: Option<&[String]>) -> Result<String> {
        same_id(body_id, || self.0.clone())?;
        Ok(self.0.into_iter().next_back().unwrap_or_default())
    }
}

fn same_id(body: Option<&[String]>, path: impl FnOnce() -> Vec<String>) -> Result<()> {
    if body.is_some_and(|body| body != path()) {
        return Err(Error::invalid_input("the id in the body is not the one in the path"));
    }
    Ok(())
}

/// The parameters `id` and `delimiter`, for the document.
pub struct ObjectId;

impl IntoParams for ObjectId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = || Schema::Object(ObjectBuilder::new().schema_type(Type::String).build());
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(
                "The object's names, joined by the delimiter; the delimiter alone is the root \
                 namespace.",
            ))
            .schema(Some(text()));
        let mut params = vec![id.build()];
        params.extend(DelimiterParam::into_params(|| None));
        params
    }
}

/// The parameter `delimiter`, for the document.
pub struct DelimiterParam;

impl IntoParams for DelimiterParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        let delimiter = ParameterBuilder::new()
            .name("delimiter")
            .parameter_in(ParameterIn::Query)
            .description(Some("What joins the names of an identifier; `$` when absent."))
            .schema(Some(Schema::Object(text)));
        vec![delimiter.build()]
    }
}

/// A query string.
pub struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let AxumQuery(query) = AxumQuery::try_from_uri(&parts.uri).map_err(|error| {
            Error::invalid_input(format!("the query string: {}", error.body_text()))
        })?;
        Ok(Self(query))
    }
}

/// A JSON body, whatever its content type says; an empty one is `{}`.
pub struct Json<T, const MIB: u64 = MAX_JSON_MIB>(pub T);

impl<T: DeserializeOwned, const MIB: u64> FromRequest<AppState> for Json<T, MIB> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let bytes = read_body(request, state, MIB << 20).await?;
        Ok(Self(parse_json(&bytes)?))
    }
}

/// A JSON body as it came.
pub struct JsonBytes(pub Bytes);

impl FromRequest<AppState> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(read_body(request, state, MAX_JSON_MIB << 20).await?))
    }
}

/// The JSON body of a commit as it came: its bytes are what an idempotency key is bound to.
pub struct CommitBytes {
    pub bytes: Bytes,
    /// The room that it takes among uploads, until what it asks for is done.
    pub(super) room: Option<Taken>,
}

impl FromRequest<AppState> for CommitBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let limit = state.limits.max_body_bytes.unwrap_or(MAX_COMMIT_BYTES).min(MAX_COMMIT_BYTES);
        let body = request.into_body();
        let said = body.size_hint().exact();
        let ensure_fits = |bytes: u64| {
            let too_large = || format!("the body is larger than {limit} bytes");
            (bytes <= limit).then_some(()).ok_or_else(|| Error::invalid_input(too_large()))
        };
        ensure_fits(said.unwrap_or(0))?;
        let (mut bytes, mut held, mut room) = (BytesMut::new(), SMALL_COMMIT_BYTES, None);
        let mut parts = body.into_data_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| Error::invalid_input(cut_off(&error)))?;
            let needed = (bytes.len() + part.len()) as u64;
            ensure_fits(needed)?;
            if needed > held {
                // For all of it, or where nobody knows how much that is, for as much again.
                let more = said.unwrap_or(2 * needed).max(needed) - held;
                // Unlike rows, what came of it is soon sent again.
                room = Some(state.admission.room.take(more, room, false).await?);
                held += more;
                bytes.reserve(usize::try_from(held).unwrap_or_default() - bytes.len());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Self { bytes: bytes.freeze(), room })
    }
}

async fn read_body(request: Request, state: &AppState, limit: u64) -> Result<Bytes> {
    let limit = state.limits.max_body_bytes.unwrap_or(limit).min(limit);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    to_bytes(request.into_body(), limit).await.map_err(|_| {
        Error::invalid_input(format!("the body was cut off or is larger than {limit} bytes"))
    })
}

/// # Errors
/// `InvalidInput` that says where the body is not what it should be.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let bytes = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        Error::invalid_input(format!("the body is not the JSON expected: {error}"))
    })
}

/// # Errors
/// As [`parse_json`], for a body that was looked at before.
pub fn parse_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::invalid_input(format!("the body is not the JSON expected: {error}"))
    })
}

/// How long a client waits for an answer, in milliseconds; LanceDB's clients say so.
const TIMEOUT: &str = "x-request-timeout-ms";

/// # Errors
/// `InvalidInput` for what is no positive number.
pub fn patience(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    match millis {
        Some(millis) if millis > 0 => Ok(Some(Duration::from_millis(millis))),
        _ => Err(Error::invalid_input(format!("the header {TIMEOUT} must be a positive number"))),
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // As `access` found it; nobody in particular where nobody has to say who they are.
        let caller = parts.extensions.get::<Self>().cloned().unwrap_or_else(Self::anonymous);
        let caller = caller.who_waits(patience(&parts.headers)?);
        let caller = caller.who_asked(parts.extensions.get::<Arc<Asked>>().cloned());
        // Of a request that takes effect once.
        let (mark, key) = (parts.extensions.get::<Arc<Mark>>(), parts.extensions.get());
        Ok(match (mark, key) {
            (Some(mark), _) => caller.marked(mark.clone()),
            (None, Some(key)) => caller.with_key(StreamKey::clone(key)),
            (None, None) => caller,
        })
    }
}

/// One of a few words, in any case, with or without underscores: `ExistOk`, `exist_ok`.
///
/// # Errors
/// `InvalidInput` that lists the words.
pub fn one_of<T: Copy>(
    what: &str,
    given: Option<&str>,
    words: &[(&str, T)],
    default: T,
) -> Result<T> {
    let Some(given) = given else {
        return Ok(default);
    };
    let plain = |word: &str| word.replace('_', "").to_lowercase();
    let found = words.iter().find(|(word, _)| plain(word) == plain(given));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Error::invalid_input(format!("unknown {what} '{given}'; known are: {}", known.join(", ")))
    })
}
