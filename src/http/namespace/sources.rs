//! What a view is made of: the text that the spec leaves to server and client.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::http::extract::DEFAULT_DELIMITER;
use crate::lake::{Selection, ViewQuery};
use crate::model::TableId;

/// Fields of QueryTable that make a query a search.
const OF_A_SEARCH: [&str; 15] = [
    "vector",
    "vector_column",
    "full_text_query",
    "distance_type",
    "nprobes",
    "minimum_nprobes",
    "maximum_nprobes",
    "refine_factor",
    "ef",
    "lower_bound",
    "upper_bound",
    "bypass_vector_index",
    "fast_search",
    "prefilter",
    "k",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    table_id: Option<Vec<String>>,
    table: Option<String>,
    filter: Option<String>,
    columns: Option<Columns>,
    limit: Option<u64>,
    offset: Option<u64>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`columns` must be an object with either `column_names` or `column_aliases`, or a \
                 list of names"
)]
enum Columns {
    Names(Vec<String>),
    Object(ColumnsObject),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnsObject {
    column_names: Option<Vec<String>>,
    column_aliases: Option<BTreeMap<String, String>>,
}

/// Reads the text of a view's `source_query`.
///
/// # Errors
/// `InvalidInput` that says what is wrong with it; `Unsupported` for a search.
pub(super) fn parse_source(text: &str) -> Result<(TableId, ViewQuery)> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(unreadable)?;
    // What is null is absent.
    let fields: Map<String, Value> =
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if let Some(name) = OF_A_SEARCH.iter().find(|name| fields.contains_key(**name)) {
        return Err(Error::Unsupported(format!(
            "source_query: '{name}' is of a search, and a view of a search is not served; give \
             filter, columns, limit and offset"
        )));
    }
    if let Some(name) = ["version", "branch"].iter().find(|name| fields.contains_key(**name)) {
        return Err(Error::invalid_input(format!(
            "source_query: a view has no {name}: it is made of the main branch of its source, and \
             each refresh may name a src_version"
        )));
    }
    let source: Source = serde_json::from_value(Value::Object(fields)).map_err(unreadable)?;
    let table = match (source.table_id, source.table) {
        (Some(names), None) => TableId::from_list(&names)?,
        (None, Some(name)) => TableId::parse(&name, DEFAULT_DELIMITER)?,
        _ => {
            return Err(Error::invalid_input(
                "source_query names no table: give either table_id, such as [\"ns\", \"t\"], or \
                 table, such as \"ns$t\"",
            ));
        }
    };
    let query = ViewQuery {
        selection: source.columns.map_or(Ok(Selection::All), Columns::selection)?,
        filter: source.filter.filter(|filter| !filter.trim().is_empty()),
        limit: source.limit,
        offset: source.offset,
    };
    if query.limit == Some(0) {
        return Err(Error::invalid_input("source_query: limit must be at least 1"));
    }
    Ok((table, query))
}

impl Columns {
    fn selection(self) -> Result<Selection> {
        let object = match self {
            Self::Names(names) => return Ok(Selection::Columns(names)),
            Self::Object(object) => object,
        };
        match (object.column_names, object.column_aliases) {
            (Some(names), None) => Ok(Selection::Columns(names)),
            (None, Some(aliases)) => Ok(Selection::Aliases(aliases)),
            (None, None) => Ok(Selection::All),
            (Some(_), Some(_)) => Err(Error::invalid_input(
                "source_query: give column_names or column_aliases, not both",
            )),
        }
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::invalid_input(format!(
        "source_query is not the JSON of a query ({error}); it is a text such as {{\"table_id\": \
         [\"ns\", \"t\"], \"columns\": {{\"column_names\": [\"a\"]}}, \"filter\": \"a > 1\"}}"
    ))
}
