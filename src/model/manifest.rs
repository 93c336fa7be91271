/// How Lance names manifest files: `V1` is `{version}.manifest`, `V2` counts down from the largest
/// number so that the newest sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamingScheme {
    V1,
    V2,
}

impl NamingScheme {
    /// The word that the catalog and the wire use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
        }
    }

    /// The inverse of [`Self::as_str`]; anything else is taken for Lance's default, `V2`.
    pub fn from_stored(word: &str) -> Self {
        if word == "V1" { Self::V1 } else { Self::V2 }
    }
}

/// A manifest as storage shows it.
#[derive(Debug, Clone)]
pub struct ManifestEntry {
    pub version: u64,
    /// Relative to the root of the object store, as Lance's own listing answers it.
    pub path: String,
    pub size_bytes: Option<u64>,
    pub e_tag: Option<String>,
    pub naming_scheme: NamingScheme,
    /// Microseconds since the Unix epoch.
    pub modified_at_us: i64,
}
