//! What a query asks for, as it is asked when it is run, explained or analysed.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::fulltext::QueryFullText;
use super::tables::get_table_on;
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::TablePath;
use crate::http::openapi::Envelope;
use crate::lake::{Query, Selection, Snapshot, Vectors};

/// How many of the best rows are answered when the caller does not say.
const DEFAULT_K: u64 = 10;

/// One query vector, or several. Instead of the object a bare list of numbers, or of such lists, is
/// read as well; an empty list or object stands for none.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(from = "AnyVector")]
pub struct QueryVector {
    #[schema(value_type = Option<Vec<f32>>)]
    single_vector: Option<Vec<f64>>,
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    multi_vector: Option<Vec<Vec<f64>>>,
}

/// The forms in which clients send vectors.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`vector` must be an object with `single_vector`, a list of numbers, or \
                 `multi_vector`, a list of such lists"
)]
enum AnyVector {
    One(Vec<f64>),
    Several(Vec<Vec<f64>>),
    Named { single_vector: Option<Vec<f64>>, multi_vector: Option<Vec<Vec<f64>>> },
}

impl From<AnyVector> for QueryVector {
    fn from(vector: AnyVector) -> Self {
        match vector {
            AnyVector::One(numbers) if numbers.is_empty() => Self::default(),
            AnyVector::One(numbers) => Self { single_vector: Some(numbers), multi_vector: None },
            AnyVector::Several(lists) => Self { single_vector: None, multi_vector: Some(lists) },
            AnyVector::Named { single_vector, multi_vector } => {
                Self { single_vector, multi_vector }
            }
        }
    }
}

/// Which columns to answer; one of the two. A column is named by its Lance field path.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct QueryColumns {
    column_names: Option<Vec<String>>,
    /// From the name in the answer to the column in the table.
    column_aliases: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct QueryTableRequest {
    #[serde(flatten)]
    envelope: Envelope,
    /// The main branch when absent.
    branch: Option<String>,
    bypass_vector_index: Option<bool>,
    columns: Option<QueryColumns>,
    /// `l2`, `cosine`, `dot` or `hamming`; that of the index when absent, else `l2`, and of bytes
    /// `hamming`.
    distance_type: Option<String>,
    /// How many candidates an HNSW index keeps while it searches; no less than `k`.
    #[schema(minimum = 0)]
    ef: Option<usize>,
    /// Whether a search leaves out the rows that no index covers.
    fast_search: Option<bool>,
    /// A SQL expression.
    filter: Option<String>,
    full_text_query: Option<QueryFullText>,
    /// How many rows to answer, at least 1: the best of a search, or else the first; 10 when absent
    /// in a search, else all.
    #[schema(minimum = 0)]
    k: Option<u64>,
    /// The smallest distance that counts.
    lower_bound: Option<f32>,
    /// The first distance that does not count any more.
    upper_bound: Option<f32>,
    /// How many partitions of an IVF index to search, at least 1; the two below win over it.
    #[schema(minimum = 0)]
    nprobes: Option<usize>,
    #[schema(minimum = 0)]
    minimum_nprobes: Option<usize>,
    #[schema(minimum = 0)]
    maximum_nprobes: Option<usize>,
    #[schema(minimum = 0)]
    offset: Option<u64>,
    /// Whether the filter applies before the search.
    prefilter: Option<bool>,
    /// How many times more rows to fetch and to rank again by their own vectors, at least 1.
    #[schema(minimum = 0)]
    refine_factor: Option<u32>,
    vector: Option<QueryVector>,
    /// The column to search; the only vector column when absent.
    vector_column: Option<String>,
    /// The version to query; the newest when absent.
    #[schema(minimum = 0)]
    version: Option<u64>,
    /// Whether the answer has a column `_rowid`.
    with_row_id: Option<bool>,
}

impl QueryTableRequest {
    /// The same query on another branch, if one is named.
    pub(super) fn on_branch(mut self, branch: Option<String>) -> Self {
        self.branch = branch.or(self.branch);
        self
    }

    /// Asks the table what it is asked for.
    pub(super) async fn ask<T>(
        self,
        state: &AppState,
        path: TablePath,
        work: impl AsyncFnOnce(Snapshot, Query) -> Result<T>,
    ) -> Result<T> {
        let id = path.matching(self.envelope.id.as_deref())?;
        let (version, branch) = (self.version, self.branch.clone());
        let query = self.into_query()?;
        let table = get_table_on(state, &id, branch.as_deref()).await?;
        state.engine.read(&table, version, async |snapshot| work(snapshot, query).await).await
    }

    fn into_query(mut self) -> Result<Query> {
        if self.k == Some(0) {
            return Err(Error::invalid_input("k must be at least 1"));
        }
        let selection = self.columns.take().map_or(Ok(Selection::All), QueryColumns::selection)?;
        let text = self.full_text_query.take().map(QueryFullText::into_search).transpose()?;
        let text = text.flatten();
        let queries = self.vector.take().map_or(Ok(None), QueryVector::queries)?;
        let k = match &queries {
            None if text.is_none() => self.k,
            _ => Some(self.k.unwrap_or(DEFAULT_K)),
        };
        Ok(Query {
            selection,
            filter: self.filter.take().filter(|filter| !filter.trim().is_empty()),
            prefilter: self.prefilter == Some(true),
            limit: k,
            offset: self.offset,
            with_row_id: self.with_row_id == Some(true),
            fast_search: self.fast_search == Some(true),
            text,
            vectors: queries.map(|queries| self.vectors(queries)),
            ..Query::default()
        })
    }

    fn vectors(self, queries: Vec<Vec<f64>>) -> Vectors {
        Vectors {
            queries,
            column: self.vector_column,
            distance_type: self.distance_type,
            lower_bound: self.lower_bound,
            upper_bound: self.upper_bound,
            nprobes: self.nprobes,
            minimum_nprobes: self.minimum_nprobes,
            maximum_nprobes: self.maximum_nprobes,
            refine_factor: self.refine_factor,
            ef: self.ef,
            bypass_index: self.bypass_vector_index == Some(true),
            ..Vectors::default()
        }
    }
}

impl QueryColumns {
    fn selection(self) -> Result<Selection> {
        match (self.column_names, self.column_aliases) {
            (Some(_), Some(_)) => {
                Err(Error::invalid_input("give column_names or column_aliases, not both"))
            }
            (Some(names), None) => Ok(Selection::Columns(names)),
            (None, Some(aliases)) => Ok(Selection::Aliases(aliases)),
            (None, None) => Ok(Selection::All),
        }
    }
}

impl QueryVector {
    pub(in crate::http) fn queries(self) -> Result<Option<Vec<Vec<f64>>>> {
        match (self.single_vector, self.multi_vector) {
            (Some(_), Some(_)) => {
                Err(Error::invalid_input("give single_vector or multi_vector, not both"))
            }
            // LanceDB's client says so that it searches for none.
            (Some(vector), None) if vector.is_empty() => Ok(None),
            (Some(vector), None) => Ok(Some(vec![vector])),
            (None, vectors) => Ok(vectors.filter(|vectors| !vectors.is_empty())),
        }
    }
}
