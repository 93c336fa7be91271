//! Group commit: appends to one branch that wait for each other land in one version.
//!
//! An append is looked at when it comes: its uploads are claimed and its files checked. Then it waits
//! at its line. Whoever finds nobody there serves the line: takes the branch's turn, takes along all
//! that wait, puts one version with the rows of those that fit, and lets the turn go. The record, and
//! the answers, come while the next group is being put. An append that cannot share a version goes
//! alone, on the road that all other operations go.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, TryStreamExt};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::change::{PATIENCE, batch_in_the_way, taken_over};
use super::lines::{Line, Place};
use super::publish::{Taken, input, renew_after, version_of};
use super::record::{Finished, Record};
use super::{CommitOutcome, CommitRequest, Engine, OnConflict, Once, location_of};
use crate::catalog::{idempotency, versions};
use crate::error::{Conflict, Error, Result};
use crate::lake::{Addition, Change, Fence, Member, Published, Rules, Snapshot, shared_properties};
use crate::model::{Caller, Mark, Table, TableVersion};
use crate::telemetry::meters;

/// The most appends of one version.
const MOST: usize = 128;
/// How many versions without a known operation are looked at before an append goes alone.
const LOOKED_AT: usize = 1_000;
/// The first pause after others were faster, which then doubles.
const PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// An append that waits.
pub(super) struct Waiting {
    request: CommitRequest,
    transaction_id: Uuid,
    addition: Addition,
    /// How often files had been removed from the branch when those of the addition were looked at.
    removals: u64,
    taken: Vec<Taken>,
    claimed_at: Instant,
    once: Option<Once>,
    caller: Caller,
    place: Place,
    done: oneshot::Sender<Answer>,
}

/// What became of an append that waited.
enum Answer {
    Landed(CommitOutcome),
    Refused(Error),
    /// It cannot share a version.
    Alone(Vec<Taken>),
}

/// What the caller of [`Engine::append_with_others`] is to do.
pub(super) enum Shared {
    Landed(CommitOutcome),
    Alone(Vec<Taken>),
}

impl CommitRequest {
    /// Whether it may land on top of versions that came after the one it read.
    pub(super) fn may_pass(&self) -> bool {
        self.change == Change::Append && self.on_conflict != OnConflict::Fail
    }

    /// Whether it may share a version with others.
    pub(super) fn may_share(&self) -> bool {
        self.coalesce && self.may_pass()
    }
}

