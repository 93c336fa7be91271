//! Rows out: queries, their plans, and counts.

use std::collections::HashSet;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::USER_AGENT;
use axum::response::Response;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::At;
use super::changes::write_ahead_not_served;
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

/// What a query asks for. Clients send null for what is absent.
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
    /// Whether rows are answered too that are in LanceDB's log of writes and not yet in the table.
    #[serde(alias = "use_lsm")]
    use_rte: Option<bool>,
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
    /// Asks the table what it is asked for. Answers the version that was asked, too.
    pub(super) async fn ask<T>(
        self,
        state: &AppState,
        id: &TableId,
        work: impl AsyncFnOnce(Snapshot, Query) -> Result<T>,
    ) -> Result<At<T>> {
        if self.use_rte == Some(true) {
            return Err(write_ahead_not_served());
        }
        let (version, branch) = (self.version, self.branch.clone());
        let query = self.into_query()?;
        let table = get_table_on(state, id, branch.as_deref()).await?;
        let read = async |snapshot: Snapshot| {
            let version = snapshot.version();
            work(snapshot, query).await.map(|answer| At(version, answer))
        };
        state.engine.read(&table, version, read).await
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

/// The largest body of a query, in MiB: it may hold some hundred vectors.
const MAX_MIB: u64 = 16;

/// Clients since 0.38 tell a stream from a file, and a stream can hold dictionaries that change; those
/// before take every answer for a file.
fn framing(headers: &HeaderMap) -> Framing {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let version = agent.strip_prefix("LanceDB-").and_then(|agent| agent.split_once('/'));
    let numbers = version.map(|(_, version)| version.split('.').map(str::parse::<u32>));
    let is_new = numbers.is_some_and(|mut numbers| match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (0, 38),
        _ => false,
    });
    if is_new { Framing::StreamWithDictionaries } else { Framing::File }
}

/// Answers the rows of a query as an Arrow file, or as a stream to clients that read those.
pub(in crate::http) async fn query(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    deadline: Deadline,
    headers: HeaderMap,
    Json(request): Json<QueryRequest, MAX_MIB>,
) -> ApiResult<At<Response>> {
    let framing = framing(&headers);
    let run = async |snapshot: Snapshot, query: Query| {
        respond(deadline.until(snapshot.query(&query).await?), framing).await
    };
    Ok(deadline.bound(request.ask(&state, &id, run)).await?)
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
    Json(request): Json<ExplainRequest, MAX_MIB>,
) -> ApiResult<At<Reply<String>>> {
    let detail = if request.verbose == Some(true) { Detail::Full } else { Detail::Short };
    let explain =
        async |snapshot: Snapshot, query: Query| snapshot.explain(&query, detail).await.map(Reply);
    Ok(request.query.ask(&state, &id, explain).await?)
}

/// Runs a query, and tells how it was answered and what that took.
pub(in crate::http) async fn analyze_plan(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
    Json(request): Json<QueryRequest, MAX_MIB>,
) -> ApiResult<At<Reply<String>>> {
    let analyze =
        async |snapshot: Snapshot, query: Query| snapshot.analyze(&query).await.map(Reply);
    Ok(request.ask(&state, &id, analyze).await?)
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
    let predicate = request.predicate.as_deref().filter(|text| !text.trim().is_empty());
    let count = async |snapshot: Snapshot| {
        let rows = snapshot.count_rows(predicate).await?;
        Ok(At(snapshot.version(), Reply(rows)))
    };
    Ok(state.engine.read(&table, request.version, count).await?)
}
