//! The kinds of index, and the words for them.

use lance_index::IndexType;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A kind of index that Lance builds on one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexKind {
    IvfFlat,
    IvfPq,
    IvfSq,
    IvfRq,
    IvfHnswFlat,
    IvfHnswPq,
    IvfHnswSq,
    BTree,
    Bitmap,
    LabelList,
    NGram,
    ZoneMap,
    BloomFilter,
    Fm,
    MinHashLsh,
    Fts,
}

/// Every kind with its word, which is the one that listings answer.
const WORDS: [(&str, IndexKind); 16] = [
    ("IVF_FLAT", IndexKind::IvfFlat),
    ("IVF_PQ", IndexKind::IvfPq),
    ("IVF_SQ", IndexKind::IvfSq),
    ("IVF_RQ", IndexKind::IvfRq),
    ("IVF_HNSW_FLAT", IndexKind::IvfHnswFlat),
    ("IVF_HNSW_PQ", IndexKind::IvfHnswPq),
    ("IVF_HNSW_SQ", IndexKind::IvfHnswSq),
    ("BTREE", IndexKind::BTree),
    ("BITMAP", IndexKind::Bitmap),
    ("LABEL_LIST", IndexKind::LabelList),
    ("NGRAM", IndexKind::NGram),
    ("ZONEMAP", IndexKind::ZoneMap),
    ("BLOOM_FILTER", IndexKind::BloomFilter),
    ("FM", IndexKind::Fm),
    ("MINHASH_LSH", IndexKind::MinHashLsh),
    ("FTS", IndexKind::Fts),
];

/// Other words that clients and Lance use: `VECTOR` and `SCALAR` are Lance's old names.
const ALIASES: [(&str, IndexKind); 6] = [
    ("INVERTED", IndexKind::Fts),
    ("VECTOR", IndexKind::IvfPq),
    ("SCALAR", IndexKind::BTree),
    ("HNSW_FLAT", IndexKind::IvfHnswFlat),
    ("HNSW_PQ", IndexKind::IvfHnswPq),
    ("HNSW_SQ", IndexKind::IvfHnswSq),
];

/// Kinds that Lance knows and that cannot be built here, with the reason.
const NOT_BUILT: [(&str, &str); 2] = [
    ("RTREE", "this server is built without Lance's support for geometries"),
    (
        "JSON",
        "it needs the path of a JSON value, which this operation has no field for; an FTS index can \
         be built on a JSON column",
    ),
];

fn plain(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).collect::<String>().to_lowercase()
}

impl IndexKind {
    /// Reads a word in any case, with or without underscores.
    ///
    /// # Errors
    /// `InvalidInput` that lists the words; `Unsupported` for a kind that cannot be built here.
    pub fn parse(word: &str) -> Result<Self> {
        let given = plain(word);
        let known = WORDS.iter().chain(&ALIASES).find(|(word, _)| plain(word) == given);
        if let Some((_, kind)) = known {
            return Ok(*kind);
        }
        if let Some((name, why)) = NOT_BUILT.iter().find(|(name, _)| plain(name) == given) {
            return Err(Error::Unsupported(format!("a {name} index cannot be built: {why}")));
        }
        let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
        let shown: String = word.chars().take(64).collect();
        Err(Error::invalid_input(format!(
            "unknown index_type '{shown}'; known are: {}",
            words.join(", ")
        )))
    }

    /// The word that listings answer.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(_, kind)| *kind == self).map_or("Unknown", |(word, _)| word)
    }

    /// Whether the index answers nearest-neighbour searches.
    pub fn is_vector(self) -> bool {
        self.lance_type().is_vector()
    }

    /// Whether the vectors are coded by product quantization.
    pub(super) fn has_pq(self) -> bool {
        matches!(self, Self::IvfPq | Self::IvfHnswPq)
    }

    /// Whether each partition holds a graph.
    pub(super) fn has_hnsw(self) -> bool {
        matches!(self, Self::IvfHnswFlat | Self::IvfHnswPq | Self::IvfHnswSq)
    }

    pub(super) fn lance_type(self) -> IndexType {
        match self {
            Self::IvfFlat => IndexType::IvfFlat,
            Self::IvfPq => IndexType::IvfPq,
            Self::IvfSq => IndexType::IvfSq,
            Self::IvfRq => IndexType::IvfRq,
            Self::IvfHnswFlat => IndexType::IvfHnswFlat,
            Self::IvfHnswPq => IndexType::IvfHnswPq,
            Self::IvfHnswSq => IndexType::IvfHnswSq,
            Self::BTree => IndexType::BTree,
            Self::Bitmap => IndexType::Bitmap,
            Self::LabelList => IndexType::LabelList,
            Self::NGram => IndexType::NGram,
            Self::ZoneMap => IndexType::ZoneMap,
            Self::BloomFilter => IndexType::BloomFilter,
            Self::Fm => IndexType::Fm,
            Self::MinHashLsh => IndexType::MinHashLsh,
            Self::Fts => IndexType::Inverted,
        }
    }
}

/// The word for what Lance calls an index it found: clients refuse words that they do not know.
pub(super) fn friendly(lance: &str) -> String {
    match IndexKind::parse(lance) {
        // Lance says `Vector` of an old index whose kind its manifest does not tell.
        Ok(_) if plain(lance) == "vector" => "Unknown".into(),
        Ok(kind) => kind.as_str().into(),
        Err(_) if NOT_BUILT.iter().any(|(name, _)| plain(name) == plain(lance)) => {
            plain(lance).to_uppercase()
        }
        Err(_) => "Unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_form() {
        for (word, kind) in WORDS {
            assert_eq!(IndexKind::parse(word).unwrap(), kind);
            assert_eq!(IndexKind::parse(&word.to_lowercase()).unwrap(), kind);
            assert_eq!(IndexKind::parse(&word.replace('_', "")).unwrap(), kind);
            assert_eq!(kind.as_str(), word);
        }
        assert_eq!(IndexKind::parse("Inverted").unwrap(), IndexKind::Fts);
        assert_eq!(IndexKind::parse("BTree").unwrap(), IndexKind::BTree);
        assert!(matches!(IndexKind::parse("RTREE"), Err(Error::Unsupported(_))));
        assert!(matches!(IndexKind::parse("JSON"), Err(Error::Unsupported(_))));
        assert!(matches!(IndexKind::parse("IVF"), Err(Error::InvalidInput(_))));
        assert!(matches!(IndexKind::parse(""), Err(Error::InvalidInput(_))));
    }

    #[test]
    fn what_lance_found_has_a_word() {
        assert_eq!(friendly("Inverted"), "FTS");
        assert_eq!(friendly("IVF_PQ"), "IVF_PQ");
        assert_eq!(friendly("RTree"), "RTREE");
        assert_eq!(friendly("Vector"), "Unknown");
        assert_eq!(friendly("Unknown"), "Unknown");
    }
}
