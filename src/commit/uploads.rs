//! Uploads: rows and columns that are written now and committed later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::multipart::NewPart;
use super::publish::CLAIM_US;
use super::{Engine, location_of};
use crate::catalog::{Catalog, Tx, multipart, uploads};
use crate::error::{Error, Result};
use crate::lake::{
    Batches, FileLog, Snapshot, WriteMode, WriteOptions, data_files, schema_from_stored,
};
use crate::model::{Caller, Page, Staged, Table, Upload, UploadKind, UploadState};

/// An upload that stands in storage and can be committed.
pub struct StagedUpload {
    pub upload: Upload,
    /// Whether the catalog knows of it. What one commit brings along in one file needs no note.
    pub is_noted: bool,
    /// For rows the schema of the rows, for columns that of the table after the merge.
    pub schema: SchemaRef,
}

/// The answer to an upload in the form in which it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    upload: Uuid,
    staged: Staged,
    read_version: u64,
    created_by: String,
    created_at_us: i64,
    expires_at_us: i64,
}

impl Kept {
    fn of(upload: Upload) -> Self {
        Self {
            upload: upload.key,
            staged: upload.staged,
            read_version: upload.read_version,
            created_by: upload.created_by,
            created_at_us: upload.created_at_us,
            expires_at_us: upload.expires_at_us,
        }
    }

    fn into_upload(self, table: &Table, kind: UploadKind) -> Result<StagedUpload> {
        let schema = schema_from_stored(&self.staged.schema)?;
        let upload = Upload {
            key: self.upload,
            table_key: table.key,
            branch: table.branch.clone(),
            kind,
            state: UploadState::Staged,
            part: None,
            read_version: self.read_version,
            staged: self.staged,
            created_by: self.created_by,
            created_at_us: self.created_at_us,
            expires_at_us: self.expires_at_us,
        };
        Ok(StagedUpload { upload, is_noted: true, schema })
    }
}

impl Engine {
    /// Writes rows as fragments that nobody sees until they are committed. On an error nothing
    /// is left behind.
    ///
    /// `mode` is `Append` for a table that has a version and `Create` for one that has none, when
    /// the caller does not say.
    ///
    /// # Errors
    /// `TableNotFound`, `TableAlreadyExists` for `Create` when there is a version,
    /// `InvalidTableState` for `Append` when there is none, `TableSchemaValidation`, and what the
    /// stream of batches ends with.
    pub async fn upload_fragments(
        &self,
        table: &Table,
        mode: Option<WriteMode>,
        batches: Batches,
        options: &WriteOptions,
        caller: &Caller,
    ) -> Result<StagedUpload> {
        let batches = match self.first_answer::<Kept>(caller, batches).await? {
            Ok(batches) => batches,
            Err(kept) => return kept.into_upload(table, UploadKind::Fragments),
        };
        let staged = self.upload_rows(table, mode, batches, options, For::Anyone, caller).await?;
        self.keep_upload(table, staged, caller).await
    }

    /// The upload that a request with the same key made before, if one did; then this one goes.
    async fn keep_upload(
        &self,
        table: &Table,
        staged: StagedUpload,
        caller: &Caller,
    ) -> Result<StagedUpload> {
        if caller.key().is_none() {
            return Ok(staged);
        }
        let (key, kind) = (staged.upload.key, staged.upload.kind);
        let undo = || async move {
            if let Err(error) = self.abort_upload(table, key, caller).await {
                tracing::warn!(upload.id = %key, %error, "could not abort yet");
            }
        };
        self.keep_first(caller, Kept::of(staged.upload), undo).await?.into_upload(table, kind)
    }

