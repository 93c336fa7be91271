use uuid::Uuid;

/// What inserting does with the rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertMode {
    Append,
    Overwrite,
}

impl InsertMode {
    /// The word that the catalog uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Overwrite => "overwrite",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn from_stored(word: &str) -> Option<Self> {
        [Self::Append, Self::Overwrite].into_iter().find(|mode| mode.as_str() == word)
    }
}

/// How far a multipart write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultipartState {
    /// It takes parts.
    Open,
    /// Its parts are being committed. It stays so when nobody knows what came of that.
    Completing,
    /// Its parts are rows of a version.
    Committed,
    /// It was aborted, or its time is over.
    Aborted,
}

impl MultipartState {
    const ALL: [Self; 4] = [Self::Open, Self::Completing, Self::Committed, Self::Aborted];

    /// The inverse of [`Self::as_str`].
    pub fn from_stored(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The word that the catalog uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completing => "completing",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
        }
    }
}

/// Rows that come in parts, by several requests at once, and become one version.
#[derive(Debug, Clone)]
pub struct MultipartWrite {
    pub key: Uuid,
    pub state: MultipartState,
    /// What all of its parts agree on; none before there is a part.
    pub mode: Option<InsertMode>,
    /// How many parts are committed; noted when it is completed.
    pub num_parts: Option<u64>,
    /// The newest version of the table when completing began: what it made comes after it.
    pub read_version: u64,
    /// The version that its parts became.
    pub version: Option<u64>,
    /// Microseconds since the Unix epoch.
    pub expires_at_us: i64,
}

/// Which part of which multipart write an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub session: Uuid,
    /// The client's name of the part: one that comes again takes the place of the former.
    pub name: Option<String>,
}
