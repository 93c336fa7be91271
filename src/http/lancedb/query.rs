//! Rows out: queries, their plans, and counts.

use std::collections::HashSet;

use axum::Json as Reply;
use axum::extract::State;
use axum::response::Response;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::At;
use super::deadline::Deadline;
use crate::error::Result;
use crate::http::AppState;
use crate::http::arrow::{Framing, respond};
use crate::http::error::ApiResult;
use crate::http::extract::{Json, TablePath, one_of};
use crate::http::namespace::query::QueryVector;
use crate::http::namespace::tables::get_table_on;
use crate::lake::{Accuracy, Detail, Query, Selection, Snapshot, SortKey, TextSearch, Vectors};
use crate::model::{Caller, TableId};

/// How many of the best rows are answered when the client does not say.
const DEFAULT_K: u64 = 10;
/// What the clients send for no limit, and what is as good as none.
const NO_LIMIT: u64 = i64::MAX.unsigned_abs();

/// What a query asks for. Clients send null for what is absent, and more than is read here: where
/// rows are found that are not yet in the table (`use_rte`) there are none here.
#[derive(Debug, Deserialize)]
pub(in crate::http) struct QueryRequest {
    version: Option<u64>,
    branch: Option<String>,
    k: Option<u64>,
    offset: Option<u64>,
    filter: Option<String>,
    prefilter: Option<bool>,
    columns: Option<Columns>,
    with_row_id: Option<bool>,
    fast_search: Option<bool>,
    order_by: Option<Vec<Order>>,
    full_text_query: Option<FullText>,
    vector: Option<QueryVector>,
    vector_column: Option<String>,
    distance_type: Option<String>,
    nprobes: Option<usize>,
    minimum_nprobes: Option<usize>,
    /// Zero for no maximum.
    maximum_nprobes: Option<usize>,
    ef: Option<usize>,
    refine_factor: Option<u32>,
    lower_bound: Option<f32>,
    upper_bound: Option<f32>,
    bypass_vector_index: Option<bool>,
    approx_mode: Option<String>,
    search_effort: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Order {
    column_name: String,
    ascending: Option<bool>,
    nulls_first: Option<bool>,
}

/// Lance's own query, or the words of older clients.
#[derive(Debug, Deserialize)]
struct FullText {
    query: serde_json::Value,
    columns: Option<Vec<String>>,
}

/// A list of names, or an object from names to expressions, whose order is that of the answer.
#[derive(Debug)]
struct Columns(Selection);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ColumnsVisitor)
    }
}

struct ColumnsVisitor;

impl<'de> Visitor<'de> for ColumnsVisitor {
    type Value = Columns;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a list of columns, or an object from names to SQL expressions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Columns, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = list.next_element()? {
            names.push(name);
        }
        Ok(Columns(Selection::Columns(names)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
        let (mut pairs, mut names) = (Vec::new(), HashSet::new());
        while let Some((name, text)) = map.next_entry::<String, String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("the column '{name}' is named twice")));
            }
            pairs.push((name, text));
        }
        Ok(Columns(Selection::Expressions(pairs)))
    }
}

impl QueryRequest {
    /// Opens the table that is asked, and says what it is asked for.
    pub(super) async fn open(self, state: &AppState, id: &TableId) -> Result<(Snapshot, Query)> {
        let (version, branch) = (self.version, self.branch.clone());
        let query = self.into_query()?;
        let table = get_table_on(state, id, branch.as_deref()).await?;
        Ok((state.engine.open(&table, version).await?, query))
    }

    fn into_query(mut self) -> Result<Query> {
        let queries = self.vector.take().map_or(Ok(None), QueryVector::queries)?;
        let text = self.full_text_query.take().map(FullText::into_search).transpose()?;
        let is_search = queries.is_some() || text.is_some();
        let limit = match self.k {
            None if is_search => Some(DEFAULT_K),
            k => k.filter(|k| *k < NO_LIMIT),
        };
        let order = self.order_by.take().unwrap_or_default().into_iter();
        Ok(Query {
            selection: self.columns.take().map_or(Selection::All, |columns| columns.0),
            filter: self.filter.take().filter(|filter| !filter.trim().is_empty()),
            prefilter: self.prefilter != Some(false),
            limit,
            offset: self.offset,
            with_row_id: self.with_row_id == Some(true),
            fast_search: self.fast_search == Some(true),
            order_by: order.map(SortKey::from).collect(),
            text,
            vectors: queries.map(|queries| self.vectors(queries)).transpose()?,
            ..Query::default()
        })
    }

