//! The branches of a table: those of which only rows are left, and those of which only files are.

use std::collections::BTreeMap;

use super::{BATCH, Doctor, Mending};
use crate::commit::garbage::Survey;
use crate::commit::refs::root_line;
use crate::commit::{location_of, root_of};
use crate::error::Result;
use crate::model::{Branch, Page, PageScope, Table};

impl Doctor<'_> {
    /// The branches beside the main one that have an entry.
    pub(super) async fn branches(&self, table: &Table) -> Result<Vec<Branch>> {
        let mut branches = Vec::new();
        let mut page = Page::new(PageScope::new("doctor", ""), Some(BATCH), None)?;
        loop {
            let mut entries = self.engine.lake.list_branches(&root_of(table), &page).await?;
            let more = page.finish(&mut entries, |entry| entry.name.clone()).is_some();
            page.after = entries.last().map(|entry| entry.name.clone());
            branches.extend(entries.into_iter().map(|entry| Branch::from_stored(entry.name)));
            if !more {
                return Ok(branches);
            }
        }
    }

    /// A branch that the catalog has rows of and that has no entry.
    pub(super) async fn examine_forgotten(&mut self, line: &Table) -> Result<()> {
        let engine = self.engine;
        if engine.lake.has_branch(&root_of(line), &line.branch).await? {
            return Ok(());
        }
        let what = format!("the catalog knows versions of branch '{}', which is gone", line.branch);
        let mend = async {
            let _turn = engine.branch_turns.take(&root_line(line)).await;
            if engine.lake.has_branch(&root_of(line), &line.branch).await? {
                return Ok(false);
            }
            engine.forget_branch(line).await?;
            Ok(true)
        };
        self.find(what, "forget them", mend).await;
        Ok(())
    }

    /// Folders of branches that have no entry: their making or their end was cut off.
    pub(super) async fn examine_left_branches(
        &mut self,
        table: &Table,
        branches: &[Branch],
        survey: &Survey,
    ) -> Result<()> {
        let engine = self.engine;
        let mut left: BTreeMap<Branch, i64> = BTreeMap::new();
        for file in survey.files.iter().filter(|file| file.is_manifest()) {
            let Some(name) = file.line().strip_prefix("tree/") else { continue };
            let newest_us = left.entry(Branch::from_stored(name)).or_default();
            *newest_us = file.modified_at_us.max(*newest_us);
        }
        let age_us = i64::try_from(self.age.as_micros()).unwrap_or(i64::MAX);
        let old_us = engine.now_us().saturating_sub(age_us);
        for (branch, newest_us) in left {
            let line = Table { branch, ..table.clone() };
            if branches.contains(&line.branch)
                || engine.lake.has_branch(&root_of(table), &line.branch).await?
            {
                continue;
            }
            let what = format!("branch '{}' has versions and no entry", line.branch);
            let within = format!("{}/", line.branch);
            if branches.iter().any(|other| other.as_str().starts_with(&within)) {
                let why = Mending::Beyond("another branch stands in its folder");
                self.tell(what, why);
            } else if newest_us > old_us {
                self.tell(what, Mending::Note("it is so new that somebody may be making it"));
            } else {
                let mend = async {
                    let _turn = engine.branch_turns.take(&root_line(table)).await;
                    if engine.lake.has_branch(&root_of(table), &line.branch).await? {
                        return Ok(false);
                    }
                    engine.lake.remove(&location_of(&line)).await?;
                    Ok(true)
                };
                self.find(what, "remove what is left of it", mend).await;
            }
        }
        Ok(())
    }
}
