//! What a scalar or full text index is built with.

use arrow::datatypes::DataType;
use lance::datatypes::{Field, Schema};
use lance_core::datatypes::parse_field_path;
use lance_index::scalar::InvertedIndexParams;
use lance_index::scalar::inverted::DocumentGranularity;
use serde::{Deserialize, Serialize};

use super::kind::IndexKind;
use crate::error::{Error, Result};

/// One of Lance's own setters.
type Switch = fn(InvertedIndexParams, bool) -> InvertedIndexParams;

/// How much memory building a full text index may take, in MiB, over all its workers.
const TEXT_MEMORY_MIB: u64 = 1_024;
const TEXT_WORKERS: usize = 2;
/// A token is a word; a longer limit is as good as none.
const MAX_TOKEN_BYTES: i64 = 1 << 20;
/// How many letters an ngram has when the caller does not say: Lance's own number.
const DEFAULT_NGRAM: u32 = 3;
/// Every length of ngram is one more token for each letter of the text.
const MAX_NGRAM: u32 = 32;
const MAX_STOP_WORDS_BYTES: usize = 256 << 10;

/// What a caller may say about a full text index; the names are the spec's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TextOptions {
    pub with_position: Option<bool>,
    pub base_tokenizer: Option<String>,
    pub language: Option<String>,
    pub max_token_length: Option<i64>,
    pub lower_case: Option<bool>,
    pub stem: Option<bool>,
    pub remove_stop_words: Option<bool>,
    pub ascii_folding: Option<bool>,
    /// Instead of those of the language.
    pub custom_stop_words: Option<Vec<String>>,
    /// For the tokenizer `ngram`, as the two below.
    pub min_ngram_length: Option<u32>,
    pub max_ngram_length: Option<u32>,
    pub prefix_only: Option<bool>,
    /// Documents in one compressed block: 128 or 256.
    pub block_size: Option<usize>,
    /// For the tokenizer `code`, as the three below.
    pub split_identifiers: Option<bool>,
    pub split_on_numerics: Option<bool>,
    pub preserve_original: Option<bool>,
    pub index_operators: Option<bool>,
    /// What is found: a `row`, or each `list_element` of it.
    pub document_granularity: Option<String>,
}

