//! The document of the upstream spec, with what its newest release changed.

use serde_json::{Value, json};

const DOCUMENT: &str = include_str!("../../upstream/lance-namespace-0.11.1.json");

/// The document as of 0.13.0, which `tests/upstream/README.md` says more about.
pub fn document() -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).expect("the upstream document");
    for request in ["QueryTableRequest", "AnalyzeTableQueryPlanRequest"] {
        let properties = document
            .pointer_mut(&format!("/components/schemas/{request}/properties"))
            .and_then(Value::as_object_mut)
            .expect("a request of the spec");
        for name in ["minimum_nprobes", "maximum_nprobes"] {
            properties.insert(name.into(), json!({"type": "integer", "minimum": 0}));
        }
    }
    let merge_insert = document
        .pointer_mut("/paths/~1v1~1table~1{id}~1merge_insert/parameters")
        .and_then(Value::as_array_mut)
        .expect("the parameters of MergeInsertIntoTable");
    for parameter in merge_insert {
        if parameter["name"] == "on" {
            parameter["schema"] = json!({"type": "array", "items": {"type": "string"}});
        }
    }
    let code = document
        .pointer_mut("/components/schemas/ErrorResponse/properties/code/description")
        .expect("the error codes");
    let mut codes = code.as_str().unwrap_or_default().to_string();
    for (number, name) in [(22, "TableBranchNotFound"), (23, "TableBranchAlreadyExists")] {
        if !codes.contains(name) {
            codes.push_str(&format!("  {number} - {name}\n"));
        }
    }
    *code = Value::from(codes);
    document
}

/// One operation of an OpenAPI document.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: String,
    /// In upper case.
    pub method: String,
    pub path: String,
    pub node: Value,
    /// The parameters of the path and of the operation, references not followed.
    pub parameters: Vec<Value>,
}

/// All operations of a document, in the order of its paths.
pub fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    let paths = document["paths"].as_object().expect("paths");
    for (path, item) in paths {
        let shared = item["parameters"].as_array().cloned().unwrap_or_default();
        for method in ["get", "post", "put", "patch", "delete", "head"] {
            let node = &item[method];
            let Some(id) = node["operationId"].as_str() else {
                assert!(node.is_null(), "{method} {path} has no operationId");
                continue;
            };
            let mut parameters = shared.clone();
            parameters.extend(node["parameters"].as_array().cloned().unwrap_or_default());
            operations.push(Operation {
                id: id.to_string(),
                method: method.to_uppercase(),
                path: path.clone(),
                node: node.clone(),
                parameters,
            });
        }
    }
    operations
}

/// Follows `$ref` until there is none.
pub fn resolve<'a>(document: &'a Value, node: &'a Value) -> &'a Value {
    let mut node = node;
    while let Some(reference) = node["$ref"].as_str() {
        let pointer = reference.strip_prefix('#');
        let pointer = pointer.unwrap_or_else(|| panic!("{reference} is in another document"));
        node = document.pointer(pointer).unwrap_or_else(|| panic!("{reference} is dangling"));
    }
    node
}
