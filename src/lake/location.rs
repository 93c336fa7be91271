//! Where tables stand, and where they may.

use std::fmt;
use std::path::{Component, PathBuf};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::Branch;

/// The folder of a table that holds those of its branches; Lance's own choice.
const BRANCHES_DIR: &str = "tree";

/// The folder of one table: an absolute local path, or a URI such as `s3://bucket/prefix`.
/// Never with a trailing slash, never with `.` or `..` parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location(String);

impl Location {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A location that the catalog stored, which was checked when it came in.
    pub fn from_stored(location: impl Into<String>) -> Self {
        Self(location.into())
    }

    /// The location as a complete URI, which a local path alone is not.
    pub fn to_uri(&self) -> String {
        if !self.0.starts_with('/') {
            return self.0.clone();
        }
        url_of_path(&self.0)
    }

    /// The folder of one of the table's branches, where Lance keeps it.
    pub fn of_branch(&self, branch: &Branch) -> Self {
        match branch.beside_main() {
            None => self.clone(),
            Some(name) => Self(format!("{}/{BRANCHES_DIR}/{name}", self.0.trim_end_matches('/'))),
        }
    }

    /// Whether a place that a manifest names is this folder or in it.
    pub fn holds(&self, place: &str) -> bool {
        let place = place.strip_prefix("file://").unwrap_or(place).trim_end_matches('/');
        let is_plain = !place.split('/').any(|part| part == "." || part == "..")
            && !place.contains(['%', '?', '#', '\\']);
        let here = self.0.trim_end_matches('/');
        is_plain
            && (place == here || Location(place.to_owned()).is_inside(self))
            && !here.is_empty()
    }

    /// Whether it is a folder or in it.
    pub(super) fn is_at_or_in(&self, folder: &Location) -> bool {
        self == folder || self.is_inside(folder)
    }

    fn is_inside(&self, prefix: &Location) -> bool {
        let prefix = prefix.0.trim_end_matches('/');
        self.0.strip_prefix(prefix).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The storage root, the roots of profiles, and the other prefixes that callers may point to.
#[derive(Debug, Clone)]
pub struct Locations {
    root: Location,
    others: Vec<Location>,
    allowed: Vec<Location>,
}

impl Locations {
    /// # Errors
    /// `InvalidInput` for what is neither a path nor a URI.
    pub fn new(root: Location, others: Vec<Location>, allowed: &[String]) -> Result<Self> {
        let allowed = allowed.iter().map(|prefix| Location::of_prefix(prefix));
        Ok(Self { root, others, allowed: allowed.collect::<Result<_>>()? })
    }

    /// Whether a place that a manifest names is one where tables may be.
    pub(super) fn may_hold(&self, place: &str) -> bool {
        self.all().any(|prefix| prefix.holds(place))
    }

    fn all(&self) -> impl Iterator<Item = &Location> {
        self.roots().chain(&self.allowed)
    }

    /// Where tables without a profile go.
    pub fn root(&self) -> &Location {
        &self.root
    }

    /// Where new tables may go.
    pub fn roots(&self) -> impl Iterator<Item = &Location> {
        std::iter::once(&self.root).chain(&self.others)
    }

    /// A folder that no other table has had or will have: a readable prefix and a unique id.
    /// A table made again under an old name so never meets old files.
    pub fn new_location(&self, root: &Location, name: &str, key: Uuid) -> Location {
        let readable: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
            .take(40)
            .collect();
        let root = root.0.trim_end_matches('/');
        Location(format!("{root}/{readable}-{}.lance", key.simple()))
    }

    /// Whether a location is one that [`Self::new_location`] made: a folder that only one table
    /// ever had, so that all of it is that table's.
    pub fn is_own(&self, location: &Location) -> bool {
        let folder = self.roots().find_map(|root| {
            location.0.strip_prefix(root.0.trim_end_matches('/'))?.strip_prefix('/')
        });
        let id = folder
            .filter(|folder| !folder.contains('/'))
            .and_then(|folder| folder.strip_suffix(".lance"))
            .and_then(|folder| folder.rsplit_once('-'));
        id.is_some_and(|(_, id)| id.len() == 32 && Uuid::try_parse(id).is_ok())
    }

    /// Reads a location that a caller gave. A relative one is taken from the storage root.
    ///
    /// # Errors
    /// `InvalidInput` for an empty one, one with `..` or wildcards, one that is not strictly inside
    /// the storage root or an allowed prefix, and one that holds a root: other tables come to stand
    /// there.
    pub fn check(&self, raw: &str) -> Result<Location> {
        let refuse = |why: &str| Err(Error::invalid_input(format!("the location {why}")));
        if raw.trim().is_empty() {
            return refuse("is empty");
        }
        if raw.len() > 1024 {
            return refuse("is longer than 1024 bytes");
        }
        if raw.chars().any(|c| c.is_control() || matches!(c, '*' | '?' | '\\' | '#')) {
            return refuse("holds a wildcard or a control character");
        }
        let (scheme, rest) = match raw.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, raw),
        };
        // A percent sign is read differently by paths, URIs and object stores.
        if rest.contains('%') {
            return refuse("holds a percent sign");
        }
        let path = rest.trim_end_matches('/');
        let parts = path.strip_prefix('/').unwrap_or(path).split('/');
        if parts.clone().any(|part| part == "." || part == "..") {
            return refuse("must not hold '.' or '..' as a part");
        }
        // URLs lose spaces at their ends when they are parsed, and so may come to be another place.
        if parts.clone().any(|part| part.is_empty() || part.trim() != part) {
            return refuse("has a part that is empty or starts or ends with a space");
        }
        let location = match scheme {
            Some("file") if path.starts_with('/') => Location(path.to_owned()),
            Some("file") => return refuse("must be file:/// and an absolute path"),
            Some(scheme) => Location(format!("{scheme}://{path}")),
            None if path.starts_with('/') => Location(path.to_owned()),
            None => Location(format!("{}/{path}", self.root.0.trim_end_matches('/'))),
        };
        if !self.all().any(|prefix| location.is_inside(prefix)) {
            return refuse("is not inside the storage root or a prefix that this server allows");
        }
        if self.roots().any(|root| root.is_at_or_in(&location)) {
            return refuse("holds a storage root of this server");
        }
        Ok(location)
    }
}