    fn vectors(self, queries: Vec<Vec<f64>>) -> Result<Vectors> {
        // Without a maximum the plain number is only the least.
        let is_open = self.maximum_nprobes == Some(0);
        let plain = self.nprobes.filter(|_| self.search_effort.is_none());
        Ok(Vectors {
            queries,
            column: self.vector_column,
            distance_type: self.distance_type,
            lower_bound: self.lower_bound,
            upper_bound: self.upper_bound,
            nprobes: plain.filter(|_| !is_open),
            minimum_nprobes: self.minimum_nprobes.or(plain.filter(|_| is_open)),
            maximum_nprobes: self.maximum_nprobes.filter(|_| !is_open),
            refine_factor: self.refine_factor,
            ef: self.ef,
            bypass_index: self.bypass_vector_index == Some(true),
            search_effort: self.search_effort,
            accuracy: accuracy(self.approx_mode.as_deref())?,
        })
    }
}

fn accuracy(word: Option<&str>) -> Result<Accuracy> {
    let words =
        [("fast", Accuracy::Fast), ("normal", Accuracy::Normal), ("accurate", Accuracy::Accurate)];
    one_of("approx_mode", word, &words, Accuracy::Normal)
}

impl From<Order> for SortKey {
    fn from(order: Order) -> Self {
        Self {
            column: order.column_name,
            ascending: order.ascending != Some(false),
            nulls_first: order.nulls_first == Some(true),
        }
    }
}

impl FullText {
    fn into_search(self) -> Result<TextSearch> {
        match self.query {
            serde_json::Value::String(words) => {
                TextSearch::words(words, self.columns.unwrap_or_default())
            }
            query => TextSearch::from_json(query),
        }
    }
}

/// Answers the rows of a query as an Arrow file.
pub(in crate::http) async fn query(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    deadline: Deadline,
    Json(request): Json<QueryRequest>,
) -> ApiResult<At<Response>> {
    let (snapshot, query) = deadline.bound(request.open(&state, &id)).await?;
    let batches = deadline.bound(snapshot.query(&query)).await?;
    Ok(At(snapshot.version(), respond(deadline.until(batches), Framing::File).await?))
}

#[derive(Debug, Deserialize)]
pub(in crate::http) struct ExplainRequest {
    verbose: Option<bool>,
    query: QueryRequest,
}

/// Tells how a query would be answered.
pub(in crate::http) async fn explain_plan(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<ExplainRequest>,
) -> ApiResult<At<Reply<String>>> {
    let detail = if request.verbose == Some(true) { Detail::Full } else { Detail::Short };
    let (snapshot, query) = request.query.open(&state, &id).await?;
    Ok(At(snapshot.version(), Reply(snapshot.explain(&query, detail).await?)))
}

/// Runs a query, and tells how it was answered and what that took.
pub(in crate::http) async fn analyze_plan(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<QueryRequest>,
) -> ApiResult<At<Reply<String>>> {
    let (snapshot, query) = request.open(&state, &id).await?;
    Ok(At(snapshot.version(), Reply(snapshot.analyze(&query).await?)))
}

#[derive(Debug, Deserialize)]
pub(in crate::http) struct CountRequest {
    version: Option<u64>,
    branch: Option<String>,
    predicate: Option<String>,
}

/// Counts rows.
pub(in crate::http) async fn count_rows(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<CountRequest>,
) -> ApiResult<At<Reply<u64>>> {
    let table = get_table_on(&state, &id, request.branch.as_deref()).await?;
    let snapshot = state.engine.open(&table, request.version).await?;
    let predicate = request.predicate.as_deref().filter(|text| !text.trim().is_empty());
    Ok(At(snapshot.version(), Reply(snapshot.count_rows(predicate).await?)))
}
