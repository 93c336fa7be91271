//! Garbage: dropped tables and their folders, uploads and multipart writes whose time is over, answers
//! that nobody will ask for again, and files of tables that nothing refers to.
//!
//! Two kinds of work: what is **noted** in SQL costs a few statements and is swept often. To find
//! **files** that nothing refers to, every file of a table is listed and every manifest read: servers
//! do so now and then, a bit at a time, and `tiltyard gc` at once.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use super::Engine;
use super::garbage::Thoroughness;
use super::multipart::KEPT_US;
use super::publish::CLAIM_US;
use super::tables::REMOVAL_US;
use crate::catalog::survey::{self, DueRemoval};
use crate::catalog::tables::{self, Shown};
use crate::catalog::{idempotency, multipart, uploads};
use crate::error::{Error, Result};
use crate::lake::Location;
use crate::model::{NamespaceId, Page, PageScope, Table, Upload, UploadState};

/// How many of each kind are read at once.
pub(super) const BATCH: i64 = 500;
/// How many tables are looked through between two looks at the clock.
const TABLES_AT_ONCE: i64 = 20;

/// Whether a sweep removes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweeping {
    Remove,
    /// Nothing is changed, not even a claim.
    DryRun,
}

/// One thing that a sweep removed, or would remove.
#[derive(Debug, Clone)]
pub enum Swept {
    /// One that was dropped, and whose time is over.
    Table {
        table: String,
    },
    Folder {
        location: String,
    },
    Upload {
        id: Uuid,
        table: String,
    },
    /// The note of an upload whose files became part of a version.
    UploadNote {
        id: Uuid,
        table: String,
    },
    File {
        what: &'static str,
        table: String,
        name: String,
        bytes: u64,
    },
    Sessions {
        number: u64,
    },
    Answers {
        number: u64,
    },
    /// What could not be looked at or removed; the next sweep tries again.
    Failed {
        what: String,
        why: String,
    },
}

impl Swept {
    /// What kind of thing it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Table { .. } => "dropped_table",
            Self::Folder { .. } => "folder",
            Self::Upload { .. } => "upload",
            Self::UploadNote { .. } => "upload_note",
            Self::File { what, .. } => what,
            Self::Sessions { .. } => "multipart_write",
            Self::Answers { .. } => "kept_answer",
            Self::Failed { .. } => "failed",
        }
    }

    /// How many of them.
    pub fn number(&self) -> u64 {
        match self {
            Self::Sessions { number } | Self::Answers { number } => *number,
            _ => 1,
        }
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { table } => write!(f, "dropped table {table}, whose time is over"),
            Self::Folder { location } => write!(f, "folder {location}"),
            Self::Upload { id, table } => write!(f, "upload {id} to {table}, with its files"),
            Self::UploadNote { id, table } => {
                write!(f, "the note of upload {id} to {table}, which was committed")
            }
            Self::File { what, table, name, bytes } => {
                write!(f, "{what} {name} of {table} ({bytes} bytes)")
            }
            Self::Sessions { number } => write!(f, "{number} multipart writes that are over"),
            Self::Answers { number } => {
                write!(f, "{number} kept answers that nobody will ask for again")
            }
            Self::Failed { what, why } => write!(f, "{what}: {why}"),
        }
    }
}

/// Takes what a sweep did, one thing after the other: there may be many.
pub type Report<'a> = &'a mut (dyn FnMut(Swept) + Send);

/// How far through all tables a sweep has come; the default is the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor(Uuid);

