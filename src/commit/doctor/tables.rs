//! One table: its versions and its files.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use super::claims::Claims;
use super::{Doctor, Mending};
use crate::catalog::versions::Order;
use crate::catalog::{batches, survey, tables, versions};
use crate::commit::garbage::{Survey, Thoroughness};
use crate::commit::refs::root_line;
use crate::commit::{location_of, root_of};
use crate::error::Result;
use crate::lake::{StoredFile, version_of_manifest};
use crate::model::{
    Branch, Caller, ManifestEntry, Page, PageScope, Table, TableState, TableVersion,
};

/// How long a version is given to get its row before it is told that it has none.
const SETTLE: Duration = Duration::from_secs(1);
/// A version that is older than this had its time.
const FRESH_US: i64 = 60 * 1_000_000;
/// How many versions are told by their numbers when many refer to a file.
const TOLD: usize = 3;

type Rows = BTreeMap<u64, TableVersion>;

/// How the row of a version and its manifest differ.
enum Difference {
    /// No row tells of the manifest.
    Unknown(ManifestEntry),
    /// No manifest stands where the row says that one is.
    Missing(u64),
    /// The manifest stands, and the row tells other facts of it.
    Facts(ManifestEntry),
}

/// Compares the rows of a branch with the manifests that stand.
fn compare(rows: &Rows, found: Vec<ManifestEntry>) -> Vec<Difference> {
    let there: HashSet<u64> = found.iter().map(|manifest| manifest.version).collect();
    let missing = rows.keys().filter(|version| !there.contains(version));
    let mut differences: Vec<Difference> =
        missing.map(|version| Difference::Missing(*version)).collect();
    for manifest in found {
        match rows.get(&manifest.version) {
            None => differences.push(Difference::Unknown(manifest)),
            Some(row) if !tells(row, &manifest) => differences.push(Difference::Facts(manifest)),
            Some(_) => {}
        }
    }
    differences
}

/// Whether a row tells where the manifest is and how large, as far as it tells.
fn tells(row: &TableVersion, manifest: &ManifestEntry) -> bool {
    let size = row.manifest.size_bytes;
    row.manifest.path == manifest.path && (size.is_none() || size == manifest.size_bytes)
}

