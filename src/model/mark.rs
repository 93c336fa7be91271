use std::sync::{Arc, OnceLock};

use uuid::Uuid;

/// Whether the change that a key stands for may have been made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Nobody had the key before.
    First,
    /// Somebody had it and gave no sign of life: the change may have landed.
    AfterAnother,
}

/// What a request that must take effect once leaves in the manifest of the version that it makes, so
/// that its retry finds it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Made of the key: the same for every try.
    pub id: Uuid,
    pub key_hash: String,
    /// Who holds the key, among those that were sent the same request.
    pub holder: Uuid,
    pub attempt: Attempt,
    /// When the key was first taken, in microseconds.
    pub since_us: i64,
}

/// The key of a request whose body is a stream: it is taken when all of the body has come, whose hash
/// is then known.
#[derive(Debug, Clone)]
pub struct StreamKey {
    bound: Arc<str>,
    body_hash: Arc<OnceLock<String>>,
}

impl StreamKey {
    /// `bound` is the key with all that it is bound to besides the body.
    pub fn new(bound: impl Into<Arc<str>>) -> Self {
        Self { bound: bound.into(), body_hash: Arc::default() }
    }

    pub fn bound(&self) -> &str {
        &self.bound
    }

    /// Notes the hash of the whole body.
    pub fn end(&self, body_hash: String) {
        let _ = self.body_hash.set(body_hash);
    }

    /// The hash of the body; `None` before its end.
    pub fn body_hash(&self) -> Option<&str> {
        self.body_hash.get().map(String::as_str)
    }
}
