//! Files of a table that nothing refers to: no version on any branch (and so no tag), no upload, no
//! shallow clone, no batch that is under way.
//!
//! A client may write data files straight to storage and commit them later, and nobody here knows of
//! it meanwhile. Only the age of a file protects it then: one that is younger than the age that is
//! given is never removed. What refers to a file is asked after the files were listed, and versions
//! that came since are looked at once more, in the table's turn, before anything is removed. A commit
//! of another process that at that very moment brings in a file that nobody referred to for so long
//! cannot be seen.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::batch::staged_paths;
use super::{Engine, root_of};
use crate::catalog::{claims, clones, jobs, survey, tables, uploads};
use crate::error::Result;
use crate::lake::{FileKind, Inspection, Location, StoredFile};
use crate::model::{Branch, Table};

/// The least age at which a file that nothing refers to is taken for garbage, unless another is
/// chosen: a day, or as long as an upload may live if that is longer.
pub const LEAST_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many manifests are read between two looks at whether any file is still in doubt.
const MANIFESTS_AT_ONCE: usize = 32;
/// How many clones of a table are asked about at once.
const BATCH: i64 = 200;

/// What was found out about the files of a table.
#[derive(Default)]
pub(super) struct Survey {
    pub files: Vec<StoredFile>,
    /// What the table's own manifests came to; nothing when no file is in doubt.
    pub inspection: Inspection,
    /// Files that nothing refers to and that are old enough to go.
    pub orphans: Vec<StoredFile>,
    /// How many files nothing refers to that are younger than that.
    pub young: usize,
    /// Why nothing can be said about what is referred to, if so.
    pub blind: Option<String>,
    read: HashSet<String>,
}

/// How far a look at the files of a table goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// Manifests are read, the newest first, only until no old file is in doubt. Transaction files
    /// are no reason to: they are small, and Lance keeps one for each version.
    Glance,
    /// As that, and transaction files are as good a reason as others.
    Garbage,
    /// Every manifest is read.
    Everything,
}

impl Engine {
    /// The age at which what nothing refers to is garbage, when none is chosen.
    pub fn garbage_age(&self) -> Duration {
        self.upload_ttl.max(LEAST_AGE)
    }

    /// Looks through all files of a table. Nothing is changed.
    pub(super) async fn survey(
        &self,
        table: &Table,
        age: Duration,
        thoroughness: Thoroughness,
    ) -> Result<Survey> {
        let root = root_of(table);
        let files = self.lake.list_files(&root).await?;
        let old_us =
            self.now_us().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let is_old = |file: &StoredFile| file.modified_at_us <= old_us;
        let may_be = |file: &&StoredFile| {
            !matches!(file.kind(), FileKind::Manifest | FileKind::Other) && !file.is_manifest()
        };
        let mut survey = Survey { files, ..Survey::default() };
        let in_doubt = |file: &&StoredFile| {
            let is_reason =
                thoroughness != Thoroughness::Glance || file.kind() != FileKind::Transaction;
            may_be(file) && is_old(file) && is_reason
        };
        let reads_all = thoroughness == Thoroughness::Everything;
        if !reads_all && !survey.files.iter().any(|file| in_doubt(&file)) {
            return Ok(survey);
        }
        let staged = self.staged_that_count(table, &survey.files, is_old).await?;
        let mut manifests: Vec<&StoredFile> = survey
            .files
            .iter()
            .filter(|file| file.is_manifest() || staged.contains(&file.name))
            .collect();
        // The newest refer to most of what there is: often the first look settles it.
        manifests.sort_by_key(|file| std::cmp::Reverse(file.modified_at_us));
        survey.read = manifests.iter().map(|file| file.name.clone()).collect();
        let files = reads_all.then_some(&survey.files[..]);
        let mut doubtful: Vec<&StoredFile> = survey
            .files
            .iter()
            .filter(in_doubt)
            .filter(|file| !staged.contains(&file.name))
            .collect();
        let at_once = if reads_all { manifests.len().max(1) } else { MANIFESTS_AT_ONCE };
        for some in manifests.chunks(at_once) {
            let found = self.lake.inspect(&root, some, files).await?;
            survey.inspection.absorb(found);
            doubtful.retain(|file| !survey.inspection.references.hold(file));
            if doubtful.is_empty() && !reads_all {
                return Ok(Survey::default());
            }
        }
        // A manifest that is only staged may name what is yet to come.
        survey.inspection.missing.retain(|_, by| {
            by.retain(|name| !staged.contains(name));
            !by.is_empty()
        });
        survey.blind = self.blindness(table, &survey).await?;
        if survey.blind.is_some() {
            return Ok(survey);
        }
        let mut orphans: Vec<StoredFile> = survey
            .files
            .iter()
            .filter(may_be)
            .filter(|file| !staged.contains(&file.name))
            .filter(|file| !survey.inspection.references.hold(file))
            .cloned()
            .collect();
        self.spare_uploads(table, &mut orphans).await?;
        self.spare_clones(&root, &mut orphans).await?;
        self.spare_jobs(table, &mut orphans).await?;
        let found = orphans.len();
        orphans.retain(is_old);
        survey.young = found - orphans.len();
        survey.orphans = orphans;
        Ok(survey)
    }

