//! The OpenAPI document: checked in as it is served, whole, and in agreement with the spec.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::support::upstream::{Operation, operations, resolve};
use crate::support::{Backend, TestServer, upstream};

const JSON: &str = "application/json";
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// Operations beyond the spec.
const OUR_OPERATIONS: [&str; 27] = [
    "UploadFragments",
    "ListFragments",
    "ReadFragment",
    "UploadFragmentColumns",
    "CommitTable",
    "CommitTables",
    "ListUploads",
    "AbortUpload",
    "ListDroppedTables",
    "UndropTable",
    "PurgeTable",
    "ProtectNamespace",
    "ProtectTable",
    "CreateApiKey",
    "ListApiKeys",
    "RotateApiKey",
    "DeleteApiKey",
    "CreateGrant",
    "DeleteGrant",
    "ListGrants",
    "WhoAmI",
    "ListEvents",
    "GetHealthz",
    "GetReadyz",
    "GetMetrics",
    "GetCapabilities",
    "GetOpenApi",
];

/// Parameters of ours that the spec's operation has not: operation, name, reason.
const MORE_PARAMETERS: [(&str, &str, &str); 1] = [(
    "CreateTable",
    "location",
    "the spec's prose lets a client name the location, by header; the query is its twin",
)];

/// Fields of the spec that a body of ours need not name: name, reason.
const OTHER_WAYS: [(&str, &str); 2] = [
    ("identity", "over REST it travels in the headers"),
    ("context", "over REST it travels in the headers"),
];

async fn served_document() -> (TestServer, Value) {
    let server = TestServer::spawn(Backend::Sqlite).await;
    let server = server.expect("SQLite is always there");
    let document = server.get("/openapi.json").await.ok();
    (server, document)
}

