//! The doctor: compares what the catalog says with what storage holds.
//!
//! Storage is the truth about versions, SQL about names: where they differ about a version its row
//! is mended, never a manifest. Nothing that a version refers to is ever removed, and what is lost is
//! told, not hidden. Servers may run meanwhile: rows are read before storage is listed, everything
//! that looks wrong is looked at again before it is told, and no transaction is open while storage
//! is at work.

mod branches;
mod claims;
mod folders;
mod notes;
mod tables;
mod uploads;

use std::time::Duration;

use super::Engine;
use super::sweep::Cursor;
use crate::catalog;
use crate::error::Result;
use crate::model::{Branch, Table, TableId};

/// How many tables are read from the catalog at once.
const TABLES_AT_ONCE: i64 = 100;
/// How many other rows.
const BATCH: i64 = 500;

/// Which tables are examined.
#[derive(Debug, Clone)]
pub enum Patients {
    /// All of them, what is noted in the catalog, and the storage root.
    All,
    These(Vec<TableId>),
}

/// Whether what is found is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing is changed.
    No,
    Yes,
}

/// Something that does not fit together.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Nothing for what is of no table.
    pub table: Option<TableId>,
    /// Nothing for what is of no branch, or of the main one.
    pub branch: Option<Branch>,
    /// What is the matter.
    pub what: String,
    pub mending: Mending,
}

/// What can be done, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mending {
    /// What a repair would do.
    Possible(&'static str),
    /// What was done.
    Done(&'static str),
    /// What was tried, and why it failed.
    Failed(&'static str, String),
    /// Why it cannot be mended from here.
    Beyond(&'static str),
    /// Nothing is wrong, but somebody may want to know.
    Note(&'static str),
}

/// How an examination ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    pub tables: u64,
    /// What is wrong and was not mended.
    pub remaining: u64,
    pub mended: u64,
    pub notes: u64,
}

impl Engine {
    /// Examines tables, and mends what it can if it is to. What nothing refers to is garbage from
    /// the given age on. Findings come grouped by table, as they are made.
    ///
    /// # Errors
    /// `TableNotFound` for a table that is named and not there, and what keeps the catalog from
    /// answering. What goes wrong at one table is a finding.
    pub async fn examine(
        &self,
        patients: Patients,
        repair: Repair,
        age: Duration,
        report: &mut (dyn FnMut(Finding) + Send),
    ) -> Result<Verdict> {
        let mut doctor = Doctor {
            engine: self,
            repair,
            age,
            report,
            about: About::default(),
            verdict: Verdict::default(),
        };
        match patients {
            Patients::These(ids) => {
                for id in ids {
                    let table = {
                        let mut tx = self.catalog.read().await?;
                        catalog::tables::get_table(&mut tx, &id).await?
                    };
                    doctor.examine_table(&table).await?;
                }
            }
            Patients::All => {
                // First what others left half done: the tables are easier to judge without it.
                doctor.examine_notes().await?;
                let mut from = Cursor::default();
                loop {
                    let page = self.page_of_tables(from, TABLES_AT_ONCE).await?;
                    let Some(last) = page.last() else { break };
                    from = Cursor::after(last);
                    for table in &page {
                        doctor.examine_table(table).await?;
                    }
                }
                doctor.about = About::default();
                doctor.examine_root().await?;
            }
        }
        Ok(doctor.verdict)
    }
}

/// What a finding is about.
#[derive(Default)]
struct About {
    table: Option<TableId>,
    branch: Option<Branch>,
}

struct Doctor<'a> {
    engine: &'a Engine,
    repair: Repair,
    age: Duration,
    report: &'a mut (dyn FnMut(Finding) + Send),
    about: About,
    verdict: Verdict,
}

impl Doctor<'_> {
    async fn examine_table(&mut self, table: &Table) -> Result<()> {
        self.verdict.tables += 1;
        self.about = About { table: Some(table.id.clone()), branch: None };
        let examined = self.examine_files(table).await;
        self.about.branch = None;
        if let Err(error) = examined {
            // One that was dropped meanwhile has nothing to be found.
            if self.engine.is_there(table).await? {
                tracing::warn!(table.id = %table.id, %error, "could not examine a table");
                self.tell(
                    format!("it could not be examined: {error}"),
                    Mending::Beyond("try again"),
                );
            }
        }
        Ok(())
    }

    /// Tells of something that `mend` puts right; it answers whether it did. It is only waited for
    /// when things are to be mended.
    async fn find(
        &mut self,
        what: String,
        how: &'static str,
        mend: impl Future<Output = Result<bool>>,
    ) {
        let mending = match self.repair {
            Repair::No => Mending::Possible(how),
            Repair::Yes => match mend.await {
                Ok(true) => Mending::Done(how),
                Ok(false) => Mending::Failed(how, "others were at it meanwhile; look again".into()),
                Err(error) => Mending::Failed(how, error.to_string()),
            },
        };
        self.tell(what, mending);
    }

    fn tell(&mut self, what: String, mending: Mending) {
        match mending {
            Mending::Done(_) => self.verdict.mended += 1,
            Mending::Note(_) => self.verdict.notes += 1,
            Mending::Possible(_) | Mending::Failed(..) | Mending::Beyond(_) => {
                self.verdict.remaining += 1;
            }
        }
        let About { table, branch } = &self.about;
        let (table, branch) = (table.clone(), branch.clone());
        (self.report)(Finding { table, branch, what, mending });
    }
}
