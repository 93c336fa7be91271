//! Tags and branches. Lance keeps them in storage, beside the versions, and so they are here for
//! every client, whichever way it comes; nothing of them is in the catalog.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use lance::dataset::refs::{
    BranchContents, Ref, TagContents, base_branches_contents_path, base_tags_path,
    branch_contents_path, check_valid_tag, tag_path,
};
use object_store::path::Path;

use super::{LANCE_FOLDERS, Lake, Location, Snapshot, failure};
use crate::error::{Conflict, Error, Result};
use crate::model::{Branch, ManifestEntry, Page};

/// How many tags or branches are read at once.
const READS_AHEAD: usize = 16;
/// The longest name of a file that disks take.
const MAX_FILE_NAME_BYTES: usize = 255;
/// How long the making of a branch may take. What has no entry after that is left over from one
/// that was not finished.
const UNFINISHED_US: i64 = 10 * 60 * 1_000_000;

/// A name for one version.
#[derive(Debug, Clone)]
pub struct Tag {
    pub name: String,
    pub branch: Branch,
    pub version: u64,
    pub manifest_bytes: u64,
}

/// What is known of a branch beside its versions.
#[derive(Debug, Clone)]
pub struct BranchEntry {
    pub name: String,
    pub parent: Branch,
    pub parent_version: u64,
    /// Seconds since the Unix epoch.
    pub created_at_s: u64,
    /// The size of the manifest that it started from.
    pub manifest_bytes: u64,
    pub metadata: BTreeMap<String, String>,
}

/// Whether something with the name was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    There,
    Absent,
}

/// The first version of a new branch.
pub struct NewBranch {
    pub manifest: ManifestEntry,
    pub transaction_id: Option<String>,
}

impl Lake {
    /// A page of the tags of the table whose folder this is, by name.
    pub async fn list_tags(&self, root: &Location, page: &Page) -> Result<Vec<Tag>> {
        let (store, base) = self.store(root).await?;
        let names = self.names_in(root, base_tags_path(&base), page).await?;
        let read = |name: String| {
            let (path, store) = (tag_path(&base, &name), store.clone());
            async move { found(TagContents::from_path(&path, &store).await, root, &name) }
        };
        let found = futures::stream::iter(names.into_iter().map(read)).buffered(READS_AHEAD);
        let found: Vec<Option<(String, TagContents)>> = found.try_collect().await?;
        Ok(found.into_iter().flatten().map(into_tag).collect())
    }

    /// A page of the branches beside the main one, by name.
    pub async fn list_branches(&self, root: &Location, page: &Page) -> Result<Vec<BranchEntry>> {
        let (store, base) = self.store(root).await?;
        let names = self.names_in(root, base_branches_contents_path(&base), page).await?;
        let read = |name: String| {
            let (path, store) = (branch_contents_path(&base, &name), store.clone());
            async move {
                let contents = BranchContents::from_path(&path, &store, &name).await;
                found(contents, root, &name)
            }
        };
        let found = futures::stream::iter(names.into_iter().map(read)).buffered(READS_AHEAD);
        let found: Vec<Option<(String, BranchContents)>> = found.try_collect().await?;
        Ok(found.into_iter().flatten().map(into_entry).collect())
    }

    /// Names after the page's key, in order, one more than the page holds.
    async fn names_in(&self, root: &Location, folder: Path, page: &Page) -> Result<Vec<String>> {
        let (store, _) = self.store(root).await?;
        let files = match store.read_dir(folder).await {
            Ok(files) => files,
            Err(error) if failure::is_not_found(&error) => Vec::new(),
            Err(error) => return Err(failure::from_lance(error, root)),
        };
        let mut names: Vec<String> = files
            .iter()
            .filter_map(|file| file.strip_suffix(".json"))
            .filter_map(|name| Path::from_url_path(name).ok().map(String::from))
            .filter(|name| page.after.as_ref().is_none_or(|after| name > after))
            .collect();
        names.sort_unstable();
        names.truncate(usize::try_from(page.fetch_limit()).unwrap_or(usize::MAX));
        Ok(names)
    }