impl Doctor<'_> {
    pub(super) async fn examine_files(&mut self, table: &Table) -> Result<()> {
        let engine = self.engine;
        // The rows before storage: what has a row has been put.
        let mut rows = self.all_rows(table).await?;
        let survey = engine.survey(table, self.age, Thoroughness::Everything).await?;
        let branches = self.branches(table).await?;
        for branch in std::iter::once(Branch::main()).chain(branches.iter().cloned()) {
            let rows = rows.remove(&branch).unwrap_or_default();
            let line = Table { branch, ..table.clone() };
            self.about.branch = line.branch.beside_main().map(|_| line.branch.clone());
            self.examine_line(&line, &rows).await?;
        }
        self.about.branch = None;
        self.examine_state(table).await?;
        for branch in rows.into_keys() {
            self.examine_forgotten(&Table { branch, ..table.clone() }).await?;
        }
        self.examine_left_branches(table, &branches, &survey).await?;
        self.examine_damage(table, &survey).await?;
        self.examine_uploads(table, &survey).await?;
        self.examine_orphans(table, survey).await
    }

    /// The rows of all branches, those of branches that are no more too.
    async fn all_rows(&self, table: &Table) -> Result<BTreeMap<Branch, Rows>> {
        let branches = {
            let mut tx = self.engine.catalog.read().await?;
            survey::list_branches_with_rows(&mut tx, table.key).await?
        };
        let mut all = BTreeMap::new();
        for branch in branches {
            let line = Table { branch: branch.clone(), ..table.clone() };
            let limit = Some(i64::from(Page::MAX_LIMIT));
            let page = Page::new(PageScope::new("doctor", ""), limit, None)?;
            let mut rows = Rows::new();
            loop {
                let after = rows.last_key_value().map(|(version, _)| *version);
                let mut tx = self.engine.catalog.read().await?;
                let order = Order::OldestFirst;
                let more = versions::list_versions(&mut tx, &line, order, after, &page).await?;
                if more.is_empty() {
                    break;
                }
                rows.extend(more.into_iter().map(|row| (row.manifest.version, row)));
            }
            all.insert(branch, rows);
        }
        Ok(all)
    }

    async fn examine_line(&mut self, line: &Table, rows: &Rows) -> Result<()> {
        let engine = self.engine;
        {
            let mut tx = engine.catalog.read().await?;
            if batches::find_intent(&mut tx, line).await?.is_some() {
                // A batch is at it, or was left, which is a finding of its own.
                return Ok(());
            }
        }
        if self.examine_claims(line).await? == Claims::Left {
            return Ok(());
        }
        let found = engine.lake.list_manifests(&location_of(line)).await?;
        let differences = compare(rows, found);
        let fresh_us = engine.now_us() - FRESH_US;
        let is_fresh = |difference: &Difference| matches!(difference, Difference::Unknown(manifest) if manifest.modified_at_us > fresh_us);
        if differences.iter().any(is_fresh) {
            tokio::time::sleep(SETTLE).await;
        }
        for difference in differences {
            match difference {
                Difference::Unknown(manifest) => self.unknown(line, manifest).await?,
                Difference::Missing(version) => self.missing(line, version).await?,
                Difference::Facts(manifest) => self.facts(line, manifest).await?,
            }
        }
        Ok(())
    }

    async fn row(&self, line: &Table, version: u64) -> Result<Option<TableVersion>> {
        let mut tx = self.engine.catalog.read().await?;
        versions::find_version(&mut tx, line, version).await
    }

    async fn unknown(&mut self, line: &Table, manifest: ManifestEntry) -> Result<()> {
        let engine = self.engine;
        let version = manifest.version;
        if self.row(line, version).await?.is_some() {
            return Ok(());
        }
        let visible = engine.visible(line, vec![manifest]).await?;
        if visible.is_empty() {
            return Ok(());
        }
        let what = format!("version {version} stands in storage and the catalog does not know it");
        let mend = async { Ok(engine.adopt(line, visible).await?.is_some()) };
        self.find(what, "adopt it", mend).await;
        Ok(())
    }

    async fn missing(&mut self, line: &Table, version: u64) -> Result<()> {
        let engine = self.engine;
        let location = location_of(line);
        if self.row(line, version).await?.is_none()
            || engine.lake.find_manifest(&location, version).await?.is_some()
        {
            return Ok(());
        }
        let what =
            format!("version {version} is in the catalog and its manifest is not in storage");
        let mend = async {
            let mut tx = engine.catalog.write().await?;
            versions::delete_version(&mut tx, line, version).await?;
            tx.commit().await?;
            Ok(true)
        };
        self.find(what, "forget it", mend).await;
        Ok(())
    }

    async fn facts(&mut self, line: &Table, manifest: ManifestEntry) -> Result<()> {
        let engine = self.engine;
        let Some(row) = self.row(line, manifest.version).await? else { return Ok(()) };
        if tells(&row, &manifest) {
            return Ok(());
        }
        let size = |size: Option<u64>| size.map_or("unknown".into(), |size| size.to_string());
        let what = format!(
            "version {} is {} with {} bytes, and the catalog says {} with {} bytes",
            manifest.version,
            manifest.path,
            size(manifest.size_bytes),
            row.manifest.path,
            size(row.manifest.size_bytes)
        );
        let mend = async {
            let mut tx = engine.catalog.write().await?;
            survey::correct_version(&mut tx, line, &manifest).await?;
            tx.commit().await?;
            Ok(true)
        };
        self.find(what, "make the catalog say what is there", mend).await;
        Ok(())
    }

    /// Whether the table has a version, as its row tells and as storage does.
    async fn examine_state(&mut self, table: &Table) -> Result<()> {
        let engine = self.engine;
        let state = {
            let mut tx = engine.catalog.read().await?;
            if batches::find_intent(&mut tx, &root_line(table)).await?.is_some() {
                return Ok(());
            }
            tables::find_table_by_key(&mut tx, table.key).await?.map(|table| table.state)
        };
        if !self.abandoned_claims(&root_line(table)).await?.is_empty() {
            // It was told already, and whether there is a version depends on it.
            return Ok(());
        }
        let is_empty = engine.lake.list_manifests(&root_of(table)).await?.is_empty();
        match (state, is_empty) {
            (Some(TableState::Created), true) => {
                let what = "the catalog says that the table has a version, and none is in storage";
                let mend = async {
                    if !engine.lake.list_manifests(&root_of(table)).await?.is_empty() {
                        return Ok(false);
                    }
                    let (by, now_us) = (Caller::server(), engine.now_us());
                    let mut tx = engine.catalog.write().await?;
                    let noted = survey::mark_empty(&mut tx, table.key, by.name(), now_us).await?;
                    tx.commit().await?;
                    Ok(noted)
                };
                self.find(what.into(), "note that it is only declared", mend).await;
            }
            (Some(TableState::Declared), false) => {
                let what = "the catalog says that the table is only declared, and it has a version";
                let mend = async {
                    let mut tx = engine.catalog.write().await?;
                    let now_us = engine.now_us();
                    tables::mark_created(&mut tx, table.key, &Caller::server(), now_us).await?;
                    tx.commit().await?;
                    Ok(true)
                };
                self.find(what.into(), "note that it is created", mend).await;
            }
            _ => {}
        }
        Ok(())
    }

    /// What is lost, and cannot be made again from here.
    async fn examine_damage(&mut self, table: &Table, survey: &Survey) -> Result<()> {
        for (name, why) in &survey.inspection.unreadable {
            tracing::warn!(table.id = %table.id, manifest = name, why, "a manifest cannot be read");
            if version_of_manifest(name).is_none() {
                // One that is staged is no version, and may be being written.
                continue;
            }
            self.tell(
                format!("{} cannot be read ({name})", told(&BTreeSet::from([name.clone()]))),
                Mending::Beyond("restore the file, or delete that version"),
            );
        }
        if survey.inspection.missing.is_empty() {
            return Ok(());
        }
        // A version that was removed meanwhile took its files with it.
        let manifests = self.engine.lake.list_all_manifests(&root_of(table)).await?;
        let there: HashSet<&str> = manifests.iter().map(|file| file.name.as_str()).collect();
        for (name, by) in &survey.inspection.missing {
            let by: BTreeSet<String> =
                by.iter().filter(|name| there.contains(name.as_str())).cloned().collect();
            if !by.is_empty() {
                self.tell(
                    format!("{name} is not in storage, and {} refers to it", told(&by)),
                    Mending::Beyond("restore the file, or a version that does without it"),
                );
            }
        }
        Ok(())
    }

    async fn examine_orphans(&mut self, table: &Table, survey: Survey) -> Result<()> {
        if let Some(why) = &survey.blind {
            let what = format!("which of its files are garbage cannot be told: {why}");
            self.tell(what, Mending::Note("nothing is removed"));
            return Ok(());
        }
        if survey.young > 0 {
            self.tell(
                format!("nothing refers to {} files", survey.young),
                Mending::Note("they are so new that somebody may be about to commit them"),
            );
        }
        const HOW: &str = "remove it";
        let what = |file: &StoredFile| {
            format!(
                "nothing refers to {} {} ({} bytes)",
                file.kind().as_str(),
                file.name,
                file.size_bytes
            )
        };
        if self.repair == super::Repair::No {
            for file in &survey.orphans {
                self.tell(what(file), Mending::Possible(HOW));
            }
            return Ok(());
        }
        for (file, removed) in self.engine.remove_orphans(table, survey).await? {
            let mending = match removed {
                Ok(()) => Mending::Done(HOW),
                Err(error) => Mending::Failed(HOW, error.to_string()),
            };
            self.tell(what(&file), mending);
        }
        Ok(())
    }
}

/// The versions whose manifests these are, for people.
fn told(manifests: &BTreeSet<String>) -> String {
    let mut versions: Vec<(&str, u64)> = manifests
        .iter()
        .filter_map(|name| {
            let line = name.rsplit_once("_versions/").map_or("", |(line, _)| line);
            let line = line.trim_start_matches("tree/").trim_end_matches('/');
            Some((line, version_of_manifest(name)?))
        })
        .collect();
    versions.sort_unstable();
    let shown: Vec<String> = versions
        .iter()
        .take(TOLD)
        .map(|(branch, version)| match *branch {
            "" => format!("version {version}"),
            branch => format!("version {version} of branch '{branch}'"),
        })
        .collect();
    let more = manifests.len().saturating_sub(shown.len());
    match (shown.is_empty(), more) {
        (true, _) => "a manifest".into(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}
