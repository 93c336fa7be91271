//! The uploads of a table: those whose commits died, and those whose files are gone.

use std::collections::HashSet;

use uuid::Uuid;

use super::{BATCH, Doctor};
use crate::catalog::{survey, uploads};
use crate::commit::garbage::Survey;
use crate::commit::location_of;
use crate::commit::publish::CLAIM_US;
use crate::error::Result;
use crate::model::{Page, PageScope, Table, Upload, UploadState};

impl Doctor<'_> {
    pub(super) async fn examine_uploads(&mut self, table: &Table, survey: &Survey) -> Result<()> {
        let files: HashSet<&str> = survey.files.iter().map(|file| file.name.as_str()).collect();
        let page = Page::new(PageScope::new("doctor", ""), Some(BATCH), None)?;
        let mut after = Uuid::nil();
        loop {
            let found = {
                let mut tx = self.engine.catalog.read().await?;
                uploads::list_uploads(&mut tx, table.key, after, &page).await?
            };
            let Some(last) = found.last() else { return Ok(()) };
            after = last.key;
            for upload in found {
                let line = Table { branch: upload.branch.clone(), ..table.clone() };
                match upload.state {
                    UploadState::Committing => self.examine_claim(&line, &upload).await?,
                    UploadState::Staged => self.examine_staged(&line, &upload, &files).await?,
                    // What is being written or removed is the sweep's once its time is over.
                    UploadState::Writing | UploadState::Removing | UploadState::Committed => {}
                }
            }
        }
    }

    async fn examine_claim(&mut self, line: &Table, upload: &Upload) -> Result<()> {
        let engine = self.engine;
        let stale_us = engine.now_us().saturating_sub(CLAIM_US);
        {
            let mut tx = engine.catalog.read().await?;
            if !survey::is_claim_dead(&mut tx, upload.key, stale_us).await? {
                return Ok(());
            }
        }
        let what = format!("upload {} is being committed by a commit that died", upload.key);
        let mend = async {
            let _turn = engine.lines.take(line).await;
            // Whether its version stood by then, storage says.
            let landed = engine.is_in_use(line, upload).await?;
            let to = if landed { UploadState::Committed } else { UploadState::Staged };
            let mut tx = engine.catalog.write().await?;
            let ended = survey::end_dead_claim(&mut tx, upload, to, stale_us).await?;
            tx.commit().await?;
            Ok(ended)
        };
        self.find(what, "note what became of it", mend).await;
        Ok(())
    }

    async fn examine_staged(
        &mut self,
        line: &Table,
        upload: &Upload,
        files: &HashSet<&str>,
    ) -> Result<()> {
        let engine = self.engine;
        let names = {
            let mut tx = engine.catalog.read().await?;
            uploads::list_upload_files(&mut tx, upload.key).await?
        };
        let folder = line.branch.beside_main().map(|name| format!("tree/{name}/"));
        let folder = folder.unwrap_or_default();
        let mut lost = 0;
        for name in names {
            // It may have been written while the files were listed.
            let listed = files.contains(format!("{folder}data/{name}").as_str());
            if !listed && !engine.lake.has_data_file(&location_of(line), &name).await? {
                lost += 1;
            }
        }
        let still = {
            let mut tx = engine.catalog.read().await?;
            uploads::find_upload(&mut tx, upload.key).await?
        };
        if lost == 0 || still.is_none_or(|upload| upload.state != UploadState::Staged) {
            return Ok(());
        }
        let what = format!("upload {} lacks {lost} of its files", upload.key);
        let mend = async {
            // One that a version refers to all the same is committed, and its note goes in time.
            engine.remove_unused(line, upload).await?;
            Ok(true)
        };
        self.find(what, "remove it", mend).await;
        Ok(())
    }
}
