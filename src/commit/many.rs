//! Commits to many tables in one request: all of them or none.
//!
//! Each version is made first and staged, by the rules of a commit to one table. Then the batch puts
//! all of them (`batch.rs`). When another's version stands where one of them was to stand, all of it
//! is made anew on what the others left, until the time is over.
//!
//! Every try is a batch of its own. With an `Idempotency-Key` the ids of the tries follow from the
//! key, and a try begins only after the one before it came to nothing. So a retry after a crash finds
//! what became of the first request: a batch that was left is brought to its end before anything else
//! is begun.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use super::batch::{AT_ONCE, Creation, MAX_CHANGES, Noted, Step, at};
use super::batch_tries::Tries;
use super::change::{PATIENCE, PAUSE};
use super::publish::input;
use super::settlement::{Settlement, check_held};
use super::{CommitRequest, Engine, Once, jitter, location_of};
use crate::catalog::batches::{Batch, BatchState};
use crate::catalog::{tables, uploads};
use crate::error::{Conflict, Error, Result};
use crate::lake::{Input, Rules};
use crate::model::{Attempt, Branch, Caller, Properties, Table, TableId};

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A commit to one table among several.
#[derive(Debug, Clone)]
pub struct TableCommit {
    pub id: TableId,
    pub branch: Branch,
    pub request: CommitRequest,
}

/// What a request came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TablesCommitted {
    /// Describes the whole batch.
    pub transaction_id: String,
    /// In the order of the request.
    pub commits: Vec<CommittedTable>,
}

/// What one of the commits came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommittedTable {
    pub id: Vec<String>,
    pub version: u64,
    pub read_version: u64,
    /// Whether others had committed since `read_version`.
    pub rebased: bool,
    /// How many rows live in the new version.
    pub num_rows: u64,
}

/// One commit, with the table that it is about.
struct Line<'a> {
    index: usize,
    table: Table,
    request: &'a CommitRequest,
}

/// What the versions of a try are put from.
struct Staged {
    uploads: u64,
    /// What an earlier try put and could not take back, since a writer past this server had built on
    /// it by then: the rows are in.
    standing: Vec<(usize, CommittedTable)>,
}

/// What came of staging one version.
enum One {
    Made(Box<Creation>),
    Standing(CommittedTable),
    /// It would not be the next one.
    Overtaken,
}

/// What came of a try.
enum Tried {
    Committed(TablesCommitted),
    /// Others were faster; nothing of it stands.
    Overtaken(Error),
}

