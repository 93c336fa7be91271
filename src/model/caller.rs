use std::fmt;

/// Who makes a request. Every change records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: String,
}

impl Caller {
    /// The caller of a request that carries no identity.
    pub fn anonymous() -> Self {
        Self { name: "anonymous".into() }
    }

    /// The server itself: what its background jobs change.
    pub fn server() -> Self {
        Self { name: "tiltyard".into() }
    }

    /// A caller whose name was recorded.
    pub fn from_stored(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name that is recorded with a change.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
