//! The branches of tables at which this process is: whose turn it is, who waits to add rows, and the
//! newest version, kept open.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::group::Waiting;
use crate::error::{Error, Result};
use crate::lake::Snapshot;
use crate::model::{Branch, Table, TableVersion};
use crate::telemetry::meters::{self, Present};

/// How much memory the versions that are kept open may hold together, in bytes.
const WARM_BYTES: usize = 192 << 20;
/// For how long a version is kept open that nobody asks for, and how often that is looked at.
const IDLE: Duration = Duration::from_secs(5 * 60);
const LOOK: Duration = Duration::from_secs(60);
/// How many versions a line remembers the rows of.
const REMEMBERED: usize = 64;
/// How many lines there are before those that nobody is at are looked for.
const FEW: usize = 256;

/// One change at a time for each branch of a table in this process: writers that wait for each other
/// here would otherwise race in storage, and all but one would have to go again.
#[derive(Clone)]
pub(super) struct Lines {
    lines: Arc<Mutex<Known>>,
    /// How many may wait at one line.
    most_waiting: usize,
}

#[derive(Default)]
struct Known {
    lines: HashMap<(Uuid, Branch), Arc<Line>>,
    /// What the open versions hold, about, in bytes.
    warm_bytes: usize,
    /// How many lines there may be before a look for those that are not needed any more.
    look_at: usize,
    /// How often what Lance remembers had been forgotten when versions of before were last let go.
    times_forgotten: u64,
    /// When it was looked last for open versions that nobody asks for.
    looked: Option<Instant>,
    /// Counts uses, so that the version that was not used for longest goes first.
    uses: u64,
}

/// A branch of a table.
#[derive(Default)]
pub(super) struct Line {
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Appends that wait to share a version, in the order in which they came.
    waiting: VecDeque<Waiting>,
    /// Whether somebody is at it to put what waits.
    is_served: bool,
    /// How many wait for their turn.
    queued: usize,
    warm: Option<Warm>,
    /// When each of the last versions that this process saw was recorded: a row that says something
    /// else is of another version that came to have the same number.
    remembered: VecDeque<(u64, i64)>,
    /// The newest version that certainly has its row.
    recorded: u64,
    /// How often files that nobody referred to were removed.
    removals: u64,
}

/// The newest version that this process knows, open.
#[derive(Clone)]
struct Warm {
    snapshot: Snapshot,
    weight: usize,
    used: u64,
    /// When it was used last.
    at: Instant,
    /// Every version after this one goes together with an append.
    floor: u64,
}

/// Keeps a place among those that wait.
pub(super) struct Place(Arc<Line>, #[expect(dead_code, reason = "counts while it lives")] Present);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state().queued -= 1;
    }
}

