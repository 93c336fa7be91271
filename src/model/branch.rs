use std::fmt;

use super::{Invalid, Result};

/// One line of versions of a table. Every table has the main one; others start from a version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Branch(String);

/// The branch that a table is on when nothing else is said.
const MAIN: &str = "main";
/// A branch is a folder, and its name goes into URLs and rows.
const MAX_BYTES: usize = 256;

impl Branch {
    pub fn main() -> Self {
        Self(MAIN.into())
    }

    /// Reads a branch that a caller named; none means the main one. The rules are Lance's
    /// (`check_valid_branch`), so that a name that passes here is a folder that Lance would make.
    ///
    /// # Errors
    /// [`Invalid`] that says what a name may hold.
    pub fn parse(name: Option<&str>) -> Result<Self> {
        let Some(name) = name.filter(|name| *name != MAIN) else {
            return Ok(Self::main());
        };
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_segment = |part: &str| !part.is_empty() && part.chars().all(plain);
        let is_name = !name.contains("..")
            && !name.ends_with(".lock")
            && name.split('/').all(|part| is_segment(part) && part != ".");
        if !is_name || name.len() > MAX_BYTES {
            return Err(Invalid::new(format!(
                "a branch name is made of letters, digits, '.', '-', '_' and single '/' between \
                 them, has at most {MAX_BYTES} bytes, and has no '..' and no '.lock' at its end"
            )));
        }
        Ok(Self(name.to_owned()))
    }

    /// A branch that the catalog stored.
    pub fn from_stored(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn is_main(&self) -> bool {
        self.0 == MAIN
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as Lance's own structures have it, where the main branch has none.
    pub fn beside_main(&self) -> Option<&str> {
        (!self.is_main()).then_some(self.as_str())
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_lance_takes() {
        for name in ["exp", "team/exp-1", "v1.2_x", "größe"] {
            assert_eq!(Branch::parse(Some(name)).unwrap().as_str(), name);
        }
        for name in
            ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".", "a\\b", "a b", "x.lock", "a\n"]
        {
            assert!(Branch::parse(Some(name)).is_err(), "{name:?}");
        }
        assert!(Branch::parse(Some("main")).unwrap().is_main());
        assert!(Branch::parse(None).unwrap().is_main());
    }
}