    /// Removes files that a survey found, unless something refers to them by now. Answers what came
    /// of each that it went for.
    pub(super) async fn remove_orphans(
        &self,
        table: &Table,
        survey: Survey,
    ) -> Result<Vec<(StoredFile, Result<()>)>> {
        let Survey { mut orphans, read, .. } = survey;
        if orphans.is_empty() {
            return Ok(Vec::new());
        }
        let root = root_of(table);
        let mut turns = Vec::new();
        let mut branches = self.lines.branches_at_work(table.key);
        branches.push(Branch::main());
        // The same order for everyone, or two would wait for each other.
        branches.sort();
        for branch in branches {
            let line = Table { branch, ..table.clone() };
            turns.push(self.lines.take(&line).await);
            self.lines.line(&line).note_removal();
        }
        let manifests = self.lake.list_all_manifests(&root).await?;
        let new: Vec<&StoredFile> =
            manifests.iter().filter(|file| !read.contains(&file.name)).collect();
        let inspection = self.lake.inspect(&root, &new, None).await?;
        if !inspection.unreadable.is_empty() {
            return Ok(Vec::new());
        }
        orphans.retain(|file| !inspection.references.hold(file));
        let mut paths = HashSet::new();
        if orphans.iter().any(|file| file.kind() == FileKind::Staged) {
            paths = self.staged_by_batches(table).await?;
        }
        orphans.retain(|file| !paths.contains(&file.path));
        let mut done = Vec::new();
        for file in orphans {
            let removed = self.lake.remove_stored(&root, &file).await;
            done.push((file, removed));
        }
        Ok(done)
    }

    /// The names of staged manifests that may become versions yet: young ones, those of batches that
    /// are under way, and those that a row of a version names.
    async fn staged_that_count(
        &self,
        table: &Table,
        files: &[StoredFile],
        is_old: impl Fn(&StoredFile) -> bool,
    ) -> Result<HashSet<String>> {
        let staged: Vec<&StoredFile> =
            files.iter().filter(|file| file.kind() == FileKind::Staged).collect();
        if staged.is_empty() {
            return Ok(HashSet::new());
        }
        let paths = self.staged_by_batches(table).await?;
        let mut counting = HashSet::new();
        let mut tx = self.catalog.read().await?;
        for file in staged {
            if !is_old(file)
                || paths.contains(&file.path)
                || survey::is_manifest_of_row(&mut tx, table.key, &file.path).await?
            {
                counting.insert(file.name.clone());
            }
        }
        Ok(counting)
    }

