//! Every change that must agree in SQL and in storage.
//!
//! The protocol of a commit:
//!
//! 1. **Look.** [`Engine::latest`] asks storage what came after the newest version that SQL knows
//!    and adopts it, so that commits by others are seen at once and never overwritten.
//! 2. **Check.** The version check and the fragments, before anything is put.
//! 3. **Put.** The manifest goes to its final name if nothing is there. This is the commit point:
//!    from here on nothing answers an error.
//! 4. **Record.** One SQL transaction adds the version row (who, what, when), marks the uploads
//!    and keeps the answer for a retry. If it fails, step 1 of whoever looks next heals it.
//!
//! Where storage cannot put only if nothing is there, the catalog is asked first who has a version:
//! see `arbiter.rs`.
//!
//! No connection is held while storage is at work.

mod alter;
mod arbiter;
mod backfill;
mod batch;
mod batch_tries;
mod change;
mod clones;
mod create;
mod doctor;
mod dropped;
mod events;
mod garbage;
mod giving_up;
mod group;
mod indexes;
mod jobs;
mod lines;
mod managed;
mod many;
mod marks;
mod multipart;
mod namespaces;
mod neighbours;
mod once;
mod protection;
mod publish;
mod received;
mod record;
mod refs;
mod rows;
mod settlement;
mod sweep;
mod tables;
mod transactions;
mod uploads;
mod versions;
mod views;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::error::Result;
use crate::lake::{Lake, Location};
use crate::model::{Clock, Table};
use crate::telemetry::meters;

use lines::Lines;

pub use crate::model::InsertMode;
pub use arbiter::CatalogArbiter;
pub use batch::{MAX_CHANGES, TableChange, TableChanged};
pub use change::Made;
pub use clones::CloneSource;
pub use create::{CreateMode, Created, Home, Inserted, NewTable};
pub use doctor::{Finding, Mending, Patients, Repair, Verdict};
pub use garbage::Thoroughness;
pub use jobs::Begun;
pub use managed::{VersionRange, Versioning};
pub use many::{CommittedTable, TableCommit, TablesCommitted};
pub use namespaces::{Behavior, IfExists, IfMissing};
pub use neighbours::CatalogNeighbours;
pub use once::Once;
pub use publish::{Brought, CommitOutcome, CommitRequest, OnConflict};
pub use record::UploadsAfter;
pub use sweep::{Cursor, Sweeping, Swept};
pub use tables::{NewLocation, RegisterMode};
pub use transactions::{Alteration, IfAbsent, IfThere, Transaction};
pub use uploads::StagedUpload;
pub use views::{CreatedView, FirstRows, NewView, Refresh, source_gone};

/// How long things are kept that nobody asks for.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// An upload that is not committed.
    pub uploads: Duration,
    /// A table that was dropped; nothing for one that goes at once.
    pub dropped: Duration,
}

/// The commit engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    catalog: Catalog,
    lake: Lake,
    clock: Clock,
    upload_ttl: Duration,
    drop_retention: Duration,
    versioning: Versioning,
    lines: Lines,
    /// Branches of one table are made and removed one after the other: they share folders.
    branch_turns: Lines,
    /// What has to come to its end even when its client hangs up, jobs among it.
    work: TaskTracker,
    job_turns: Arc<Semaphore>,
    jobs_here: Arc<Mutex<HashSet<Uuid>>>,
    /// Who this process is among those that share a catalog.
    process: Uuid,
}

impl Engine {
    pub fn new(
        catalog: Catalog,
        lake: Lake,
        clock: Clock,
        lifetimes: Lifetimes,
        versioning: Versioning,
        most_waiting: usize,
        work: TaskTracker,
    ) -> Self {
        let job_turns = Arc::new(Semaphore::new(jobs::AT_ONCE));
        let process = Uuid::now_v7();
        let lines = Lines::new(most_waiting);
        let branch_turns = Lines::new(most_waiting);
        Self {
            catalog,
            lake,
            clock,
            upload_ttl: lifetimes.uploads,
            drop_retention: lifetimes.dropped,
            versioning,
            lines,
            branch_turns,
            work,
            job_turns,
            jobs_here: Arc::default(),
            process,
        }
    }

    /// Makes what every catalog has: the first namespaces.
    pub async fn prepare_catalog(&self) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        crate::catalog::namespaces::ensure_first(&mut tx, self.clock.now_us()).await?;
        tx.commit().await
    }

    /// The same, for what nobody waits for and what must not wait behind requests.
    pub fn in_background(&self) -> Self {
        Self { catalog: self.catalog.background(), ..self.clone() }
    }

    /// Tells the meters how busy it is.
    pub fn measure(&self) {
        self.lines.measure();
        meters::jobs_running(self.jobs_here().len());
    }

    /// Microseconds since the Unix epoch, by the clock of this engine.
    pub fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    fn after_us(&self, time: Duration) -> i64 {
        self.now_us().saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The folder of the table's branch.
fn location_of(table: &Table) -> Location {
    root_of(table).of_branch(&table.branch)
}

/// The folder of the table itself.
fn root_of(table: &Table) -> Location {
    Location::from_stored(table.location.clone())
}

/// About the same time, so that those who wait for the same do not all come back at once.
fn jitter(pause: Duration) -> Duration {
    let [chance, ..] = Uuid::new_v4().into_bytes();
    pause.mul_f64(0.5 + f64::from(chance) / 256.0)
}