fn by_id(document: &Value) -> BTreeMap<String, Operation> {
    let operations = operations(document).into_iter();
    operations.map(|operation| (operation.id.clone(), operation)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/tiltyard.json");
    let text = std::fs::read_to_string(&path);
    let text = text.expect("openapi/tiltyard.json is missing: run `make openapi`");
    let checked_in: Value = serde_json::from_str(&text).expect("openapi/tiltyard.json is no JSON");
    let (_server, served) = served_document().await;
    assert!(
        checked_in == served,
        "openapi/tiltyard.json is not what is served: run `make openapi`"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reference_dangles() {
    let (_server, document) = served_document().await;
    let mut references = BTreeSet::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty(), "the document has no components");
    for reference in references {
        let target = reference.strip_prefix('#').and_then(|path| document.pointer(path));
        assert!(target.is_some(), "{reference} is dangling");
    }
}

fn collect_references(node: &Value, references: &mut BTreeSet<String>) {
    match node {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                references.insert(reference.clone());
            }
            fields.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(items) => {
            items.iter().for_each(|value| collect_references(value, references));
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_known_once() {
    let (_server, document) = served_document().await;
    let of_the_spec = by_id(&upstream::document());
    let mut seen = BTreeSet::new();
    for operation in operations(&document) {
        let id = operation.id.as_str();
        assert!(seen.insert(id.to_string()), "{id} is there twice");
        assert!(
            of_the_spec.contains_key(id) || OUR_OPERATIONS.contains(&id),
            "{id} is neither of the spec nor on the list of our own"
        );
        let tags = operation.node["tags"].as_array();
        assert!(tags.is_some_and(|tags| !tags.is_empty()), "{id} has no tag");
    }
    for id in OUR_OPERATIONS {
        assert!(seen.contains(id), "{id} is not in the document");
    }
}

/// What is not in the document is not claimed either; `errors.rs` asks for each operation of the spec.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capabilities_and_document_agree() {
    let (server, document) = served_document().await;
    let served = server.served().await;
    let documented = by_id(&document);
    for id in by_id(&upstream::document()).keys() {
        let (documented, served) = (documented.contains_key(id), served.contains(id));
        assert_eq!(documented, served, "{id}: in the document, in the capabilities");
    }
    for id in &served {
        assert!(documented.contains_key(id), "{id} is served and not documented");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_of_the_spec_are_as_the_spec_has_them() {
    let (_server, ours) = served_document().await;
    let theirs = upstream::document();
    let documented = by_id(&ours);
    let mut comparison = Comparison { theirs: &theirs, ours: &ours, complaints: Vec::new() };
    let mut compared = 0;
    for their in operations(&theirs) {
        if let Some(our) = documented.get(&their.id) {
            comparison.operation(&their, our);
            compared += 1;
        }
    }
    assert!(compared > 15, "only {compared} operations were compared");
    let complaints = comparison.complaints;
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The fields of an object, whatever it is put together from.
#[derive(Default)]
struct Shape<'a> {
    properties: BTreeMap<&'a str, &'a Value>,
    required: BTreeSet<&'a str>,
}

fn shape<'a>(document: &'a Value, schema: &'a Value) -> Shape<'a> {
    let schema = resolve(document, schema);
    let mut shape = Shape::default();
    if let Some(properties) = schema["properties"].as_object() {
        let properties = properties.iter().map(|(name, value)| (name.as_str(), value));
        shape.properties.extend(properties);
    }
    if let Some(required) = schema["required"].as_array() {
        shape.required.extend(required.iter().filter_map(Value::as_str));
    }
    for part in parts(schema, "allOf") {
        let part = self::shape(document, part);
        shape.properties.extend(part.properties);
        shape.required.extend(part.required);
    }
    // An optional object is one of null and itself.
    for choice in ["oneOf", "anyOf"] {
        let choices: Vec<&Value> =
            parts(schema, choice).filter(|part| part["type"] != "null").collect();
        for part in choices.iter().copied() {
            let part = self::shape(document, part);
            shape.properties.extend(part.properties);
            if choices.len() == 1 {
                shape.required.extend(part.required);
            }
        }
    }
    shape
}

fn parts<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    schema[key].as_array().into_iter().flatten()
}

/// What an array holds; `None` for what is no array.
fn items<'a>(document: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let schema = resolve(document, schema);
    if let Some(items) = schema.get("items") {
        return Some(items);
    }
    ["allOf", "oneOf", "anyOf"]
        .into_iter()
        .flat_map(|key| parts(schema, key))
        .find_map(|part| items(document, part))
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Response,
}

struct Comparison<'a> {
    theirs: &'a Value,
    ours: &'a Value,
    complaints: Vec<String>,
}

impl Comparison<'_> {
    fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }

    fn operation(&mut self, their: &Operation, our: &Operation) {
        let id = &their.id;
        if their.path != our.path || their.method != our.method {
            let (theirs, ours) = (&their.path, &our.path);
            let (method, our_method) = (&their.method, &our.method);
            self.complain(format!("{id}: {our_method} {ours} is not {method} {theirs}"));
        }
        self.parameters(their, our);
        self.request(their, our);
        self.response(their, our);
    }

    fn parameters(&mut self, their: &Operation, our: &Operation) {
        let id = &their.id;
        let theirs = parameters(self.theirs, their);
        let ours = parameters(self.ours, our);
        for (place, name) in theirs.keys() {
            if !ours.contains_key(&(place.clone(), name.clone())) {
                self.complain(format!("{id}: the {place} parameter {name} is missing"));
            }
        }
        for ((place, name), required) in ours {
            match theirs.get(&(place.clone(), name.clone())) {
                Some(theirs) if required && !theirs => {
                    self.complain(format!("{id}: the {place} parameter {name} is demanded"));
                }
                Some(_) => {}
                None => {
                    let listed = MORE_PARAMETERS
                        .iter()
                        .any(|(operation, more, _)| operation == id && *more == name);
                    if !listed || required {
                        self.complain(format!("{id}: the {place} parameter {name} is new"));
                    }
                }
            }
        }
    }

    fn request(&mut self, their: &Operation, our: &Operation) {
        let id = &their.id;
        let theirs = resolve(self.theirs, &their.node["requestBody"]);
        let ours = resolve(self.ours, &our.node["requestBody"]);
        if theirs.is_null() {
            if ours["required"] == true {
                self.complain(format!("{id}: a body is demanded"));
            }
            return;
        }
        let (theirs, ours) = (&theirs["content"], &ours["content"]);
        if theirs.get(ARROW_STREAM).is_some() && ours.get(ARROW_STREAM).is_none() {
            self.complain(format!("{id}: the body is no Arrow stream"));
        }
        if theirs.get(JSON).is_some() {
            let (theirs, ours) = (&theirs[JSON]["schema"], &ours[JSON]["schema"]);
            self.schema(Direction::Request, theirs, ours, &format!("{id} request"), 0);
        }
    }

    fn response(&mut self, their: &Operation, our: &Operation) {
        let id = &their.id;
        let responses = their.node["responses"].as_object().expect("responses");
        let success = responses.iter().find(|(status, _)| status.starts_with('2'));
        let (status, theirs) = success.expect("a response for a success");
        let theirs = resolve(self.theirs, theirs);
        let ours = resolve(self.ours, &our.node["responses"][status.as_str()]);
        if ours.is_null() {
            self.complain(format!("{id}: no response {status}"));
            return;
        }
        let Some(kinds) = theirs["content"].as_object() else {
            if ours["content"].as_object().is_some_and(|kinds| !kinds.is_empty()) {
                self.complain(format!("{id}: the response has a body"));
            }
            return;
        };
        for (kind, theirs) in kinds {
            let Some(ours) = ours["content"].get(kind) else {
                self.complain(format!("{id}: the response is not {kind}"));
                continue;
            };
            let (theirs, ours) = (&theirs["schema"], &ours["schema"]);
            let scalar = resolve(self.theirs, theirs)["type"].as_str();
            if kind == JSON && matches!(scalar, Some("integer" | "string")) {
                let our_type = &resolve(self.ours, ours)["type"];
                if our_type.as_str() != scalar {
                    self.complain(format!("{id}: the response is {our_type}, not {scalar:?}"));
                }
            }
            self.schema(Direction::Response, theirs, ours, &format!("{id} response"), 0);
        }
    }

    /// A request of ours must not demand more, and must take all of theirs; a response of ours must
    /// have all of theirs.
    fn schema(&mut self, way: Direction, theirs: &Value, ours: &Value, place: &str, depth: usize) {
        if depth > 6 {
            return;
        }
        if let Some(their_items) = items(self.theirs, theirs) {
            match items(self.ours, ours) {
                Some(items) => self.schema(way, their_items, items, place, depth + 1),
                None => self.complain(format!("{place} is no list")),
            }
            return;
        }
        let (their, our) = (shape(self.theirs, theirs), shape(self.ours, ours));
        let any_object = depth > 0 && our.properties.is_empty();
        if any_object && way == Direction::Request {
            return;
        }
        if way == Direction::Request {
            for name in our.required.difference(&their.required) {
                self.complain(format!("{place}: {name} is demanded"));
            }
        }
        for (name, their_field) in &their.properties {
            match our.properties.get(name) {
                Some(our_field) => {
                    let place = format!("{place}.{name}");
                    self.schema(way, their_field, our_field, &place, depth + 1);
                }
                None if OTHER_WAYS.iter().any(|(other, _)| other == name) => {}
                None => self.complain(format!("{place}: {name} is missing")),
            }
        }
    }
}

/// Path and query parameters: place and name, and whether they are required.
fn parameters(document: &Value, operation: &Operation) -> BTreeMap<(String, String), bool> {
    let mut parameters = BTreeMap::new();
    for parameter in &operation.parameters {
        let parameter = resolve(document, parameter);
        let place = parameter["in"].as_str().unwrap_or_default().to_string();
        let name = parameter["name"].as_str().unwrap_or_default().to_string();
        if place == "path" || place == "query" {
            parameters.insert((place, name), parameter["required"] == true);
        }
    }
    parameters
}
