use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Asked, Mark, StreamKey};

/// Who makes a request, and whether it is to take effect once. Every change records the name.
#[derive(Debug, Clone)]
pub struct Caller {
    name: String,
    /// Whose grants are the caller's too.
    groups: Arc<[String]>,
    /// Whether it gets a role of its own on what it makes.
    owns: bool,
    asked: Option<Arc<Asked>>,
    key: Option<StreamKey>,
    mark: Option<Arc<Mark>>,
    patience: Option<Duration>,
}

impl Caller {
    /// The caller of a request that carries no identity.
    pub fn anonymous() -> Self {
        Self::from_stored("anonymous")
    }

    /// The server itself: what its background jobs change.
    pub fn server() -> Self {
        Self::from_stored("tiltyard")
    }

    /// A caller whose name was recorded.
    pub fn from_stored(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            groups: Arc::default(),
            owns: false,
            asked: None,
            key: None,
            mark: None,
            patience: None,
        }
    }

    /// A caller who said who they are, and who belongs to these groups.
    pub fn known(name: String, groups: Vec<String>) -> Self {
        Self { groups: groups.into(), owns: true, ..Self::from_stored(name) }
    }

    /// The same, whether or not it gets a role of its own on what it makes.
    pub fn who_owns(self, owns: bool) -> Self {
        Self { owns, ..self }
    }

    /// Whether it gets a role of its own on what it makes.
    pub fn owns(&self) -> bool {
        self.owns
    }

    /// Those whose grants hold for it, itself first.
    pub fn principals(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.groups.iter().map(String::as_str))
    }

    /// Whether what is granted to a principal holds for it.
    pub fn is(&self, principal: &str) -> bool {
        self.principals().any(|one| one == principal)
    }

    /// The same, who sends this request.
    pub fn who_asked(self, asked: Option<Arc<Asked>>) -> Self {
        Self { asked, ..self }
    }

    /// The request that it sends.
    pub fn asked(&self) -> Option<&Asked> {
        self.asked.as_deref()
    }

    /// The same, with a request whose key is taken when its body has come.
    pub fn with_key(self, key: StreamKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// The same, with a request whose key is taken.
    pub fn marked(self, mark: Arc<Mark>) -> Self {
        Self { key: None, mark: Some(mark), ..self }
    }

    /// The same, with a request for whose answer it waits so long.
    pub fn who_waits(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// How long it waits for the answer, if it says so: what others got in the way of is not made anew
    /// after that.
    pub fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// The name that is recorded with a change.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that the request brought and that is not taken yet.
    pub fn key(&self) -> Option<&StreamKey> {
        self.key.as_ref()
    }

    /// What is left in the versions that the request makes.
    pub fn mark(&self) -> Option<&Arc<Mark>> {
        self.mark.as_ref()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
