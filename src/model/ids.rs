use std::fmt;

use super::{Invalid, Result};

/// Between the names of a stored path. It is a control character, which no name may hold, so a
/// stored path has exactly one reading whatever delimiter a caller picks.
pub const STORED_SEPARATOR: char = '\u{1f}';
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 512;
/// The longest identifier, in bytes. PostgreSQL indexes rows of up to some 2.7 kB.
const MAX_ID_BYTES: usize = 2048;
/// Between names where an identifier is shown to a person.
const SHOWN_DELIMITER: &str = "$";

/// One part of an identifier: printable, not empty, not `.` or `..`, at most 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// # Errors
    /// [`Invalid`] that says what is wrong with the name.
    pub fn new(raw: impl Into<String>) -> Result<Self> {
        let raw = raw.into();
        let wrong = if raw.trim().is_empty() {
            "is empty"
        } else if raw == "." || raw == ".." {
            "is a relative path"
        } else if raw.chars().any(char::is_control) {
            "holds a control character"
        } else if raw.len() > MAX_NAME_BYTES {
            return Err(Invalid::new(format!(
                "a part of the identifier has {} bytes; at most {MAX_NAME_BYTES} are allowed",
                raw.len()
            )));
        } else {
            return Ok(Self(raw));
        };
        let shown: String =
            raw.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
        Err(Invalid::new(format!("the identifier part '{shown}' {wrong}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads `a$b$c`; the delimiter alone is the root and has no parts.
fn parse_parts(raw: &str, delimiter: &str) -> Result<Vec<Name>> {
    if delimiter.is_empty() {
        return Err(Invalid::new("the delimiter must not be empty"));
    }
    if raw == delimiter {
        return Ok(Vec::new());
    }
    names(&raw.split(delimiter).collect::<Vec<_>>())
}

/// The names of an identifier. It is as long as they are, and one byte between each two of them, in
/// whichever form it comes.
fn names(parts: &[impl AsRef<str>]) -> Result<Vec<Name>> {
    let between = parts.len().saturating_sub(1);
    let bytes = parts.iter().map(|part| part.as_ref().len()).sum::<usize>() + between;
    if bytes > MAX_ID_BYTES {
        return Err(Invalid::new(format!(
            "the identifier has {bytes} bytes; at most {MAX_ID_BYTES} are allowed"
        )));
    }
    parts.iter().map(|part| Name::new(part.as_ref())).collect()
}

/// The names of a stored path, however many bytes: what was taken once can be read.
fn stored_names(path: &str) -> Result<Vec<Name>> {
    path.split(STORED_SEPARATOR).map(Name::new).collect()
}

/// The path of a namespace; empty for the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct NamespaceId(Vec<Name>);

impl NamespaceId {
    /// The namespace that holds all others.
    pub fn root() -> Self {
        Self::default()
    }

    /// # Errors
    /// [`Invalid`] for an empty part, a bad name, or an identifier that is too long.
    pub fn parse(raw: &str, delimiter: &str) -> Result<Self> {
        parse_parts(raw, delimiter).map(Self)
    }

    /// From a list of names, as bodies carry it.
    pub fn from_list(parts: &[String]) -> Result<Self> {
        names(parts).map(Self)
    }

    /// From the form in which the catalog stores it.
    pub fn from_stored(path: &str) -> Result<Self> {
        if path.is_empty() {
            return Ok(Self::root());
        }
        stored_names(path).map(Self)
    }

    /// The form in which the catalog stores it: unique, and sorted with children after parents.
    pub fn to_stored(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(Name::as_str).collect();
        names.join(&STORED_SEPARATOR.to_string())
    }

    /// What the stored paths of all that is within it begin with.
    pub fn stored_start(&self) -> String {
        let path = self.to_stored();
        if self.is_root() { path } else { format!("{path}{STORED_SEPARATOR}") }
    }

    /// The stored paths from the first on, and before the second, are those of the namespace and of
    /// every descendant.
    pub fn stored_range(&self) -> (String, String) {
        let first = self.to_stored();
        // The separator is U+001F, so every descendant sorts before the path followed by U+0020.
        let end = if self.is_root() { "\u{10ffff}".to_owned() } else { format!("{first} ") };
        (first, end)
    }

    /// Whether `other` is this namespace or in it, however deep.
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The same path, starting in a child of the root.
    #[must_use]
    pub fn under(self, root: Name) -> Self {
        let mut names = vec![root];
        names.extend(self.0);
        Self(names)
    }

    /// The parent and the last name; `None` for the root.
    pub fn split(&self) -> Option<(NamespaceId, &Name)> {
        let (name, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), name))
    }

    pub fn to_list(&self) -> Vec<String> {
        self.0.iter().map(Name::to_string).collect()
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(SHOWN_DELIMITER);
        }
        f.write_str(&self.to_list().join(SHOWN_DELIMITER))
    }
}

/// The path of a table: a namespace and a name in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableId {
    pub namespace: NamespaceId,
    pub name: Name,
}

impl TableId {
    /// # Errors
    /// [`Invalid`] as [`NamespaceId::parse`], and for the root, which is no table.
    pub fn parse(raw: &str, delimiter: &str) -> Result<Self> {
        Self::from_names(parse_parts(raw, delimiter)?)
    }

    /// From a list of names, as bodies carry it.
    pub fn from_list(parts: &[String]) -> Result<Self> {
        Self::from_names(names(parts)?)
    }