impl Engine {
    /// Sweeps all there is, once. One thing that cannot be removed does not keep the others. Files
    /// that nothing refers to go when they are at least of the age.
    pub async fn sweep(&self, how: Sweeping, age: Duration, report: Report<'_>) -> Result<()> {
        self.sweep_notes(how, report).await?;
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            let thoroughness = Thoroughness::Garbage;
            cursor = self.sweep_tables(from, how, thoroughness, age, report).await?;
        }
        Ok(())
    }

    /// Sweeps what is noted in the catalog.
    pub async fn sweep_notes(&self, how: Sweeping, report: Report<'_>) -> Result<()> {
        self.sweep_sessions(how, report).await?;
        self.sweep_dropped(how, report).await?;
        self.sweep_folders(how, report).await?;
        self.sweep_uploads(how, report).await?;
        if how == Sweeping::Remove {
            self.finish_versions().await?;
        }
        let now_us = self.now_us();
        let number = if how == Sweeping::DryRun {
            let mut tx = self.catalog.read().await?;
            survey::count_keys(&mut tx, now_us, now_us).await?.1
        } else {
            let mut tx = self.catalog.write().await?;
            let number = idempotency::delete_expired(&mut tx, now_us).await?;
            tx.commit().await?;
            number
        };
        if number > 0 {
            report(Swept::Answers { number });
        }
        Ok(())
    }

    async fn sweep_sessions(&self, how: Sweeping, report: Report<'_>) -> Result<()> {
        let now_us = self.now_us();
        let stale_us = now_us.saturating_sub(KEPT_US);
        let number = {
            let mut tx = self.catalog.read().await?;
            survey::count_overdue_sessions(&mut tx, now_us, stale_us).await?
        };
        if how == Sweeping::Remove {
            let mut tx = self.catalog.write().await?;
            multipart::expire_sessions(&mut tx, now_us, now_us.saturating_add(KEPT_US)).await?;
            multipart::delete_finished(&mut tx, now_us, stale_us).await?;
            tx.commit().await?;
        }
        if number > 0 {
            report(Swept::Sessions { number });
        }
        Ok(())
    }

    async fn sweep_folders(&self, how: Sweeping, report: Report<'_>) -> Result<()> {
        let now_us = self.now_us();
        let mut after = DueRemoval { location: String::new(), not_before_us: i64::MIN };
        loop {
            let due = {
                let mut tx = self.catalog.read().await?;
                let stale_us = now_us - REMOVAL_US;
                survey::list_due_removals(&mut tx, now_us, stale_us, &after, BATCH).await?
            };
            let Some(last) = due.last() else { return Ok(()) };
            after = last.clone();
            for DueRemoval { location, .. } in due {
                if how == Sweeping::Remove {
                    self.remove_folder(&Location::from_stored(location.clone())).await;
                    let mut tx = self.catalog.read().await?;
                    if survey::has_removal(&mut tx, &location).await? {
                        let why = "it could not be removed now".into();
                        report(Swept::Failed { what: format!("folder {location}"), why });
                        continue;
                    }
                }
                report(Swept::Folder { location });
            }
        }
    }

    async fn sweep_uploads(&self, how: Sweeping, report: Report<'_>) -> Result<()> {
        let now_us = self.now_us();
        let mut after = (i64::MIN, Uuid::nil());
        loop {
            let expired = {
                let mut tx = self.catalog.read().await?;
                uploads::list_expired(&mut tx, now_us, now_us - CLAIM_US, after, BATCH).await?
            };
            let Some((last, _)) = expired.last() else { return Ok(()) };
            after = (last.expires_at_us, last.key);
            for (upload, table) in expired {
                match self.sweep_upload(&table, &upload, how).await {
                    Ok(Some(swept)) => report(swept),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(upload.id = %upload.key, %error, "could not sweep an upload");
                        let what = format!("upload {} to {}", upload.key, table.id);
                        report(Swept::Failed { what, why: error.to_string() });
                    }
                }
            }
        }
    }

    async fn sweep_upload(
        &self,
        table: &Table,
        upload: &Upload,
        how: Sweeping,
    ) -> Result<Option<Swept>> {
        let (id, name) = (upload.key, table.id.to_string());
        if upload.state == UploadState::Committed {
            if how == Sweeping::Remove {
                let mut tx = self.catalog.write().await?;
                uploads::delete_upload(&mut tx, upload.key).await?;
                tx.commit().await?;
            }
            return Ok(Some(Swept::UploadNote { id, table: name }));
        }
        if how == Sweeping::DryRun {
            let used =
                upload.state != UploadState::Writing && self.is_in_use(table, upload).await?;
            return Ok((!used).then_some(Swept::Upload { id, table: name }));
        }
        // A commit that has it for this long is dead.
        if !self.remove_unused(table, upload).await? {
            tracing::info!(upload.id = %upload.key, "an upload that expired was committed");
            return Ok(None);
        }
        Ok(Some(Swept::Upload { id, table: name }))
    }

    /// Sweeps the files of some tables that nothing refers to. Answers where to go on, if there are
    /// more tables.
    pub async fn sweep_tables(
        &self,
        from: Cursor,
        how: Sweeping,
        thoroughness: Thoroughness,
        age: Duration,
        report: Report<'_>,
    ) -> Result<Option<Cursor>> {
        let page = self.page_of_tables(from, TABLES_AT_ONCE).await?;
        let next = page.last().map(|table| Cursor(table.key));
        for table in page {
            if let Err(error) = self.sweep_table(&table, how, thoroughness, age, report).await
                // A table that was dropped meanwhile has no files.
                && self.is_there(&table).await?
            {
                tracing::warn!(table.id = %table.id, %error, "could not sweep a table");
                report(Swept::Failed {
                    what: format!("table {}", table.id),
                    why: error.to_string(),
                });
            }
        }
        Ok(next)
    }

    async fn sweep_table(
        &self,
        table: &Table,
        how: Sweeping,
        thoroughness: Thoroughness,
        age: Duration,
        report: Report<'_>,
    ) -> Result<()> {
        let survey = self.survey(table, age, thoroughness).await?;
        if let Some(why) = survey.blind {
            return Err(Error::InvalidTableState(format!("its files are left alone: {why}")));
        }
        let done = match how {
            Sweeping::DryRun => survey.orphans.into_iter().map(|file| (file, Ok(()))).collect(),
            Sweeping::Remove => self.remove_orphans(table, survey).await?,
        };
        for (file, removed) in done {
            let (what, table) = (file.kind().as_str(), table.id.to_string());
            report(match removed {
                Ok(()) => Swept::File { what, table, bytes: file.size_bytes, name: file.name },
                Err(error) => Swept::Failed {
                    what: format!("{what} {} of {table}", file.name),
                    why: error.to_string(),
                },
            });
        }
        Ok(())
    }

    /// Some tables of the whole catalog, by their keys.
    pub(super) async fn page_of_tables(&self, from: Cursor, limit: i64) -> Result<Vec<Table>> {
        let mut page = Page::new(PageScope::new("sweep", ""), Some(limit), None)?;
        page.after = Some(from.0.to_string());
        let mut tx = self.catalog.read().await?;
        tables::list_all_tables(&mut tx, &NamespaceId::root(), Shown::All, &page).await
    }
}

impl Cursor {
    pub(super) fn after(table: &Table) -> Self {
        Self(table.key)
    }
}