    /// As [`Self::upload_fragments`]. A multipart write must be open before a part of it is written,
    /// and still be so when it stands.
    pub(super) async fn upload_rows(
        &self,
        table: &Table,
        mode: Option<WriteMode>,
        batches: Batches,
        options: &WriteOptions,
        whom: For,
        caller: &Caller,
    ) -> Result<StagedUpload> {
        let location = location_of(table);
        let base = match self.latest(table).await? {
            Some(newest) => Some(self.open_newest(table, newest).await?),
            None => None,
        };
        let mode = match (mode, &base) {
            (Some(WriteMode::Create), Some(_)) => {
                return Err(Error::TableAlreadyExists(table.id.clone()));
            }
            (Some(WriteMode::Append), None) => {
                return Err(Error::InvalidTableState(format!(
                    "table '{}' has no version to append to; upload with mode=create",
                    table.id
                )));
            }
            (Some(mode), _) => mode,
            (None, Some(_)) => WriteMode::Append,
            (None, None) => WriteMode::Overwrite,
        };
        if options.enable_stable_row_ids && base.is_some() {
            return Err(Error::invalid_input(
                "enable_stable_row_ids is for the first rows of a table, and it has some already",
            ));
        }
        let read_version = base.as_ref().map_or(0, Snapshot::version);
        let kind = UploadKind::Fragments;
        let mut upload = self.new_upload(table, kind, &whom, read_version, caller);
        if let Some(part) = whom.part() {
            self.begin_part(table, part, &mut upload).await?;
        }
        let log = Arc::new(Noted::of(self.catalog.clone(), &upload));
        let noted = log.clone();
        let written = self.lake.write(&location, base.as_ref(), mode, batches, options, log).await;
        let written = written.map(|staged| (data_files(&staged.fragments), staged));
        let is_noted = noted.is_begun();
        upload.staged = self.settle(table, &upload, is_noted, &whom, written).await?;
        upload.state = whom.state();
        let is_noted = is_noted || whom.needs_note();
        let schema = schema_from_stored(&upload.staged.schema)?;
        tracing::info!(
            table.id = %table.id, %caller, upload.id = %upload.key,
            num_rows = upload.staged.num_rows, "uploaded fragments"
        );
        Ok(StagedUpload { upload, is_noted, schema })
    }

    /// Writes new columns for one fragment. On an error nothing is left behind.
    ///
    /// # Errors
    /// `TableNotFound`, `TableVersionNotFound`, `InvalidInput` for an unknown fragment, another
    /// number of rows, or a column that exists.
    pub async fn upload_columns(
        &self,
        table: &Table,
        fragment: u64,
        read_version: Option<u64>,
        batches: Batches,
        caller: &Caller,
    ) -> Result<StagedUpload> {
        let batches = match self.first_answer::<Kept>(caller, batches).await? {
            Ok(batches) => batches,
            Err(kept) => return kept.into_upload(table, UploadKind::Columns),
        };
        let base = self.open(table, read_version).await?;
        let (kind, whom) = (UploadKind::Columns, For::Anyone);
        let mut upload = self.new_upload(table, kind, &whom, base.version(), caller);
        let written = base.write_columns(fragment, batches).await;
        let written = written.map(|staged| (base.added_files(&staged), staged));
        upload.staged = self.settle(table, &upload, false, &whom, written).await?;
        upload.state = UploadState::Staged;
        let schema = schema_from_stored(&upload.staged.schema)?;
        tracing::info!(table.id = %table.id, %caller, upload.id = %upload.key, "uploaded columns");
        self.keep_upload(table, StagedUpload { upload, is_noted: true, schema }, caller).await
    }

    /// A page of a table's uploads that are not committed, and the token of the next.
    pub async fn list_uploads(
        &self,
        table: &Table,
        page: &Page,
    ) -> Result<(Vec<Upload>, Option<String>)> {
        let after = page.after_key()?.unwrap_or(Uuid::nil());
        let mut tx = self.catalog.read().await?;
        let mut rows = uploads::list_uploads(&mut tx, table.key, after, page).await?;
        let next = page.finish(&mut rows, |row| row.key.to_string());
        Ok((rows, next))
    }

    /// Removes an upload and its files.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown upload, `InvalidTableState` for one that was committed or is
    /// being committed, and for a part of a multipart write.
    pub async fn abort_upload(&self, table: &Table, upload: Uuid, caller: &Caller) -> Result<()> {
        let found = self.find_upload(table, upload).await?;
        if let Some(part) = &found.part {
            return Err(Error::InvalidTableState(format!(
                "upload {upload} is a part of multipart write {}, which is aborted as a whole",
                part.session
            )));
        }
        let table = &Table { branch: found.branch.clone(), ..table.clone() };
        let is_taken = found.state == UploadState::Committing;
        if is_taken || !self.remove_unused(table, &found).await? {
            return Err(Error::InvalidTableState(format!("upload {upload} is committed")));
        }
        tracing::info!(table.id = %table.id, %caller, upload.id = %upload, "aborted upload");
        Ok(())
    }