impl Engine {
    /// Commits to several tables as one: all of the versions or none.
    ///
    /// # Errors
    /// Those of a commit to one table, with the place of the one that was refused; then nothing was
    /// changed. `Internal` and `ServiceUnavailable` when the outcome is unknown; a retry with the
    /// same key settles it.
    pub async fn commit_tables(
        &self,
        commits: Vec<TableCommit>,
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<TablesCommitted> {
        if let Some(once) = once
            && let Err(answer) = self.take_once(once).await?
        {
            return Ok(answer);
        }
        self.while_alive(once, self.try_until_done(&commits, once, caller)).await
    }

    async fn try_until_done(
        &self,
        commits: &[TableCommit],
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<TablesCommitted> {
        let (deadline, mut pause, mut tries) = (Instant::now() + PATIENCE, PAUSE, 0);
        let mut attempt = Attempt::First;
        loop {
            let batch = match self.next_of_key(once, &mut tries).await? {
                Ok(batch) => batch,
                Err(answer) => return Ok(answer),
            };
            if tries > 0 {
                attempt = Attempt::AfterAnother;
            }
            let lines = self.lines(commits).await?;
            let error = match self.try_once(batch, attempt, &lines, once, caller).await {
                Ok(Tried::Committed(answer)) => return Ok(answer),
                Ok(Tried::Overtaken(error)) => error,
                // A twin of this request, on another replica that took it for dead, may have landed
                // it.
                Err(error) => return self.next_of_key(once, &mut 0).await?.err().ok_or(error),
            };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(batch.id = %batch, %error, "going again");
            attempt = Attempt::AfterAnother;
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The id of the next try, or the answer of one that was made under the same key before.
    async fn next_of_key(
        &self,
        once: Option<&Once>,
        tries: &mut u64,
    ) -> Result<Result<Uuid, TablesCommitted>> {
        let of = once.map(|once| Tries::of_key(once, self.now_us()));
        match self.next_try(of, tries).await? {
            Ok(key) => Ok(Ok(key)),
            Err(batch) => answer_of(&batch).map(Err),
        }
    }

    /// The tables that the commits are about.
    ///
    /// # Errors
    /// `TableNotFound`, `TableBranchNotFound`; `InvalidInput` when one is named twice.
    async fn lines<'a>(&self, commits: &'a [TableCommit]) -> Result<Vec<Line<'a>>> {
        if commits.is_empty() || commits.len() > MAX_CHANGES {
            return Err(Error::invalid_input(format!(
                "a request has at least one commit and at most {MAX_CHANGES}"
            )));
        }
        let mut known = HashSet::new();
        let mut lines = Vec::new();
        for (index, commit) in commits.iter().enumerate() {
            let found = async {
                let mut tx = self.catalog.read().await?;
                tables::get_table(&mut tx, &commit.id).await
            };
            let table = found.await.map_err(|error| at(index, error))?;
            let table = self.on_branch(table, commit.branch.clone()).await;
            let table = table.map_err(|error| at(index, error))?;
            if !known.insert((table.key, table.branch.clone())) {
                let twice = "a request may commit to each branch of a table once";
                return Err(at(index, Error::invalid_input(twice)));
            }
            lines.push(Line { index, table, request: &commit.request });
        }
        Ok(lines)
    }

    async fn try_once(
        &self,
        batch: Uuid,
        attempt: Attempt,
        lines: &[Line<'_>],
        once: Option<&Once>,
        caller: &Caller,
    ) -> Result<Tried> {
        let _turns = self.turns_in_order(lines).await?;
        let mut made = Vec::new();
        let staged = match self.stage_all(batch, attempt, lines, &mut made).await {
            Ok(Ok(staged)) => staged,
            Ok(Err(overtaken)) => {
                self.unmake(batch, &made).await;
                return Ok(Tried::Overtaken(overtaken));
            }
            Err(error) => {
                self.unmake(batch, &made).await;
                return Err(error);
            }
        };
        let mut commits: Vec<(usize, CommittedTable)> = staged.standing;
        let of = |index| lines.iter().find(|line| line.index == index);
        commits.extend(made.iter().filter_map(|made| {
            let (version, num_rows) = (made.staged.version(), made.staged.num_rows());
            Some((made.index, committed(of(made.index)?, version, num_rows)))
        }));
        commits.sort_by_key(|(index, _)| *index);
        let answer = TablesCommitted {
            transaction_id: batch.to_string(),
            commits: commits.into_iter().map(|(_, commit)| commit).collect(),
        };
        let settlement = Settlement::new(batch.to_string(), staged.uploads, answer.clone(), once);
        Ok(match self.put_together(batch, &made, settlement, caller).await? {
            Some(overtaken) => Tried::Overtaken(overtaken),
            None => Tried::Committed(answer),
        })
    }

    /// The turns of all tables, taken in the same order by everyone: two requests would otherwise
    /// wait for each other.
    async fn turns_in_order(&self, lines: &[Line<'_>]) -> Result<Vec<OwnedMutexGuard<()>>> {
        let mut lines: Vec<&Line> = lines.iter().collect();
        lines.sort_by_key(|line| (line.table.key, line.table.branch.clone()));
        let mut turns = Vec::new();
        for line in lines {
            let turn = self.take_turn(&line.table).await;
            turns.push(turn.map_err(|error| at(line.index, error))?);
        }
        Ok(turns)
    }

    /// Takes the uploads and stages the versions, which go to `made`. Answers what else there is to
    /// it, or why it has to be done again.
    async fn stage_all(
        &self,
        batch: Uuid,
        attempt: Attempt,
        lines: &[Line<'_>],
        made: &mut Vec<Creation>,
    ) -> Result<Result<Staged, Error>> {
        let mut inputs = Vec::new();
        let (mut uploads, mut standing) = (0, Vec::new());
        for line in lines {
            let taken = self.take_uploads(&line.table, line.request, batch).await;
            let taken = taken.map_err(|error| at(line.index, error))?;
            uploads += taken.len() as u64;
            inputs.push(input(line.request, &taken));
        }
        let work: Vec<(&Line, &Input)> = lines.iter().zip(&inputs).collect();
        for some in work.chunks(AT_ONCE) {
            let staging =
                some.iter().map(|(line, input)| self.stage_one(batch, attempt, line, input));
            let outcomes = join_all(staging).await;
            // What was made is noted before any refusal is looked at.
            let mut refused = None;
            for ((line, _), outcome) in some.iter().zip(outcomes) {
                match outcome {
                    Ok(One::Made(one)) => made.push(*one),
                    Ok(One::Standing(commit)) => standing.push((line.index, commit)),
                    Ok(One::Overtaken) => {
                        refused.get_or_insert((line, None));
                    }
                    Err(error) => {
                        refused.get_or_insert((line, Some(error)));
                    }
                }
            }
            match refused {
                None => {}
                Some((line, None)) => return Ok(Err(at(line.index, self.overtaken(line).await))),
                Some((line, Some(error))) => return Err(at(line.index, error)),
            }
        }
        if uploads > 0 {
            let mut tx = self.catalog.write().await?;
            let held = uploads::renew_claim(&mut tx, &batch.to_string(), self.now_us()).await?;
            tx.commit().await?;
            check_held(held, uploads)?;
        }
        Ok(Ok(Staged { uploads, standing }))
    }

    /// Stages the version after the newest.
    async fn stage_one(
        &self,
        batch: Uuid,
        attempt: Attempt,
        line: &Line<'_>,
        input: &Input,
    ) -> Result<One> {
        let Line { index, table, request } = line;
        let location = location_of(table);
        let latest = self.latest(table).await?.map_or(0, |latest| latest.manifest.version);
        self.check_version(table, request, latest).await?;
        let base = self.base(table, request, latest).await?;
        let prepared = self.lake.prepare(&location, base.as_ref(), request.change, input).await;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error @ Error::InvalidInput(_)) if attempt == Attempt::AfterAnother => {
                let standing = self.find_standing(line, input).await?;
                return standing.map(One::Standing).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        let rules = Rules {
            read_version: request.read_or(latest),
            transaction_id: Uuid::new_v5(&batch, &(*index as u64).to_be_bytes()),
            properties: request.properties.clone(),
            ..Rules::default()
        };
        let staging = self.lake.stage(&location, base.as_ref(), prepared, &rules, latest + 1).await;
        match staging {
            Ok(Some((staged, told))) => {
                let (table, metadata) = (table.clone(), request.properties.clone());
                let told = Some(told);
                Ok(One::Made(Box::new(Creation { index: *index, table, staged, metadata, told })))
            }
            Ok(None) => Ok(One::Overtaken),
            Err(Error::ConcurrentModification(conflict)) => {
                Err(self.explain(table, request.read_version, *conflict).await)
            }
            Err(error) => Err(self.unless_gone(table, error).await),
        }
    }

    /// The version by which the rows that one of the tries before put are in a table: that version, or
    /// the one that a writer past this server made of it while it was taken back.
    async fn find_standing(
        &self,
        line: &Line<'_>,
        input: &Input,
    ) -> Result<Option<CommittedTable>> {
        let (location, files) = (location_of(&line.table), input.data_files());
        if files.is_empty() {
            return Ok(None);
        }
        let latest = self.latest(&line.table).await?.map_or(0, |latest| latest.manifest.version);
        for number in line.request.read_version + 1..=latest {
            let there = match self.describe_version(&line.table, number).await {
                Err(Error::TableVersionNotFound { .. }) => continue,
                there => there?.manifest.version,
            };
            let snapshot = self.lake.snapshot(&location, there).await?;
            if snapshot.holds_files(&files) {
                return Ok(Some(committed(line, there, snapshot.num_rows().await?)));
            }
        }
        Ok(None)
    }

    /// Takes back what was made for a try of which nothing is noted.
    async fn unmake(&self, batch: Uuid, made: &[Creation]) {
        for creation in made {
            let (location, path) = (location_of(&creation.table), creation.staged.path());
            let file = creation.told.as_ref().and_then(|told| told.transaction_file.as_deref());
            self.lake.discard_staged(&location, &path, file).await;
        }
        self.give_uploads_back(batch).await;
    }

    /// Puts all of the versions as one batch. Answers why it has to be done again, if it has to.
    async fn put_together(
        &self,
        key: Uuid,
        made: &[Creation],
        settlement: Settlement,
        caller: &Caller,
    ) -> Result<Option<Error>> {
        let mut steps: Vec<Step> = made.iter().map(Step::of_creation).collect();
        steps.push(Step::Settle(settlement));
        let batch = Batch {
            key,
            state: BatchState::Open,
            changes: serde_json::to_string(&steps)
                .map_err(|error| Error::internal("noting a batch", error))?,
            properties: Properties::new(),
            created_by: caller.name().into(),
            created_at_us: self.now_us(),
        };
        match self.intend(&batch, &steps, made).await {
            Ok(Noted::Now) => {}
            Ok(Noted::Before) => {
                // Another process sends this very request: the claims and the transactions are its.
                for creation in made {
                    let location = location_of(&creation.table);
                    self.lake.discard_staged(&location, &creation.staged.path(), None).await;
                }
                return Ok(Some(Error::conflict(Conflict {
                    message: "another process is at a request with this key".into(),
                    retryable: true,
                    ..Conflict::default()
                })));
            }
            // Nobody knows whether it is noted: its lease, or the claims, will run out.
            Err(error) if !error.is_certainly_not_committed() => return Err(error),
            Err(error) => {
                self.unmake(key, made).await;
                return if is_conflict(&error) { Ok(Some(error)) } else { Err(error) };
            }
        }
        let work = self.carry_out(&batch, &steps, made, caller);
        match self.while_at_it(key, work).await {
            Ok(_) => {
                let tables = made.len();
                tracing::info!(batch.id = %key, %caller, tables, "committed to several tables");
                Ok(None)
            }
            // All of it was taken back.
            Err(error) if is_conflict(&error) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    async fn overtaken(&self, line: &Line<'_>) -> Error {
        let conflict = Conflict {
            message: format!("others commit to table '{}' all the time", line.table.id),
            retryable: true,
            ..Conflict::default()
        };
        self.explain(&line.table, line.request.read_version, conflict).await
    }
}

fn committed(line: &Line<'_>, version: u64, num_rows: u64) -> CommittedTable {
    let read_version = line.request.read_version;
    CommittedTable {
        id: line.table.id.to_list(),
        version,
        read_version,
        rebased: version != read_version + 1,
        num_rows,
    }
}

fn is_conflict(error: &Error) -> bool {
    matches!(error.and_entry().0, Error::ConcurrentModification(_))
}

/// What a batch that was done answered.
fn answer_of(batch: &Batch) -> Result<TablesCommitted> {
    let steps: Vec<Step> = serde_json::from_str(&batch.changes)
        .map_err(|error| Error::internal("reading a batch", error))?;
    let settlement = Settlement::of(&steps);
    let settlement = settlement.ok_or_else(|| Error::internal("reading a batch", "no answer"))?;
    Ok(settlement.answer.clone())
}