impl Engine {
    /// Adds rows in a version that others may share, and claims their uploads first.
    ///
    /// # Errors
    /// As [`Engine::commit_table`]. Uploads stay claimed.
    pub(super) async fn append_with_others(
        &self,
        table: &Table,
        request: &CommitRequest,
        transaction_id: Uuid,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<Shared> {
        let claimed_at = Instant::now();
        let line = self.lines.line(table);
        let removals = line.removals();
        let location = location_of(table);
        // Neither needs the other, and the one asks the catalog, the other storage.
        let (taken, named) = tokio::join!(
            self.uploads_of(table, request, transaction_id),
            self.lake.look_at(&location, &request.fragments),
        );
        let taken = taken?;
        let addition = named?.with(&input(request, &taken).staged)?;
        let (done, answer) = oneshot::channel();
        let waiting = Waiting {
            request: request.clone(),
            transaction_id,
            addition,
            removals,
            taken,
            claimed_at,
            once: once.cloned(),
            caller: caller.clone(),
            place: self.lines.queue(table)?,
            done,
        };
        if line.wait(waiting) {
            let (engine, table) = (self.clone(), table.clone());
            self.work.spawn(async move { engine.serve_line(table, line).await });
        }
        match answer.await {
            Ok(Answer::Landed(outcome)) => Ok(Shared::Landed(outcome)),
            Ok(Answer::Alone(taken)) => Ok(Shared::Alone(taken)),
            Ok(Answer::Refused(error)) => Err(error),
            Err(error) => Err(Error::internal("committing with others", error)),
        }
    }

    /// Puts what waits until nothing does.
    async fn serve_line(&self, table: Table, line: Arc<Line>) {
        loop {
            let turn = self.lines.take(&table).await;
            let group = line.next(MOST);
            if group.is_empty() {
                return;
            }
            // Whatever becomes of one group, the next is served.
            let put = AssertUnwindSafe(self.put_group(&table, &line, group));
            if put.catch_unwind().await.is_err() {
                tracing::error!(table.id = %table.id, "a group of appends broke off");
            }
            drop(turn);
        }
    }

    /// Puts one version with the rows of a group. Others may be faster, so that it is made anew on
    /// what they left.
    async fn put_group(&self, table: &Table, line: &Arc<Line>, mut group: Vec<Waiting>) {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        // Most likely nobody is in the way: that is asked once, just before the put.
        let mut is_first = true;
        loop {
            let again = !std::mem::take(&mut is_first);
            if again && self.wait_for_batches(table).await.is_err() {
                // What is in the way each is told on its own road.
                return group.into_iter().for_each(Waiting::go_alone);
            }
            line.more(&mut group, MOST);
            let base = self.base_of_group(table, line).await;
            let (base, mut floor) = match base {
                Ok(Some(base)) => base,
                // The first rows of a table make its schema; and what went wrong each is told.
                Ok(None) | Err(_) => return group.into_iter().for_each(Waiting::go_alone),
            };
            let group_now = std::mem::take(&mut group);
            let fitting = self.fitting(table, line, &base, &mut floor, group_now, again).await;
            if fitting.is_empty() {
                return;
            }
            match self.put_shared(table, line, &base, &fitting).await {
                Ok((version, published)) => {
                    return self.landed(table, line, floor, fitting, version, published);
                }
                Err(Error::ConcurrentModification(conflict))
                    if conflict.retryable && Instant::now() + pause < deadline =>
                {
                    tracing::debug!(table.id = %table.id, error = conflict.message, "going again");
                    meters::went_again();
                    self.lines.forget(table);
                    tokio::time::sleep(super::jitter(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    group = fitting;
                }
                Err(error) if error.is_certainly_not_committed() => {
                    self.lines.forget(table);
                    return fitting.into_iter().for_each(Waiting::go_alone);
                }
                Err(error) => {
                    self.lines.forget(table);
                    tracing::warn!(table.id = %table.id, %error, "the outcome of a group is unknown");
                    return Box::pin(self.settle_group(table, fitting, &error)).await;
                }
            }
        }
    }

    /// The version to build on, the one that is kept open if there is one, and its floor: every
    /// version after that goes together with an append.
    async fn base_of_group(&self, table: &Table, line: &Line) -> Result<Option<(Snapshot, u64)>> {
        if let Some(base) = line.base() {
            return Ok(Some(base));
        }
        let Some(newest) = self.latest(table).await? else { return Ok(None) };
        let base = self.open_newest(table, newest).await?;
        let version = base.version();
        Ok(Some((base, version)))
    }

    /// Those of a group that can go on top of a version; the others are answered.
    async fn fitting(
        &self,
        table: &Table,
        line: &Line,
        base: &Snapshot,
        floor: &mut u64,
        group: Vec<Waiting>,
        again: bool,
    ) -> Vec<Waiting> {
        let mut compatible = Vec::new();
        let properties = group.first().map(|one| one.request.properties.clone());
        for mut waiting in group {
            let read_version = waiting.request.read_version;
            let follows = waiting.request.on_conflict == OnConflict::Follow || read_version == 0;
            let shares = Some(&waiting.request.properties) == properties.as_ref()
                && waiting.removals == line.removals();
            let goes = shares && read_version <= base.version() && {
                follows || self.goes_with(table, line, base, floor, read_version).await
            };
            if !goes {
                waiting.go_alone();
                continue;
            }
            match self.still_claimed(&mut waiting, again).await {
                Ok(()) => compatible.push(waiting),
                Err(error) => waiting.refuse(error),
            }
        }
        let additions: Vec<&Addition> = compatible.iter().map(|one| &one.addition).collect();
        let verdicts = base.check_additions(&additions);
        let mut fitting = Vec::new();
        for (waiting, verdict) in compatible.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => fitting.push(waiting),
                Err(error) => waiting.refuse(error),
            }
        }
        fitting
    }

    /// Whether all that was committed after a version, up to the base, goes together with an append.
    async fn goes_with(
        &self,
        table: &Table,
        line: &Line,
        base: &Snapshot,
        floor: &mut u64,
        read_version: u64,
    ) -> bool {
        if read_version >= *floor {
            return true;
        }
        if !self.goes_beside(table, base, read_version, *floor).await {
            return false;
        }
        *floor = read_version;
        line.lower_floor(base.version(), read_version);
        true
    }

    /// Whether an append goes together with all that was committed after one version, up to another.
    /// `opened` is a version of the table, whichever.
    pub(super) async fn goes_beside(
        &self,
        table: &Table,
        opened: &Snapshot,
        after: u64,
        until: u64,
    ) -> bool {
        let looked = async {
            let unclear = {
                let mut tx = self.catalog.read().await?;
                // One that has no row may be anything.
                if versions::count_versions(&mut tx, table, after, until).await? != until - after {
                    return Ok(false);
                }
                let most = LOOKED_AT + 1;
                versions::list_unlike_append(&mut tx, table, after, until, most).await?
            };
            // What was adopted has no operation in its row.
            if unclear.len() > LOOKED_AT || unclear.iter().any(|(_, operation)| operation.is_some())
            {
                return Ok(false);
            }
            let unknown: Vec<u64> = unclear.into_iter().map(|(version, _)| version).collect();
            let wanted = unknown.len();
            let makers: Vec<_> = opened.makers(unknown).try_collect().await?;
            let goes = |name: &str| versions::BESIDE_APPEND.contains(&name);
            Ok(makers.len() == wanted && makers.iter().all(|maker| goes(&maker.operation)))
        };
        looked.await.unwrap_or_else(|error: Error| {
            tracing::warn!(table.id = %table.id, %error, "could not look at what was committed");
            false
        })
    }

    /// Whether the uploads, and the key, are still this request's.
    async fn still_claimed(&self, waiting: &mut Waiting, again: bool) -> Result<()> {
        if let Some(mark) = waiting.caller.mark().filter(|_| again) {
            let mut tx = self.catalog.read().await?;
            if !idempotency::is_held(&mut tx, &mark.key_hash, mark.holder).await? {
                return Err(taken_over());
            }
        }
        if waiting.claimed_at.elapsed() > renew_after() {
            self.renew_claim(&waiting.taken, waiting.transaction_id).await?;
            waiting.claimed_at = Instant::now();
        }
        Ok(())
    }

    async fn put_shared(
        &self,
        table: &Table,
        line: &Arc<Line>,
        base: &Snapshot,
        group: &[Waiting],
    ) -> Result<(TableVersion, Published)> {
        let additions: Vec<&Addition> = group.iter().map(|one| &one.addition).collect();
        let own = &group[0].request.properties;
        let (transaction_id, properties) = match group {
            [alone] => (alone.transaction_id, own.clone()),
            group => {
                let members: Vec<Member> = group.iter().map(Waiting::member).collect();
                (Uuid::now_v7(), shared_properties(own, &members))
            }
        };
        let rules = Rules {
            transaction_id,
            properties,
            fence: Some(Arc::new(Newest {
                engine: self.clone(),
                table: table.clone(),
                line: line.clone(),
                marks: group.iter().filter_map(|one| one.caller.mark().cloned()).collect(),
            })),
            ..Rules::default()
        };
        let published = base.append_all(&additions, &rules).await?;
        let mut callers: Vec<&str> = group.iter().map(|one| one.caller.name()).collect();
        callers.sort_unstable();
        callers.dedup();
        let caller = Caller::from_stored(callers.join(", "));
        let request = &group[0].request;
        let version = version_of(&published, request, transaction_id, &caller, self.now_us());
        Ok((version, published))
    }

    /// The version stands: the next group can build on it while it is recorded.
    fn landed(
        &self,
        table: &Table,
        line: &Arc<Line>,
        floor: u64,
        group: Vec<Waiting>,
        version: TableVersion,
        published: Published,
    ) {
        let number = version.manifest.version;
        meters::shared(group.len());
        match &published.snapshot {
            Some(snapshot) => self.lines.keep(table, snapshot, &version, floor),
            None => self.lines.forget(table),
        }
        tracing::info!(
            table.id = %table.id, members = group.len(),
            "committed version {number} of {}", table.id
        );
        let (engine, table, line) = (self.clone(), table.clone(), line.clone());
        self.work.spawn(async move {
            engine.finish_group(&table, &line, group, version, published.num_rows).await;
        });
    }

    /// Records a version that stands and answers those whose rows are in it.
    async fn finish_group(
        &self,
        table: &Table,
        line: &Line,
        group: Vec<Waiting>,
        version: TableVersion,
        num_rows: u64,
    ) {
        let number = version.manifest.version;
        let finished = group.iter().map(|one| Finished {
            outcome: CommitOutcome::of(&one.request, number, num_rows, one.transaction_id),
            session: one.request.session,
            uploads: one.taken.iter().any(Taken::is_claimed).then_some(one.request.uploads_after),
            once: one.once.clone(),
            caller: one.caller.clone(),
        });
        let finished: Vec<Finished> = finished.collect();
        let outcomes: Vec<CommitOutcome> =
            finished.iter().map(|finished| finished.outcome.clone()).collect();
        if self.record(Record { table: table.clone(), version, finished }).await {
            line.note_recorded(number);
        }
        for (waiting, outcome) in group.into_iter().zip(outcomes) {
            waiting.answer(Answer::Landed(outcome));
        }
    }

    /// Storage did not say whether the version stands. If it turns out to, all is well.
    async fn settle_group(&self, table: &Table, group: Vec<Waiting>, error: &Error) {
        for waiting in group {
            let Waiting { request, transaction_id, once, caller, .. } = &waiting;
            let landed = self
                .record_landed(table, request, *transaction_id, once.as_ref(), caller)
                .await
                .ok()
                .flatten();
            waiting.answer(match landed {
                Some(outcome) => Answer::Landed(outcome),
                None => Answer::Refused(unknown(error)),
            });
        }
    }
}

/// Keeps a group off a table that is gone, off a version that a batch is about to make, and off a
/// version that is not the newest any more by what the rows say. (What has no row yet, storage says:
/// there the put fails.)
struct Newest {
    engine: Engine,
    table: Table,
    line: Arc<Line>,
    /// Of the requests that must take effect once.
    marks: Vec<Arc<Mark>>,
}

impl std::fmt::Debug for Newest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Newest({})", self.table.id)
    }
}