    /// From the form in which the catalog stores it.
    pub fn from_stored(path: &str) -> Result<Self> {
        Self::from_names(stored_names(path)?)
    }

    fn from_names(mut names: Vec<Name>) -> Result<Self> {
        let name = names.pop().ok_or_else(|| {
            Invalid::new("the identifier is the root namespace, where a table is needed")
        })?;
        Ok(Self { namespace: NamespaceId(names), name })
    }

    /// Its namespace's stored path, and its name after that.
    pub fn to_stored(&self) -> String {
        format!("{}{}", self.namespace.stored_start(), self.name)
    }

    pub fn to_list(&self) -> Vec<String> {
        let mut parts = self.namespace.to_list();
        parts.push(self.name.to_string());
        parts
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_list().join(SHOWN_DELIMITER))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identifier_splits_at_the_callers_delimiter() {
        let id = TableId::parse("a$b.c$d", ".").unwrap();
        assert_eq!(id.to_list(), ["a$b", "c$d"]);
        assert!(NamespaceId::parse("$", "$").unwrap().is_root());
        assert_eq!(NamespaceId::parse("a$b", "$").unwrap().to_list(), ["a", "b"]);
    }

    #[test]
    fn bad_identifiers_are_refused() {
        for raw in ["", "a$", "$a", "a$$b", "..", "a$..$b", "a\0b", "a$ $b", "tab\there"] {
            assert!(NamespaceId::parse(raw, "$").is_err(), "{raw:?}");
        }
        assert!(NamespaceId::parse(&"x".repeat(10_000), "$").is_err());
        assert!(TableId::parse("$", "$").is_err());
        assert!(TableId::parse("a", "").is_err());
    }

    #[test]
    fn the_stored_form_has_one_reading() {
        let id = NamespaceId::from_list(&["a$b".into(), "c/d".into(), "it's".into()]).unwrap();
        assert_eq!(NamespaceId::from_stored(&id.to_stored()).unwrap(), id);
        assert_eq!(NamespaceId::from_stored("").unwrap(), NamespaceId::root());
    }

    #[test]
    fn an_identifier_is_as_long_in_every_form() {
        let mut parts = vec!["x".repeat(MAX_NAME_BYTES); 4];
        parts[3].truncate(MAX_ID_BYTES - 3 * MAX_NAME_BYTES - 3);
        for delimiter in ["$", "::"] {
            let id = TableId::parse(&parts.join(delimiter), delimiter).unwrap();
            assert_eq!(TableId::from_list(&parts).unwrap(), id);
            assert_eq!(TableId::from_stored(&id.to_stored()).unwrap(), id);
            // In a database of LanceDB's clients it is longer, and read back all the same.
            let namespace = id.namespace.under(Name::new("database").unwrap());
            let longer = TableId { namespace, name: id.name };
            assert_eq!(TableId::from_stored(&longer.to_stored()).unwrap(), longer);
        }
        parts[3].push('x');
        assert!(TableId::from_list(&parts).is_err());
        assert!(TableId::parse(&parts.join("$"), "$").is_err());
        assert!(TableId::from_stored("").is_err());
    }

    /// Any text, and such as identifiers are made of.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "[a-z$./\\u{1f} é%]{0,12}", "(a|[$]|[.]|::){0,8}"]
    }

    fn is_good(name: &str) -> bool {
        !name.trim().is_empty()
            && name != "."
            && name != ".."
            && !name.contains(char::is_control)
            && name.len() <= MAX_NAME_BYTES
    }

    proptest! {
        #[test]
        fn an_identifier_is_its_parts_or_is_refused(raw in texts(), delimiter in texts()) {
            let parts: Vec<String> = match delimiter.as_str() {
                "" => Vec::new(),
                _ if raw == delimiter => Vec::new(),
                _ => raw.split(&delimiter).map(str::to_owned).collect(),
            };
            let is_good = !delimiter.is_empty()
                && raw.len() <= MAX_ID_BYTES
                && parts.iter().all(|part| is_good(part));
            let parsed = NamespaceId::parse(&raw, &delimiter);
            prop_assert_eq!(parsed.is_ok(), is_good, "{:?} by {:?}", raw, delimiter);
            let table = TableId::parse(&raw, &delimiter);
            prop_assert_eq!(table.is_ok(), is_good && !parts.is_empty());
            if let Ok(id) = parsed {
                prop_assert_eq!(id.to_list(), parts);
            }
            if let Err(refused) = table {
                prop_assert!(!refused.to_string().contains(char::is_control), "{:?}", refused);
            }
        }

        #[test]
        fn a_list_of_names_comes_back_as_it_was(
            names in prop::collection::vec(texts(), 0..6),
            others in prop::collection::vec("[a-c !]{1,3}", 0..4),
        ) {
            let id = NamespaceId::from_list(&names);
            prop_assert_eq!(id.is_ok(), names.iter().all(|name| is_good(name)));
            let Ok(id) = id else { return Ok(()) };
            prop_assert_eq!(&id.to_list(), &names);
            let stored = id.to_stored();
            prop_assert_eq!(&NamespaceId::from_stored(&stored).unwrap(), &id);
            // The range of stored paths holds the descendants and nobody else.
            let Ok(other) = NamespaceId::from_list(&others) else { return Ok(()) };
            for other in [NamespaceId([id.0.clone(), other.0.clone()].concat()), other] {
                let (from, to) = id.stored_range();
                let path = other.to_stored();
                prop_assert_eq!(from <= path && path < to, id.holds(&other), "{:?}", other);
            }
        }
    }
}