    async fn staged_by_batches(&self, table: &Table) -> Result<HashSet<String>> {
        let mut tx = self.catalog.read().await?;
        let mut paths = HashSet::new();
        for changes in survey::list_changes_at(&mut tx, table.key).await? {
            paths.extend(staged_paths(&changes)?);
        }
        // And those that have a version already, and still wait for their final name.
        paths.extend(claims::list_staged_paths(&mut tx).await?);
        Ok(paths)
    }

    /// Why what a table refers to is not known, if it is not.
    async fn blindness(&self, table: &Table, survey: &Survey) -> Result<Option<String>> {
        if let Some((name, _)) = survey.inspection.unreadable.first() {
            return Ok(Some(format!("{name} cannot be read")));
        }
        if survey.files.iter().any(StoredFile::is_manifest) {
            return Ok(None);
        }
        // Versions that the catalog knows and storage lost would take their data with them.
        let mut tx = self.catalog.read().await?;
        let lost = survey::has_versions(&mut tx, table.key).await?;
        Ok(lost.then(|| "storage holds none of the versions that the catalog knows".into()))
    }

    async fn spare_uploads(&self, table: &Table, orphans: &mut Vec<StoredFile>) -> Result<()> {
        let mut kept = Vec::new();
        let mut tx = self.catalog.read().await?;
        for file in orphans.drain(..) {
            let owner = match file.kind() {
                FileKind::Data => data_file_of(&file),
                _ => None,
            };
            let upload = match owner {
                None => None,
                Some(name) => uploads::find_upload_of_file(&mut tx, table.key, &name).await?,
            };
            if upload.is_none() {
                kept.push(file);
            }
        }
        *orphans = kept;
        Ok(())
    }

    /// Clones may read versions that the table itself has no more, and clones of clones too.
    async fn spare_clones(&self, root: &Location, orphans: &mut Vec<StoredFile>) -> Result<()> {
        let mut places = vec![root.as_str().to_owned()];
        let mut seen: HashSet<String> = places.iter().cloned().collect();
        while let Some(place) = places.pop() {
            let mut after = Uuid::nil();
            while !orphans.is_empty() {
                let found = {
                    let mut tx = self.catalog.read().await?;
                    clones::list_clones_of(&mut tx, &place, after, BATCH).await?
                };
                let Some((last, _)) = found.last() else { break };
                after = *last;
                for (_, location) in found {
                    if !seen.insert(location.clone()) {
                        continue;
                    }
                    let clone = Location::from_stored(location.clone());
                    let manifests = self.lake.list_all_manifests(&clone).await?;
                    let manifests: Vec<&StoredFile> = manifests.iter().collect();
                    let inspection = self.lake.inspect(&clone, &manifests, None).await?;
                    if !inspection.unreadable.is_empty() {
                        orphans.clear();
                    }
                    orphans.retain(|file| !inspection.references.hold(file));
                    places.push(location);
                }
            }
        }
        Ok(())
    }

    /// A job may write for longer than any age, and says of its files only in the end.
    async fn spare_jobs(&self, table: &Table, orphans: &mut Vec<StoredFile>) -> Result<()> {
        if orphans.is_empty() {
            return Ok(());
        }
        let mut tx = self.catalog.read().await?;
        let mut branches = survey::list_branches_with_rows(&mut tx, table.key).await?;
        branches.push(Branch::main());
        for branch in branches {
            if jobs::has_running(&mut tx, &Table { branch, ..table.clone() }).await? {
                orphans.retain(|file| file.kind() == FileKind::Staged);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a table is there still.
    pub(super) async fn is_there(&self, table: &Table) -> Result<bool> {
        let mut tx = self.catalog.read().await?;
        Ok(tables::find_table_by_key(&mut tx, table.key).await?.is_some())
    }
}

/// The name of a data file as uploads note it: that of the file itself, or of the one beside which a
/// large blob stands.
fn data_file_of(file: &StoredFile) -> Option<String> {
    let name = file.name.rsplit('/').next()?;
    if name.ends_with(".blob") {
        let folder = file.name.rsplit('/').nth(1)?;
        return Some(format!("{folder}.lance"));
    }
    Some(name.to_owned())
}