    /// Makes room for a new branch where the making of one was not finished: a folder with versions
    /// that has no entry.
    ///
    /// # Errors
    /// `ConcurrentModification` when it is so new that another may still be at it.
    pub async fn clear_unfinished_branch(&self, folder: &Location, now_us: i64) -> Result<()> {
        let versions = self.list_manifests(folder).await?;
        let Some(newest) = versions.iter().map(|version| version.modified_at_us).max() else {
            // Of one that was removed halfway, or past this server.
            return self.forget_all_claims(folder).await;
        };
        if newest > now_us.saturating_sub(UNFINISHED_US) {
            return Err(Error::conflict(Conflict {
                message: "another is making or removing a branch of this name; try again in some \
                          minutes"
                    .into(),
                retryable: true,
                ..Conflict::default()
            }));
        }
        tracing::warn!(%folder, "removing what is left of a branch that was not finished");
        self.remove(folder).await
    }
}

impl Snapshot {
    /// # Errors
    /// `InvalidInput` for what cannot be the name of a tag.
    pub async fn find_tag(&self, name: &str) -> Result<Option<Tag>> {
        check_tag(name)?;
        match self.dataset.tags().get(name).await {
            Ok(contents) => Ok(Some(into_tag((name.to_owned(), contents)))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Names this version, if nothing has the name.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be the name of a tag.
    pub async fn create_tag(&self, name: &str) -> Result<Before> {
        check_new_tag(name)?;
        match self.dataset.tags().create(name, self.version()).await {
            Ok(()) => Ok(Before::Absent),
            Err(lance::Error::RefConflict { .. }) => Ok(Before::There),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Gives the name to this version instead of the one that has it.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be the name of a tag.
    pub async fn move_tag(&self, name: &str) -> Result<Before> {
        check_tag(name)?;
        before(self.dataset.tags().update(name, self.version()).await, self)
    }

    /// # Errors
    /// `InvalidInput` for what cannot be the name of a tag.
    pub async fn delete_tag(&self, name: &str) -> Result<Before> {
        check_tag(name)?;
        before(self.dataset.tags().delete(name).await, self)
    }

    /// Starts a branch from this version. `None` when the table has it already.
    ///
    /// # Errors
    /// `InvalidInput` for a name that would stand in the way of others.
    pub async fn create_branch(&self, name: &Branch) -> Result<Option<NewBranch>> {
        check_new_branch(name)?;
        let mut dataset = (*self.dataset).clone();
        let from = Ref::VersionNumber(self.version());
        let made = match Box::pin(dataset.create_branch(name.as_str(), from, None)).await {
            Ok(made) => made,
            Err(lance::Error::RefConflict { .. } | lance::Error::DatasetAlreadyExists { .. }) => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed(error)),
        };
        let transaction = made.read_transaction().await.ok().flatten();
        Ok(Some(NewBranch {
            manifest: super::publish::manifest_entry(made.manifest(), made.manifest_location()),
            transaction_id: transaction.map(|transaction| transaction.uuid),
        }))
    }

    /// Removes the entry of a branch, and what of its files can be removed at once.
    ///
    /// # Errors
    /// `InvalidTableState` when a tag or another branch refers to it.
    pub async fn delete_branch(&self, name: &Branch) -> Result<Before> {
        check_new_branch(name)?;
        let mut dataset = (*self.dataset).clone();
        let deleted = Box::pin(dataset.delete_branch(name.as_str())).await;
        self.lake.forget();
        let error = match deleted {
            Err(lance::Error::RefConflict { .. }) => {
                return Err(Error::InvalidTableState(format!(
                    "branch '{name}' cannot be deleted: a tag or another branch starts from it"
                )));
            }
            Err(error) if !is_absent(&error) => error,
            outcome => return before(outcome, self),
        };
        // The entry goes first. Files that somebody still writes can keep the folder from going.
        match dataset.branches().get(name.as_str()).await {
            Err(lance::Error::RefNotFound { .. }) => Ok(Before::There),
            _ => Err(self.failed(error)),
        }
    }
}

fn before(outcome: lance::Result<()>, snapshot: &Snapshot) -> Result<Before> {
    match outcome {
        Ok(()) => Ok(Before::There),
        Err(error) if is_absent(&error) => Ok(Before::Absent),
        Err(error) => Err(snapshot.failed(error)),
    }
}

fn is_absent(error: &lance::Error) -> bool {
    matches!(error, lance::Error::RefNotFound { .. } | lance::Error::NotFound { .. })
        || failure::is_not_found(error)
}

/// What was read, or nothing where it was deleted after the names were listed.
fn found<T>(
    contents: lance::Result<T>,
    root: &Location,
    name: &str,
) -> Result<Option<(String, T)>> {
    match contents {
        Ok(contents) => Ok(Some((name.to_owned(), contents))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(failure::from_lance(error, root)),
    }
}

fn into_tag((name, contents): (String, TagContents)) -> Tag {
    Tag {
        name,
        branch: contents.branch.map_or_else(Branch::main, Branch::from_stored),
        version: contents.version,
        manifest_bytes: contents.manifest_size as u64,
    }
}

fn into_entry((name, contents): (String, BranchContents)) -> BranchEntry {
    BranchEntry {
        name,
        parent: contents.parent_branch.map_or_else(Branch::main, Branch::from_stored),
        parent_version: contents.parent_version,
        created_at_s: contents.create_at,
        manifest_bytes: contents.manifest_size as u64,
        metadata: contents.metadata.into_iter().collect(),
    }
}

fn check_tag(name: &str) -> Result<()> {
    let file = tag_path(&Path::default(), name);
    let fits = file.filename().is_some_and(|file| file.len() <= MAX_FILE_NAME_BYTES);
    if fits && check_valid_tag(name).is_ok() {
        return Ok(());
    }
    Err(Error::invalid_input(
        "a tag's name is made of letters, digits, '.', '-' and '_', has no '.' at its ends, no \
         '..', no '.lock' at its end, and at most 250 bytes",
    ))
}

/// Lance's own listing takes the names of files as they are, in which other letters than these are
/// written in another way: one such tag, and it could list none of the table's tags.
fn check_new_tag(name: &str) -> Result<()> {
    check_tag(name)?;
    if name.is_ascii() {
        return Ok(());
    }
    Err(Error::invalid_input("of letters, a tag's name may have only a to z and A to Z"))
}

/// Checks what a branch can be called besides Lance's own rules. It stands in a folder of its name,
/// and `a/b` in the folder of `a`, where Lance has folders of its own.
///
/// # Errors
/// `InvalidInput` for the main branch, and for a name that would stand in the way of another's files.
pub fn check_new_branch(name: &Branch) -> Result<()> {
    if name.is_main() {
        return Err(Error::invalid_input("'main' is every table's own branch"));
    }
    if let Some(part) = name.as_str().split('/').skip(1).find(|part| LANCE_FOLDERS.contains(part)) {
        return Err(Error::invalid_input(format!(
            "a branch name must not have '{part}' after a '/': Lance keeps files of the branch \
             before it there"
        )));
    }
    let file = branch_contents_path(&Path::default(), name.as_str());
    if file.filename().is_none_or(|file| file.len() > MAX_FILE_NAME_BYTES) {
        return Err(Error::invalid_input("the branch name is too long for the name of a file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lance_could_not_list_or_keep_apart_are_refused() {
        for name in ["v1", "v1.2-rc_3", &"a".repeat(250)] {
            assert!(check_new_tag(name).is_ok(), "{name}");
        }
        for name in ["", ".a", "a.", "a..b", "a/b", "größe", "a.lock", " ", &"a".repeat(251)] {
            assert!(check_new_tag(name).is_err(), "{name}");
        }
        for name in ["data", "a/b", "größe", "a/database"] {
            assert!(check_new_branch(&Branch::parse(Some(name)).unwrap()).is_ok(), "{name}");
        }
        let long = ["ä"; 100].concat();
        for name in ["main", "a/data", "a/_versions", "a/tree/b", &long] {
            assert!(check_new_branch(&Branch::parse(Some(name)).unwrap()).is_err(), "{name}");
        }
    }
}