    /// Removes an upload unless a commit has it or a version refers to its files. Answers whether
    /// it was removed.
    ///
    /// Fragments may have been committed by their JSON, past this server even, so that storage is
    /// asked. No commit of this process is under way meanwhile, and none of another can take an
    /// upload that is claimed for removal.
    pub(super) async fn remove_unused(&self, table: &Table, upload: &Upload) -> Result<bool> {
        // A batch that was left may yet commit it.
        let _turn = self.turn(table).await?;
        let claimed = {
            let mut tx = self.catalog.write().await?;
            let stale_us = self.now_us().saturating_sub(CLAIM_US);
            let claimed = upload.state != UploadState::Committed
                && uploads::condemn_upload(&mut tx, upload.key, upload.state, stale_us).await?;
            tx.commit().await?;
            claimed
        };
        if !claimed {
            return Ok(false);
        }
        if upload.state != UploadState::Writing && self.is_in_use(table, upload).await? {
            let mut tx = self.catalog.write().await?;
            let (from, to) = (UploadState::Removing, UploadState::Committed);
            uploads::move_upload(&mut tx, upload.key, from, to).await?;
            tx.commit().await?;
            return Ok(false);
        }
        self.remove_upload(table, upload.key).await?;
        Ok(true)
    }

    /// Whether a version refers to a file of the upload.
    pub(super) async fn is_in_use(&self, table: &Table, upload: &Upload) -> Result<bool> {
        let files = {
            let mut tx = self.catalog.read().await?;
            uploads::list_upload_files(&mut tx, upload.key).await?
        };
        let used = self.lake.files_in_use(&location_of(table), &files, upload.read_version).await?;
        Ok(!used.is_empty())
    }

    /// # Errors
    /// `InvalidInput` when the table has no such upload.
    pub(super) async fn find_upload(&self, table: &Table, upload: Uuid) -> Result<Upload> {
        let mut tx = self.catalog.read().await?;
        uploads::find_upload(&mut tx, upload)
            .await?
            .filter(|found| found.table_key == table.key && found.state != UploadState::Removing)
            .ok_or_else(|| {
                Error::invalid_input(format!("table '{}' has no upload {upload}", table.id))
            })
    }

    /// Removes the files of an upload that was claimed for removal, then its row.
    async fn remove_upload(&self, table: &Table, upload: Uuid) -> Result<()> {
        let files = {
            let mut tx = self.catalog.read().await?;
            uploads::list_upload_files(&mut tx, upload).await?
        };
        self.lake.remove_files(&location_of(table), &files).await?;
        let mut tx = self.catalog.write().await?;
        uploads::delete_upload(&mut tx, upload).await?;
        tx.commit().await
    }

    fn new_upload(
        &self,
        table: &Table,
        kind: UploadKind,
        whom: &For,
        read_version: u64,
        caller: &Caller,
    ) -> Upload {
        Upload {
            key: Uuid::now_v7(),
            table_key: table.key,
            branch: table.branch.clone(),
            kind,
            state: UploadState::Writing,
            part: whom.part().map(|part| part.part.clone()),
            read_version,
            staged: Staged::default(),
            created_by: caller.name().to_owned(),
            created_at_us: self.now_us(),
            expires_at_us: self.after_us(self.upload_ttl),
        }
    }