#[async_trait]
impl Fence for Newest {
    async fn check(&self, version: u64) -> Result<()> {
        let Self { engine, table, line, marks } = self;
        let recorded = line.recorded();
        if !marks.is_empty() {
            let mut tx = engine.catalog.read().await?;
            for mark in marks {
                if !idempotency::is_held(&mut tx, &mark.key_hash, mark.holder).await? {
                    // The others go again without it.
                    return Err(moved(table, version));
                }
            }
        }
        let found = engine.catalog.find_line_state(table).await?;
        let found = found.ok_or_else(|| Error::TableNotFound(table.id.clone()))?;
        if found.is_intended {
            return Err(batch_in_the_way(table, version));
        }
        let newest = found.newest.zip(found.committed_at_us);
        let newest = newest.map(|(version, at_us)| (version.unsigned_abs(), at_us));
        if newest.is_some_and(|newest| line.is_newest(version - 1, newest, recorded)) {
            return Ok(());
        }
        Err(moved(table, version))
    }
}

/// What each of a group is told when nobody knows whether the version stands.
fn unknown(error: &Error) -> Error {
    match error {
        Error::ServiceUnavailable(why) => Error::ServiceUnavailable(format!(
            "{why}; whether the rows landed is not known, and the same key tells when it does"
        )),
        error => {
            Error::internal("putting a version with the rows of several", format!("{error:?}"))
        }
    }
}

/// The group has to be made anew.
fn moved(table: &Table, version: u64) -> Error {
    Error::conflict(Conflict {
        message: format!("version {version} of '{}' cannot be put as it was made", table.id),
        retryable: true,
        ..Conflict::default()
    })
}

impl Waiting {
    fn member(&self) -> Member<'_> {
        let mark = self.caller.mark().map(|mark| mark.id);
        (self.transaction_id, &self.addition, mark)
    }

    fn answer(self, answer: Answer) {
        drop(self.place);
        // Whoever waited may be gone.
        let _ = self.done.send(answer);
    }

    fn refuse(self, error: Error) {
        self.answer(Answer::Refused(error));
    }

    fn go_alone(mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.answer(Answer::Alone(taken));
    }
}
