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

impl ManifestEntry {
    /// The claim of a version that stands.
    pub fn as_claim(&self) -> ManifestClaim {
        ManifestClaim {
            version: self.version,
            path: self.path.clone(),
            size_bytes: self.size_bytes.unwrap_or(0),
            state: ClaimState::Final,
        }
    }
}

/// The manifest that was chosen to be a version, where the catalog decides that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestClaim {
    pub version: u64,
    /// Where it stands, relative to the root of the object store: where it is staged, and once it
    /// is at its final name, that.
    pub path: String,
    pub size_bytes: u64,
    pub state: ClaimState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimState {
    /// It still has to be copied to its final name.
    Staged,
    Final,
}