impl TextOptions {
    /// The first option that was given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("with_position", self.with_position.is_some()),
            ("base_tokenizer", self.base_tokenizer.is_some()),
            ("language", self.language.is_some()),
            ("max_token_length", self.max_token_length.is_some()),
            ("lower_case", self.lower_case.is_some()),
            ("stem", self.stem.is_some()),
            ("remove_stop_words", self.remove_stop_words.is_some()),
            ("ascii_folding", self.ascii_folding.is_some()),
            ("custom_stop_words", self.custom_stop_words.is_some()),
            ("min_ngram_length", self.min_ngram_length.is_some()),
            ("max_ngram_length", self.max_ngram_length.is_some()),
            ("prefix_only", self.prefix_only.is_some()),
            ("block_size", self.block_size.is_some()),
            ("split_identifiers", self.split_identifiers.is_some()),
            ("split_on_numerics", self.split_on_numerics.is_some()),
            ("preserve_original", self.preserve_original.is_some()),
            ("index_operators", self.index_operators.is_some()),
            ("document_granularity", self.document_granularity.is_some()),
        ];
        given.iter().find(|(_, given)| *given).map(|(name, _)| *name)
    }

    /// Lance's parameters; its defaults for what is not said.
    ///
    /// # Errors
    /// `InvalidInput` for a tokenizer or a language that Lance does not have.
    pub(super) fn params(&self) -> Result<InvertedIndexParams> {
        let mut params = InvertedIndexParams::default();
        if let Some(tokenizer) = &self.base_tokenizer {
            params = params.base_tokenizer(tokenizer.to_lowercase());
        }
        if let Some(language) = &self.language {
            params = params.language(&capitalized(language)).map_err(|_| {
                let shown: String = language.chars().take(64).collect();
                Error::invalid_input(format!(
                    "unknown language '{shown}'; name one in English, such as English or French"
                ))
            })?;
        }
        match self.max_token_length {
            None => {}
            Some(length) if (1..=MAX_TOKEN_BYTES).contains(&length) => {
                params = params.max_token_length(usize::try_from(length).ok());
            }
            Some(length) => {
                return Err(Error::invalid_input(format!(
                    "max_token_length must be from 1 to {MAX_TOKEN_BYTES}, and is {length}"
                )));
            }
        }
        params = self.ngrams(params)?;
        if let Some(words) = &self.custom_stop_words {
            if words.iter().map(String::len).sum::<usize>() > MAX_STOP_WORDS_BYTES {
                return Err(Error::invalid_input(format!(
                    "custom_stop_words has more than {MAX_STOP_WORDS_BYTES} bytes"
                )));
            }
            params = params.custom_stop_words(Some(words.clone()));
        }
        if let Some(size) = self.block_size {
            params = params
                .block_size(size)
                .map_err(|_| Error::invalid_input("block_size must be 128 or 256"))?;
        }
        params = self.granularity(params)?;
        let switches: [(Option<bool>, Switch); 10] = [
            (self.with_position, InvertedIndexParams::with_position),
            (self.lower_case, InvertedIndexParams::lower_case),
            (self.stem, InvertedIndexParams::stem),
            (self.remove_stop_words, InvertedIndexParams::remove_stop_words),
            (self.ascii_folding, InvertedIndexParams::ascii_folding),
            (self.prefix_only, InvertedIndexParams::ngram_prefix_only),
            (self.split_identifiers, InvertedIndexParams::split_identifiers),
            (self.split_on_numerics, InvertedIndexParams::split_on_numerics),
            (self.preserve_original, InvertedIndexParams::preserve_original),
            (self.index_operators, InvertedIndexParams::index_operators),
        ];
        for (given, set) in switches {
            if let Some(given) = given {
                params = set(params, given);
            }
        }
        // Building the tokenizer finds what does not go together, such as a language without stop
        // words, before anything is read.
        params.build().map_err(|error| {
            let why = match error {
                lance::Error::InvalidInput { source, .. } => source.to_string(),
                _ => "the language has no stemmer or no stop words: set stem or \
                      remove_stop_words to false"
                    .into(),
            };
            Error::invalid_input(format!(
                "the text cannot be tokenized so: {why}; base_tokenizer may be simple, whitespace, \
                 raw, ngram, code, icu or icu/split"
            ))
        })?;
        Ok(params.memory_limit_mb(TEXT_MEMORY_MIB).num_workers(TEXT_WORKERS))
    }

    fn granularity(&self, params: InvertedIndexParams) -> Result<InvertedIndexParams> {
        let Some(word) = &self.document_granularity else {
            return Ok(params);
        };
        let granularity = DocumentGranularity::try_from(word.as_str()).map_err(|_| {
            let shown: String = word.chars().take(64).collect();
            Error::invalid_input(format!(
                "unknown document_granularity '{shown}'; known are: row, list_element"
            ))
        })?;
        Ok(params.document_granularity(granularity))
    }

    fn ngrams(&self, params: InvertedIndexParams) -> Result<InvertedIndexParams> {
        let (least, most) = (self.min_ngram_length, self.max_ngram_length);
        let (first, last) =
            (least.unwrap_or(DEFAULT_NGRAM), most.unwrap_or(least.unwrap_or(0).max(DEFAULT_NGRAM)));
        if first == 0 || first > last || last > MAX_NGRAM {
            return Err(Error::invalid_input(format!(
                "min_ngram_length must be at least 1 and no more than max_ngram_length, which is at \
                 most {MAX_NGRAM}"
            )));
        }
        if least.is_none() && most.is_none() {
            return Ok(params);
        }
        Ok(params.ngram_min_length(first).ngram_max_length(last))
    }
}

/// Lance's languages are written so.
fn capitalized(word: &str) -> String {
    let mut letters = word.chars().filter(char::is_ascii_alphabetic);
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    let is_word = word.chars().all(|c| c.is_ascii_alphabetic());
    if is_word {
        first.into_iter().chain(letters.map(|c| c.to_ascii_lowercase())).collect()
    } else {
        // Not a word, so not a language: nothing that would end Lance's JSON string early.
        String::new()
    }
}