    /// Notes an upload that is a part, before its body is read.
    async fn begin_part(&self, table: &Table, part: &NewPart, upload: &mut Upload) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        let session = self.check_takes(&mut tx, table, part).await?;
        // It must not be gone before the others.
        upload.expires_at_us = upload.expires_at_us.max(session.expires_at_us);
        uploads::insert_upload(&mut tx, upload).await?;
        tx.commit().await
    }

    /// Notes that an upload stands, with all of its files, or removes what there is of it.
    async fn settle(
        &self,
        table: &Table,
        upload: &Upload,
        is_noted: bool,
        whom: &For,
        written: Result<(Vec<String>, Staged)>,
    ) -> Result<Staged> {
        let (files, outcome) = match written {
            Ok((_, staged)) if !is_noted && !whom.needs_note() => return Ok(staged),
            Ok((files, staged)) => {
                let outcome = self.stage(table, upload, is_noted, whom, &files, &staged).await;
                (files, outcome.map(|()| staged))
            }
            Err(error) => (Vec::new(), Err(error)),
        };
        if let Err(error) = &outcome
            && error.is_certainly_not_committed()
        {
            let removed = async {
                self.lake.remove_files(&location_of(table), &files).await?;
                match is_noted {
                    true => self.remove_upload(table, upload.key).await,
                    false => Ok(()),
                }
            };
            if let Err(failure) = removed.await {
                tracing::warn!(upload.id = %upload.key, error = %failure, "could not remove an upload yet");
            }
        }
        outcome
    }

    async fn stage(
        &self,
        table: &Table,
        upload: &Upload,
        is_noted: bool,
        whom: &For,
        files: &[String],
        staged: &Staged,
    ) -> Result<()> {
        let (engine, staging) = (self.clone(), Arc::new((table.clone(), upload.clone())));
        let what = Arc::new((whom.clone(), files.to_vec(), staged.clone()));
        let staged = self.catalog.write_with_others(move |tx| {
            let (engine, staging, what) = (engine.clone(), staging.clone(), what.clone());
            Box::pin(async move {
                let ((table, upload), (whom, files, staged)) = (&*staging, &*what);
                if !is_noted {
                    uploads::insert_upload(tx, upload).await?;
                }
                engine.write_stage(tx, table, upload, whom, files, staged).await
            })
        });
        let replaced = staged.await?;
        self.remove_parts(table, &replaced).await;
        Ok(())
    }

    /// Answers the parts that this one takes the place of.
    async fn write_stage(
        &self,
        tx: &mut Tx,
        table: &Table,
        upload: &Upload,
        whom: &For,
        files: &[String],
        staged: &Staged,
    ) -> Result<Vec<Uuid>> {
        if let For::Session(part) = whom {
            self.hold_open(tx, table, part).await?;
        }
        if !uploads::stage_upload(tx, upload.key, staged).await? {
            return Err(Error::InvalidTableState(
                "the upload was aborted, or its table dropped, while it was received".into(),
            ));
        }
        for file in files {
            uploads::insert_upload_file(tx, upload.key, file).await?;
        }
        if let For::Commit(transaction_id) = whom {
            let (claim, now_us) = (transaction_id.to_string(), self.now_us());
            uploads::claim_upload(tx, upload.key, &claim, now_us, now_us).await?;
        }
        multipart::replace_part(tx, upload, self.now_us()).await
    }
}

/// Whom an upload is for.
#[derive(Clone)]
pub(super) enum For {
    /// Whoever commits it.
    Anyone,
    /// A multipart write.
    Session(NewPart),
    /// The commit with this transaction, which follows at once and has the upload from the start.
    Commit(Uuid),
}

impl For {
    fn part(&self) -> Option<&NewPart> {
        match self {
            Self::Session(part) => Some(part),
            Self::Anyone | Self::Commit(_) => None,
        }
    }

    /// Whether somebody has to find it in the catalog once it stands.
    fn needs_note(&self) -> bool {
        !matches!(self, Self::Commit(_))
    }

    /// The state of an upload that stands.
    fn state(&self) -> UploadState {
        match self {
            Self::Anyone | Self::Session(_) => UploadState::Staged,
            Self::Commit(_) => UploadState::Committing,
        }
    }
}

/// Notes an upload and its files in the catalog, each file when the next one comes: the last is noted
/// with all the others once the upload stands, and one that is the only one needs no note before. So
/// what a crash can leave unknown is one file, which a look for files that nobody refers to finds.
struct Noted {
    catalog: Catalog,
    upload: Upload,
    last: Mutex<Option<String>>,
    is_begun: AtomicBool,
}

impl Noted {
    fn of(catalog: Catalog, upload: &Upload) -> Self {
        let is_begun = AtomicBool::new(upload.part.is_some());
        Self { catalog, upload: upload.clone(), last: Mutex::default(), is_begun }
    }

    /// Whether the catalog knows of the upload.
    fn is_begun(&self) -> bool {
        self.is_begun.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Noted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Noted({})", self.upload.key)
    }
}

#[async_trait]
impl FileLog for Noted {
    async fn note(&self, file_name: &str) -> Result<()> {
        let before = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.replace(file_name.to_owned())
        };
        let Some(before) = before else { return Ok(()) };
        let mut tx = self.catalog.write().await?;
        if !self.is_begun() {
            uploads::insert_upload(&mut tx, &self.upload).await?;
        }
        uploads::insert_upload_file(&mut tx, self.upload.key, &before).await?;
        tx.commit().await?;
        self.is_begun.store(true, Ordering::Release);
        Ok(())
    }
}