impl Lines {
    pub(super) fn new(most_waiting: usize) -> Self {
        Self { lines: Arc::default(), most_waiting: most_waiting.max(1) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn line(&self, table: &Table) -> Arc<Line> {
        let key = (table.key, table.branch.clone());
        let mut known = self.known();
        if known.lines.len() > known.look_at.max(FEW) {
            known.lines.retain(|other, line| *other == key || line.is_needed());
            known.look_at = known.lines.len() * 2;
        }
        known.lines.entry(key).or_default().clone()
    }

    /// The branches of a table, beside the main one, at which somebody may be now.
    pub(super) fn branches_at_work(&self, table: Uuid) -> Vec<Branch> {
        let known = self.known();
        let lines = known.lines.keys().filter(|(key, branch)| *key == table && !branch.is_main());
        lines.map(|(_, branch)| branch.clone()).collect()
    }

    pub(super) async fn take(&self, table: &Table) -> OwnedMutexGuard<()> {
        self.line(table).turn.clone().lock_owned().await
    }

    /// A place among those that wait for their turn.
    ///
    /// # Errors
    /// `Throttling` when too many wait already.
    pub(super) fn queue(&self, table: &Table) -> Result<Place> {
        let line = self.line(table);
        {
            let mut state = line.state();
            if state.queued >= self.most_waiting {
                return Err(Error::Throttling(format!(
                    "{} changes of table '{}' are waiting already; try again later",
                    state.queued, table.id
                )));
            }
            state.queued += 1;
        }
        Ok(Place(line, Present::waiting()))
    }

    /// Keeps a version open that was the newest when its row said `row`, or that was put just now.
    /// Every version after `floor` goes together with an append.
    pub(super) fn keep(&self, table: &Table, snapshot: &Snapshot, row: &TableVersion, floor: u64) {
        let weight = snapshot.weight();
        let line = self.line(table);
        let mut known = self.known();
        known.let_go(snapshot.times_forgotten(), Instant::now());
        known.uses += 1;
        let (used, at) = (known.uses, Instant::now());
        let warm = Warm { snapshot: snapshot.clone(), weight, used, at, floor };
        let before = {
            let mut state = line.state();
            state.remember(row);
            // A slower reader must not bring an older version back.
            let fresh = state.warm.as_ref().filter(|warm| warm.snapshot.is_fresh());
            if fresh.is_some_and(|warm| warm.snapshot.version() > snapshot.version()) {
                return;
            }
            let same = fresh.filter(|warm| warm.snapshot.version() == snapshot.version());
            let warm = Warm { floor: same.map_or(floor, |same| same.floor.min(floor)), ..warm };
            state.warm.replace(warm)
        };
        known.warm_bytes += weight;
        known.warm_bytes -= before.map_or(0, |warm| warm.weight);
        while known.warm_bytes > WARM_BYTES {
            let oldest = known.lines.values().filter_map(|line| {
                let used = line.state().warm.as_ref()?.used;
                Some((used, line.clone()))
            });
            let Some((_, oldest)) = oldest.min_by_key(|(used, _)| *used) else { return };
            let dropped = oldest.state().warm.take();
            known.warm_bytes -= dropped.map_or(0, |warm| warm.weight);
        }
    }

    /// Tells the meters what is kept open.
    pub(super) fn measure(&self) {
        let known = self.known();
        let open = known.lines.values().filter(|line| line.state().warm.is_some()).count();
        meters::open_versions(open, known.warm_bytes);
    }

    /// Forgets the open version of a line.
    pub(super) fn forget(&self, table: &Table) {
        let line = self.line(table);
        let mut known = self.known();
        let mut state = line.state();
        // Versions may have been removed, with a branch that was made again: they count from 1 then.
        state.recorded = 0;
        let dropped = state.warm.take();
        known.warm_bytes -= dropped.map_or(0, |warm| warm.weight);
    }

    /// The open version, if it is the newest one, of which `newest` is the row.
    pub(super) fn open(&self, table: &Table, newest: &TableVersion) -> Option<Snapshot> {
        let line = self.line(table);
        let mut known = self.known();
        known.uses += 1;
        let mut state = line.state();
        let is_known = state.remembers(newest);
        let warm = state.warm.as_mut()?;
        let version = warm.snapshot.version();
        if !is_known || version != newest.manifest.version || !warm.snapshot.is_fresh() {
            return None;
        }
        (warm.used, warm.at) = (known.uses, Instant::now());
        Some(warm.snapshot.clone())
    }
}

impl Known {
    /// Lets go of the open versions that nobody can use since what Lance remembers was forgotten, each
    /// of which holds what was remembered then; and now and then of those that nobody asks for.
    fn let_go(&mut self, times_forgotten: u64, now: Instant) {
        let is_time = self.looked.is_none_or(|looked| now.duration_since(looked) > LOOK);
        if self.times_forgotten == times_forgotten && !is_time {
            return;
        }
        (self.times_forgotten, self.looked) = (times_forgotten, Some(now));
        let is_over = |warm: &mut Warm| {
            !warm.snapshot.is_fresh() || now.saturating_duration_since(warm.at) > IDLE
        };
        for line in self.lines.values() {
            let over = line.state().warm.take_if(is_over);
            self.warm_bytes -= over.map_or(0, |warm| warm.weight);
        }
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_needed(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || Arc::strong_count(&self.turn) > 1 || {
            let state = self.state();
            state.warm.is_some() || !state.waiting.is_empty()
        }
    }

    /// Lets an append wait. Answers whether nobody is there who will put it.
    pub(super) fn wait(&self, append: Waiting) -> bool {
        let mut state = self.state();
        state.waiting.push_back(append);
        !std::mem::replace(&mut state.is_served, true)
    }

    /// Up to `most` of those that wait; none means that whoever asked is not at it any more.
    pub(super) fn next(&self, most: usize) -> Vec<Waiting> {
        let mut state = self.state();
        let count = state.waiting.len().min(most);
        state.is_served = count > 0;
        state.waiting.drain(..count).collect()
    }

    /// Takes along more of those that wait.
    pub(super) fn more(&self, group: &mut Vec<Waiting>, most: usize) {
        let mut state = self.state();
        let count = state.waiting.len().min(most.saturating_sub(group.len()));
        group.extend(state.waiting.drain(..count));
    }

    /// The newest version that certainly has its row. To be asked before the rows are.
    pub(super) fn recorded(&self) -> u64 {
        self.state().recorded
    }

    /// How often files that nobody referred to were removed: what was seen there before has to be
    /// looked at again.
    pub(super) fn removals(&self) -> u64 {
        self.state().removals
    }

    /// Notes that files are about to be removed, by whoever has the turn.
    pub(super) fn note_removal(&self) {
        self.state().removals += 1;
    }

    /// Notes that a version has its row.
    pub(super) fn note_recorded(&self, version: u64) {
        let mut state = self.state();
        state.recorded = state.recorded.max(version);
    }

    /// The open version to build on and its floor. Whether it is the newest [`Self::is_newest`] says.
    pub(super) fn base(&self) -> Option<(Snapshot, u64)> {
        let state = self.state();
        let warm = state.warm.as_ref().filter(|warm| warm.snapshot.is_fresh())?;
        Some((warm.snapshot.clone(), warm.floor))
    }

    /// Whether a version is the newest, where `newest` is the newest row and when it was committed,
    /// read after `recorded` was. Versions that this process put may not have their rows yet.
    pub(super) fn is_newest(&self, version: u64, newest: (u64, i64), recorded: u64) -> bool {
        let is_known = self.state().remembered.contains(&newest);
        is_known && (recorded..=version).contains(&newest.0)
    }

    /// Every version after `floor` goes together with an append, as it turned out.
    pub(super) fn lower_floor(&self, version: u64, floor: u64) {
        let mut state = self.state();
        if let Some(warm) = state.warm.as_mut().filter(|warm| warm.snapshot.version() == version) {
            warm.floor = warm.floor.min(floor);
        }
    }
}

impl State {
    fn remember(&mut self, row: &TableVersion) {
        let known = (row.manifest.version, row.committed_at_us);
        self.remembered.retain(|(version, _)| *version != known.0);
        self.remembered.push_back(known);
        if self.remembered.len() > REMEMBERED {
            self.remembered.pop_front();
        }
    }

    fn remembers(&self, row: &TableVersion) -> bool {
        self.remembered.contains(&(row.manifest.version, row.committed_at_us))
    }
}
