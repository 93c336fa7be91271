//! Full text queries of the spec. Their JSON is nearly Lance's own, and becomes that here.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};
use crate::http::extract::one_of;
use crate::lake::TextSearch;

/// What to search for; one of the two.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct QueryFullText {
    string_query: Option<StringFtsQuery>,
    structured_query: Option<StructuredFtsQuery>,
}

/// Any of the words of a text.
#[derive(Debug, Deserialize, ToSchema)]
pub struct StringFtsQuery {
    /// The columns to search; all that have a full text index when absent.
    columns: Option<Vec<String>>,
    query: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct StructuredFtsQuery {
    query: FtsQuery,
}

/// Exactly one of these.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct FtsQuery {
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matching: Option<MatchQuery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phrase: Option<PhraseQuery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boost: Option<BoostQuery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_match: Option<MultiMatchQuery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boolean: Option<BooleanQuery>,
}

/// Words in any order.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct MatchQuery {
    /// What the score is multiplied by; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    boost: Option<f32>,
    /// The column to search; all that have a full text index when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    /// In how many letters a word may differ; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    fuzziness: Option<u32>,
    /// How many similar words to look for; 50 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    max_expansions: Option<usize>,
    /// Whether all words must be there, `And`, or one of them, `Or`, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    operator: Option<Operator>,
    /// How many letters at the beginning must not differ; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    prefix_length: Option<u32>,
    terms: String,
}

/// Words in this order, side by side.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct PhraseQuery {
    /// The column to search; the only one that has a full text index when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    /// How many other words may stand between; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    slop: Option<u32>,
    terms: String,
}

/// What scores high, and what lowers the score.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct BoostQuery {
    #[schema(no_recursion)]
    positive: Box<FtsQuery>,
    #[schema(no_recursion)]
    negative: Box<FtsQuery>,
    /// What the score of `negative` is multiplied by before it is taken off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(default = 0.5)]
    negative_boost: Option<f32>,
}

/// The best of several searches.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct MultiMatchQuery {
    match_queries: Vec<MatchQuery>,
}

/// All of `must`, none of `must_not`; `should` adds to the score, and without `must` one of them
/// has to be there.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct BooleanQuery {
    #[serde(default)]
    #[schema(required, no_recursion)]
    must: Vec<FtsQuery>,
    #[serde(default)]
    #[schema(required, no_recursion)]
    must_not: Vec<FtsQuery>,
    #[serde(default)]
    #[schema(required, no_recursion)]
    should: Vec<FtsQuery>,
}

/// `And` or `Or`, in any case.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Operator {
    And,
    Or,
}

impl<'de> Deserialize<'de> for Operator {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let words = [("And", Self::And), ("Or", Self::Or)];
        one_of("operator", Some(&word), &words, Self::Or).map_err(serde::de::Error::custom)
    }
}

impl QueryFullText {
    /// `None` for an empty object.
    pub(super) fn into_search(self) -> Result<Option<TextSearch>> {
        match (self.string_query, self.structured_query) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(Error::invalid_input("give string_query or structured_query, not both"))
            }
            (Some(words), None) => {
                TextSearch::words(words.query, words.columns.unwrap_or_default()).map(Some)
            }
            (None, Some(structured)) => {
                structured.query.check()?;
                let json = serde_json::to_value(structured.query)
                    .map_err(|error| Error::internal("writing a full text query", error))?;
                TextSearch::from_json(json).map(Some)
            }
        }
    }
}

impl FtsQuery {
    /// # Errors
    /// `InvalidInput` for none or several at once, here or within.
    fn check(&self) -> Result<()> {
        let given = [
            self.matching.is_some(),
            self.phrase.is_some(),
            self.boost.is_some(),
            self.multi_match.is_some(),
            self.boolean.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err(Error::invalid_input(
                "a full text query must have exactly one of match, phrase, boost, multi_match, \
                 boolean",
            ));
        }
        if let Some(query) = &self.matching {
            query.check()?;
        }
        if let Some(query) = &self.multi_match {
            query.match_queries.iter().try_for_each(MatchQuery::check)?;
        }
        if let Some(boost) = &self.boost {
            check_factor("negative_boost", boost.negative_boost)?;
            boost.positive.check()?;
            boost.negative.check()?;
        }
        if let Some(parts) = &self.boolean {
            let parts = parts.must.iter().chain(&parts.must_not).chain(&parts.should);
            for part in parts {
                part.check()?;
            }
        }
        Ok(())
    }
}

impl MatchQuery {
    fn check(&self) -> Result<()> {
        check_factor("boost", self.boost)
    }
}

/// JSON has numbers that a float has not, and no infinity.
fn check_factor(name: &str, factor: Option<f32>) -> Result<()> {
    match factor {
        Some(factor) if !factor.is_finite() => {
            Err(Error::invalid_input(format!("{name} of a full text query is too large")))
        }
        _ => Ok(()),
    }
}