impl Location {
    /// A prefix that the server's own configuration names. A folder is made if need be.
    ///
    /// # Errors
    /// `InvalidInput` for what is neither a path nor a URI.
    pub(super) fn of_prefix(raw: &str) -> Result<Self> {
        let wrong = |why: String| Error::invalid_input(format!("the storage root or prefix {why}"));
        if raw.trim().is_empty() {
            return Err(wrong("is empty".into()));
        }
        let path = match raw.split_once("://") {
            Some(("file", path)) => path,
            Some(_) => return Ok(Location(raw.trim_end_matches('/').to_owned())),
            None => raw,
        };
        let path =
            std::path::absolute(path).map_err(|error| wrong(format!("is wrong: {error}")))?;
        std::fs::create_dir_all(&path)
            .map_err(|error| wrong(format!("cannot be made: {error}")))?;
        // Callers see this path, and compare it with theirs: it should be the one without links.
        let path = path.canonicalize().map_err(|error| wrong(format!("is wrong: {error}")))?;
        let path: PathBuf = path.components().filter(|c| !matches!(c, Component::CurDir)).collect();
        path.to_str()
            .map(|path| Location(path.to_owned()))
            .ok_or_else(|| wrong("is not Unicode".into()))
    }
}

/// `file://` and the path, with what a URL may not hold percent-encoded.
fn url_of_path(path: &str) -> String {
    let mut url = String::from("file://");
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~!$&'()+,;=:@".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locations() -> (tempfile::TempDir, Locations) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("lake");
        let root = Location::of_prefix(root.to_str().unwrap()).unwrap();
        let others = vec![Location::of_prefix("s3://other/lake").unwrap()];
        let locations = Locations::new(root, others, &["s3://bucket/a".into()]).unwrap();
        (folder, locations)
    }

    #[test]
    fn only_what_is_strictly_inside_an_allowed_prefix_passes() {
        let (_folder, locations) = locations();
        let root = locations.root().to_string();
        assert_eq!(locations.check("t.lance").unwrap().as_str(), format!("{root}/t.lance"));
        assert_eq!(
            locations.check(&format!("file://{root}/t/")).unwrap().as_str(),
            format!("{root}/t")
        );
        assert_eq!(locations.check("s3://bucket/a/t").unwrap().as_str(), "s3://bucket/a/t");
        let refused = [
            "",
            "  ",
            "/",
            "/etc/t",
            "../t",
            "a/../../t",
            "./t",
            "a//b",
            "a\0b",
            "a*",
            "a%2e%2e/b",
            "t ",
            " t",
            "a /t",
            ".. ",
            "s3://bucket/a/ ",
            "s3://bucket/a/.. ",
            "s3://bucket/a/t ",
            "s3://bucket/ab/t",
            "s3://bucket/a",
            "s3://other/a/t",
            "file://host/t",
            "s3://",
        ];
        for raw in refused {
            assert!(locations.check(raw).is_err(), "{raw:?}");
        }
        assert!(locations.check(&root).is_err());
        assert!(locations.check(&format!("{root}2/t")).is_err());
        assert!(locations.check(&format!("{root}/../x")).is_err());
    }

    #[test]
    fn what_holds_a_root_is_no_table() {
        let roots = ["s3://corp/lake/tables", "s3://corp/other"].map(Location::from_stored);
        let [root, other] = roots;
        let locations = Locations::new(root, vec![other], &["s3://corp".into()]).unwrap();
        for raw in ["s3://corp/lake", "s3://corp/lake/tables", "s3://corp/other/"] {
            assert!(locations.check(raw).is_err(), "{raw}");
        }
        for raw in ["s3://corp/lake/t", "s3://corp/lake/tables/t", "s3://corp/other2"] {
            assert_eq!(locations.check(raw).unwrap().as_str(), raw);
        }
    }

    #[test]
    fn a_new_location_is_readable_and_unique() {
        let (_folder, locations) = locations();
        let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
        let first = locations.new_location(locations.root(), "räder/käse $1", one);
        assert!(first.as_str().contains("r-der-k-se--1-"), "{first}");
        assert_ne!(first, locations.new_location(locations.root(), "räder/käse $1", two));
        assert!(first.is_inside(locations.root()));
        assert!(locations.is_own(&first));
        let elsewhere = Location::from_stored("s3://other/lake");
        let there = locations.new_location(&elsewhere, "t", one);
        assert!(there.is_inside(&elsewhere) && locations.is_own(&there));
        assert!(!locations.is_own(&locations.check("mine.lance").unwrap()));
        assert!(!locations.is_own(&Location::from_stored(format!("{first}/inner"))));
    }

    #[test]
    fn a_path_becomes_a_complete_uri() {
        assert_eq!(Location::from_stored("/a b/c").to_uri(), "file:///a%20b/c");
        assert_eq!(Location::from_stored("s3://b/c").to_uri(), "s3://b/c");
    }
}
