//! Searching for words.

use arrow::datatypes::DataType;
use lance::dataset::scanner::Scanner;
use lance_core::datatypes::{Field, Schema, parse_field_path};
use lance_index::scalar::FullTextSearchQuery;
use lance_index::scalar::inverted::query::{FtsQuery, MatchQuery, MultiMatchQuery};

use super::{Snapshot, failure};
use crate::error::{Error, Result};

/// How deep queries may nest.
const MAX_NESTING: usize = 16;
/// How many searches one query may be made of: each reads an index, or the column.
const MAX_SEARCHES: usize = 256;
/// How much text they may have together.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// How many words they may have together.
const MAX_WORDS: usize = 1_024;
/// How many words one search may have that also finds similar ones: the words of the index are gone
/// through for each.
const MAX_FUZZY_WORDS: usize = 64;
/// From here on letters are mostly words by themselves, or syllables.
const FIRST_IDEOGRAPH: char = '\u{2e80}';
/// Some indexes cut long words into many short ones.
const LONG_WORD_LETTERS: usize = 32;
/// How many letters a word may differ in: an automaton is made of the word, and grows with it.
const MAX_FUZZINESS: u32 = 8;
/// How many similar words one search may look for.
const MAX_EXPANSIONS: usize = 10_000;

/// A full text search, in Lance's own terms.
#[derive(Debug, Clone)]
pub struct TextSearch(FtsQuery);

impl TextSearch {
    /// Any of the words, in the columns; in all that have a full text index when there are none.
    ///
    /// # Errors
    /// `InvalidInput` for more text than is served.
    pub fn words(text: String, mut columns: Vec<String>) -> Result<Self> {
        columns.sort_unstable();
        columns.dedup();
        let words = |column| MatchQuery::new(text.clone()).with_column(column);
        Self::checked(match columns.len() {
            0 | 1 => FtsQuery::Match(words(columns.pop())),
            _ => FtsQuery::MultiMatch(MultiMatchQuery {
                match_queries: columns.into_iter().map(|column| words(Some(column))).collect(),
            }),
        })
    }

    /// Lance's own JSON of a query: one of `match`, `phrase`, `boost`, `multi_match`, `boolean`.
    ///
    /// # Errors
    /// `InvalidInput` for another JSON, and for a query that is larger than is served.
    pub fn from_json(json: serde_json::Value) -> Result<Self> {
        let query = serde_json::from_value(json).map_err(|error| {
            let why = failure::shortened(failure::without_places(&error.to_string()));
            Error::invalid_input(format!("the full_text_query is none of Lance's: {why}"))
        })?;
        Self::checked(query)
    }

    fn checked(query: FtsQuery) -> Result<Self> {
        let mut size = Size::default();
        size.add(&query, 1)?;
        if size.searches > MAX_SEARCHES || size.bytes > MAX_TEXT_BYTES {
            return Err(Error::invalid_input(format!(
                "the full_text_query has {} searches and {} bytes of text: no more than \
                 {MAX_SEARCHES} and {MAX_TEXT_BYTES} are served",
                size.searches, size.bytes
            )));
        }
        if size.words > MAX_WORDS {
            return Err(Error::invalid_input(format!(
                "the full_text_query has {} words: no more than {MAX_WORDS} are served",
                size.words
            )));
        }
        Ok(Self(query))
    }
}

/// What a query costs to plan.
#[derive(Default)]
struct Size {
    searches: usize,
    bytes: usize,
    words: usize,
}