/// # Errors
/// `InvalidInput` when an index of the kind cannot be built on such a column.
pub(super) fn check_column(kind: IndexKind, path: &str, field: &Field) -> Result<()> {
    let data_type = field.data_type();
    let (fits, needs) = match kind {
        IndexKind::BTree | IndexKind::Bitmap | IndexKind::ZoneMap => (
            is_ordered(&data_type) && !field.is_blob(),
            "numbers, booleans, text, binary, decimals, dates or times",
        ),
        IndexKind::BloomFilter => (
            is_hashed(&data_type) && !field.is_blob(),
            "integers, float32, float64, text, binary, dates, times or timestamps",
        ),
        IndexKind::LabelList => (is_list_of_labels(&data_type), "lists of plain values"),
        IndexKind::NGram | IndexKind::MinHashLsh => (is_text(&data_type), "text"),
        IndexKind::Fm => (
            (is_text(&data_type) || matches!(data_type, DataType::Binary | DataType::LargeBinary))
                && !field.is_blob(),
            "text or binary",
        ),
        IndexKind::Fts => (is_document(field), "text, lists of text or JSON"),
        _ => (true, "vectors"),
    };
    if fits {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "a {} index needs a column of {needs}, and '{path}' is {data_type}",
        kind.as_str()
    )))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8)
}

fn is_ordered(data_type: &DataType) -> bool {
    data_type.is_numeric()
        || data_type.is_temporal()
        || is_text(data_type)
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::FixedSizeBinary(_)
        )
}

fn is_hashed(data_type: &DataType) -> bool {
    data_type.is_integer()
        || is_text(data_type)
        || matches!(
            data_type,
            DataType::Float32
                | DataType::Float64
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
        )
}

fn is_list_of_labels(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => {
            !item.data_type().is_nested() && !item.data_type().is_null()
        }
        _ => false,
    }
}

fn is_json(field: &Field) -> bool {
    field.logical_type.to_string() == "json"
}

fn is_document(field: &Field) -> bool {
    match field.data_type() {
        DataType::List(_) | DataType::LargeList(_) => {
            field.children.first().is_some_and(|item| is_text(&item.data_type()))
        }
        data_type => is_text(&data_type) || is_json(field),
    }
}

/// The field that a path names, for full text: the path may lead through lists of structs without
/// naming their items, as Lance's own paths of full text do.
pub(super) fn resolve_through_lists<'a>(schema: &'a Schema, path: &str) -> Option<&'a Field> {
    let names = parse_field_path(path).ok()?;
    let (root, rest) = names.split_first()?;
    let mut field = named(&schema.fields, root)?;
    for name in rest {
        while matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_)) {
            field = field.children.first()?;
        }
        field = named(&field.children, name)?;
    }
    Some(field)
}

fn named<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    let exact = fields.iter().find(|field| field.name == name);
    exact.or_else(|| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_options_are_checked_before_anything_is_read() {
        assert!(TextOptions::default().params().is_ok());
        let with = |language: &str, tokenizer: &str| TextOptions {
            language: Some(language.into()),
            base_tokenizer: Some(tokenizer.into()),
            ..Default::default()
        };
        assert!(with("french", "whitespace").params().is_ok());
        assert!(with("GERMAN", "SIMPLE").params().is_ok());
        assert!(with("English", "icu").params().is_ok());
        for (language, tokenizer) in [
            ("Klingon", "simple"),
            ("", "simple"),
            ("English\"", "simple"),
            ("English", "jieba/default"),
            ("English", "lindera/../../../etc"),
            ("English", ""),
        ] {
            let outcome = with(language, tokenizer).params();
            assert!(matches!(outcome, Err(Error::InvalidInput(_))), "{language} {tokenizer}");
        }
        for length in [0, -1, i64::MAX] {
            let options = TextOptions { max_token_length: Some(length), ..Default::default() };
            assert!(matches!(options.params(), Err(Error::InvalidInput(_))), "{length}");
        }
    }
}
