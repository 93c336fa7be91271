//! The root of the OpenAPI document, and the types that several operations share.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{RefOr, Required, Schema};
use utoipa::{OpenApi, ToSchema};

use super::error::ErrorResponse;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tiltyard",
        description = "A REST catalog and commit server for Lance tables: the Lance Namespace REST \
            specification, and distributed writes over HTTP. LanceDB's SDKs are served on the same \
            port, under the same paths with a slash at the end, which this document leaves out.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "Namespace", description = "Names that hold names"),
        (name = "Table", description = "Names that hold data"),
        (name = "Data", description = "Rows in and out"),
        (name = "Transaction", description = "What was committed, and work that takes long"),
        (name = "Index", description = "What makes finding rows quick"),
        (name = "Distributed write", description = "Fragments in, one commit at the end"),
        (name = "Access", description = "Who calls, and what they may do"),
        (name = "Server", description = "The server itself")
    ),
    components(schemas(ErrorResponse, JsonArrowField, JsonArrowDataType))
)]
struct Root;

/// The document before the operations are added.
pub(super) fn root() -> utoipa::openapi::OpenApi {
    // By the names that the Lance Namespace specification gives them.
    const BEARER: &str = "BearerAuth";
    const API_KEY: &str = "ApiKeyAuth";
    let mut root = Root::openapi();
    let components = root.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key, or a token of an issuer that the server knows"));
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer.build()));
    let api_key = ApiKeyValue::with_description("x-api-key", "An API key of this server");
    components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(ApiKey::Header(api_key)));
    let by = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    // A server without --auth asks for none.
    root.security = Some(vec![by(BEARER), by(API_KEY), SecurityRequirement::default()]);
    root
}

/// Says which JSON bodies may be left away: an empty one is read as `{}`, so a body is needed only
/// where one of its fields is.
pub(super) fn optional_bodies(document: &mut utoipa::openapi::OpenApi) {
    let schemas = document.components.as_ref().map(|all| all.schemas.clone()).unwrap_or_default();
    let posts = document.paths.paths.values_mut().filter_map(|path| path.post.as_mut());
    for body in posts.filter_map(|post| post.request_body.as_mut()) {
        let RefOr::T(body) = body else { continue };
        let Some(RefOr::T(json)) = body.content.get("application/json") else { continue };
        if !json.schema.as_ref().is_some_and(|schema| has_required(&schemas, schema)) {
            body.required = Some(Required::False);
        }
    }
}

fn has_required(schemas: &BTreeMap<String, RefOr<Schema>>, schema: &RefOr<Schema>) -> bool {
    match schema {
        RefOr::Ref(to) => to
            .ref_location
            .rsplit('/')
            .next()
            .and_then(|name| schemas.get(name))
            .is_none_or(|schema| has_required(schemas, schema)),
        RefOr::T(Schema::Object(object)) => !object.required.is_empty(),
        RefOr::T(Schema::AllOf(all)) => all.items.iter().any(|one| has_required(schemas, one)),
        RefOr::T(_) => true,
    }
}

/// Arbitrary key-value pairs; entries whose key starts with `header.` stand for HTTP headers.
pub type Context = BTreeMap<String, String>;

/// Credentials of the caller. Headers (`x-api-key`, `Authorization`) win over it.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct Identity {
    pub api_key: Option<String>,
    pub auth_token: Option<String>,
}

/// What is secret is not for logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// A structure inside a body. serde also takes an array for one, field by field; the document does
/// not say so, and nobody means it.
///
/// # Errors
/// What is wrong with the object, or that it is none.
pub fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let object = Option::<Map<String, Value>>::deserialize(deserializer)?;
    let object = object.map(|object| serde_json::from_value(Value::Object(object)));
    object.transpose().map_err(D::Error::custom)
}

/// As [`object`], for a list of structures.
///
/// # Errors
/// What is wrong with the first that is wrong.
pub fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let objects = Vec::<Map<String, Value>>::deserialize(deserializer)?;
    let objects = objects.into_iter().map(|object| serde_json::from_value(Value::Object(object)));
    objects.collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// What every JSON request body may hold.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct Envelope {
    #[serde(default, deserialize_with = "object")]
    pub identity: Option<Identity>,
    pub context: Option<Context>,
    /// The object's identifier; when given it must be the one of the path.
    pub id: Option<Vec<String>>,
}

/// Bytes of an Arrow IPC stream or file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct ArrowBytes(#[allow(dead_code, reason = "only its schema is used")] Vec<u8>);

/// JSON representation of an Arrow schema.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JsonArrowSchema {
    pub fields: Vec<JsonArrowField>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// JSON representation of an Arrow field.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JsonArrowField {
    pub name: String,
    #[serde(rename = "type")]
    #[schema(no_recursion)]
    pub data_type: JsonArrowDataType,
    pub nullable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// JSON representation of an Arrow data type.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JsonArrowDataType {
    /// The data type's name, such as `int32`, `utf8`, `fixed_size_list`.
    #[serde(rename = "type")]
    pub name: String,
    /// The fields of a nested type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub fields: Option<Vec<JsonArrowField>>,
    /// The length of a fixed-size type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
}

/// Lance's own JSON of a fragment, as pylance's `FragmentMetadata.to_json()` gives it and
/// `FragmentMetadata.from_json()` takes it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct FragmentMetadata(pub serde_json::Value);