impl Size {
    fn add(&mut self, query: &FtsQuery, depth: usize) -> Result<()> {
        if depth > MAX_NESTING {
            return Err(Error::invalid_input(format!(
                "the full_text_query nests deeper than {MAX_NESTING} levels"
            )));
        }
        match query {
            FtsQuery::Match(query) => self.add_match(query)?,
            FtsQuery::Phrase(query) => self.add_text(&query.terms),
            FtsQuery::CombinedFields(query) => {
                let columns = query.column_names().len();
                (0..columns).for_each(|_| self.add_text(query.terms()));
            }
            FtsQuery::MultiMatch(query) => {
                if query.match_queries.is_empty() {
                    return Err(Error::invalid_input("a multi_match has no match_queries"));
                }
                query.match_queries.iter().try_for_each(|query| self.add_match(query))?;
            }
            FtsQuery::Boost(query) => {
                self.add(&query.positive, depth + 1)?;
                self.add(&query.negative, depth + 1)?;
            }
            FtsQuery::Boolean(query) => {
                if query.must.is_empty() && query.should.is_empty() {
                    return Err(Error::invalid_input(
                        "a boolean query has neither must nor should: it would find nothing",
                    ));
                }
                let parts = query.must.iter().chain(&query.should).chain(&query.must_not);
                for part in parts {
                    self.add(part, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn add_match(&mut self, query: &MatchQuery) -> Result<()> {
        if query.fuzziness.is_some_and(|letters| letters > MAX_FUZZINESS) {
            return Err(Error::invalid_input(format!(
                "a match has a fuzziness above {MAX_FUZZINESS}"
            )));
        }
        if query.max_expansions > MAX_EXPANSIONS {
            return Err(Error::invalid_input(format!(
                "a match has max_expansions above {MAX_EXPANSIONS}"
            )));
        }
        // Without a number, Lance takes one that fits the length of each word.
        let words = count_words(&query.terms);
        if query.fuzziness != Some(0) && words > MAX_FUZZY_WORDS {
            return Err(Error::invalid_input(format!(
                "a match with fuzziness has {words} words: no more than {MAX_FUZZY_WORDS} are \
                 served"
            )));
        }
        self.add_text(&query.terms);
        Ok(())
    }

    fn add_text(&mut self, text: &str) {
        self.searches += 1;
        self.bytes += text.len();
        self.words += count_words(text);
    }
}

/// About how many words an index makes of a text; how it cuts texts is its own matter.
fn count_words(text: &str) -> usize {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let count = |word: &str| {
        let (mut letters, mut ideographs) = (0_usize, 0);
        word.chars().for_each(|c| if c < FIRST_IDEOGRAPH { letters += 1 } else { ideographs += 1 });
        letters.div_ceil(LONG_WORD_LETTERS) + ideographs
    };
    words.map(count).sum()
}

impl Snapshot {
    /// Tells the scanner what to search for.
    ///
    /// # Errors
    /// `TableColumnNotFound`, `InvalidInput` for a column that holds no text.
    pub(super) fn prepare_text(&self, scanner: &mut Scanner, search: &TextSearch) -> Result<()> {
        let mut columns = Vec::new();
        collect_columns(&search.0, &mut columns);
        for column in columns {
            let field = text_field(self.dataset.schema(), column);
            let field = field.ok_or_else(|| self.no_column(column))?;
            if !holds_text(field) {
                return Err(Error::invalid_input(format!(
                    "the column '{column}' holds no text: it is of the type {}",
                    field.data_type()
                )));
            }
        }
        scanner
            .full_text_search(FullTextSearchQuery::new_query(search.0.clone()))
            .map(|_| ())
            .map_err(|error| self.failed(error))
    }
}

fn collect_columns<'a>(query: &'a FtsQuery, columns: &mut Vec<&'a str>) {
    match query {
        FtsQuery::Match(query) => columns.extend(query.column.as_deref()),
        FtsQuery::Phrase(query) => columns.extend(query.column.as_deref()),
        FtsQuery::CombinedFields(query) => columns.extend(query.column_names()),
        FtsQuery::MultiMatch(query) => {
            columns.extend(query.match_queries.iter().filter_map(|query| query.column.as_deref()));
        }
        FtsQuery::Boost(query) => {
            collect_columns(&query.positive, columns);
            collect_columns(&query.negative, columns);
        }
        FtsQuery::Boolean(query) => {
            let parts = query.must.iter().chain(&query.should).chain(&query.must_not);
            parts.for_each(|part| collect_columns(part, columns));
        }
    }
}

/// The field that a path leads to. Lance's full text search looks through lists on the way.
fn text_field<'a>(schema: &'a Schema, path: &str) -> Option<&'a Field> {
    let names = parse_field_path(path).ok()?;
    let (first, rest) = names.split_first()?;
    let first = schema.fields.iter().find(|field| field.name == *first)?;
    rest.iter().try_fold(first, |field, name| {
        through_lists(field).children.iter().find(|child| child.name == *name)
    })
}

fn through_lists(mut field: &Field) -> &Field {
    while matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_))
        && let Some(item) = field.children.first()
    {
        field = item;
    }
    field
}

fn holds_text(field: &Field) -> bool {
    let kind = &through_lists(field).logical_type;
    ["string", "large_string", "json"].contains(&kind.to_string().as_str())
}
