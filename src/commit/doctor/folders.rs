//! Folders under the storage root that nothing in the catalog names.

use super::{Doctor, Mending};
use crate::catalog::tables;
use crate::error::Result;
use crate::lake::{Location, StoredFile};

impl Doctor<'_> {
    pub(super) async fn examine_root(&mut self) -> Result<()> {
        for folder in self.engine.lake.list_roots().await? {
            if self.is_named(&folder).await? {
                continue;
            }
            self.examine_folder(&folder).await?;
        }
        Ok(())
    }

    /// Whether a table or a removal is of this folder, of one in it, or of one around it.
    async fn is_named(&self, folder: &Location) -> Result<bool> {
        let mut tx = self.engine.catalog.read().await?;
        Ok(tables::find_overlapping_location(&mut tx, folder.as_str()).await?.is_some())
    }

    async fn examine_folder(&mut self, folder: &Location) -> Result<()> {
        let engine = self.engine;
        let files = engine.lake.list_files(folder).await?;
        let Some(newest_us) = files.iter().map(|file| file.modified_at_us).max() else {
            return Ok(());
        };
        let what = format!("folder {folder} is of no table, with {} files", files.len());
        if files.iter().any(StoredFile::is_manifest) {
            // Such as one that was deregistered, which leaves the files where they are.
            self.tell(
                what,
                Mending::Note("there is a Lance table in it: register it, or remove it"),
            );
            return Ok(());
        }
        if !engine.lake.locations().is_own(folder) {
            self.tell(
                what,
                Mending::Note("its name is not one that is given here: it is left alone"),
            );
            return Ok(());
        }
        let age_us = i64::try_from(self.age.as_micros()).unwrap_or(i64::MAX);
        if newest_us > engine.now_us().saturating_sub(age_us) {
            self.tell(what, Mending::Note("it is so new that somebody may be at it"));
            return Ok(());
        }
        let mend = async {
            let mut tx = engine.catalog.read().await?;
            if tables::find_overlapping_location(&mut tx, folder.as_str()).await?.is_some() {
                return Ok(false);
            }
            drop(tx);
            let again = engine.lake.list_files(folder).await?;
            if again.len() != files.len() || again.iter().any(StoredFile::is_manifest) {
                return Ok(false);
            }
            engine.lake.remove(folder).await?;
            Ok(true)
        };
        self.find(what, "remove it", mend).await;
        Ok(())
    }
}
