//! What is counted and measured, for Prometheus: every name, unit and label is here. Those of the
//! object stores (`lance_object_store_…`) are Lance's own.
//!
//! Labels have few values: the operation that was asked for, never a table.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};

/// The content type of what [`render`] answers.
pub const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const REQUESTS: &str = "tiltyard_http_requests_total";
const REQUEST_SECONDS: &str = "tiltyard_http_request_duration_seconds";
const REQUESTS_NOW: &str = "tiltyard_http_requests_in_flight";
const RECEIVED: &str = "tiltyard_http_received_bytes_total";
const SENT: &str = "tiltyard_http_sent_bytes_total";
const TURNED_AWAY: &str = "tiltyard_http_turned_away_total";
const VERSIONS: &str = "tiltyard_versions_total";
const GROUP_SIZE: &str = "tiltyard_commit_group_size";
const CONFLICTS: &str = "tiltyard_commit_conflicts_total";
const WENT_AGAIN: &str = "tiltyard_commit_retries_total";
const WAITING: &str = "tiltyard_changes_waiting";
const UPLOADING: &str = "tiltyard_upload_bytes_in_flight";
const CONNECTIONS: &str = "tiltyard_database_connections";
const CONNECTIONS_MOST: &str = "tiltyard_database_connections_max";
const OPEN_VERSIONS: &str = "tiltyard_open_versions";
const OPEN_BYTES: &str = "tiltyard_open_versions_bytes";
const CACHE_BYTES: &str = "tiltyard_lance_cache_bytes";
const JOBS_NOW: &str = "tiltyard_jobs_running";
const JOBS: &str = "tiltyard_jobs_total";
const REFUSALS_LOST: &str = "tiltyard_refusals_not_recorded_total";
const SWEPT: &str = "tiltyard_garbage_swept_total";

/// Upper bounds of times, in seconds.
const SECONDS: [f64; 17] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];
/// Upper bounds of how many commits share a version.
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Begins to count, once in a process; until then nothing is.
///
/// # Errors
/// `Internal` when somebody else counts already.
pub fn install() -> Result<()> {
    if RECORDER.get().is_some() {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| Error::internal("counting", error.to_string());
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full(GROUP_SIZE.into()), &SIZES)
        })
        .map_err(|error| failed(&error))?
        .build_recorder();
    // Several servers of one process, as tests have them, share what is counted.
    if RECORDER.set(recorder.handle()).is_ok() {
        metrics::set_global_recorder(recorder).map_err(|error| failed(&error))?;
        describe();
    }
    Ok(())
}

fn describe() {
    describe_counter!(REQUESTS, "Requests that were answered, by operation and status");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "From a request to the head of its answer");
    describe_gauge!(REQUESTS_NOW, "Requests that are not answered to the end yet");
    describe_counter!(RECEIVED, Unit::Bytes, "The bodies of requests, as far as they were read");
    describe_counter!(SENT, Unit::Bytes, "The bodies of answers");
    describe_counter!(TURNED_AWAY, "Requests that were refused because of load, by the limit");
    describe_counter!(VERSIONS, "Versions that were recorded, by who put them and operation");
    describe_counter!(REFUSALS_LOST, "Refusals that could not be written down");
    describe_histogram!(GROUP_SIZE, "How many commits share a version");
    describe_counter!(CONFLICTS, "Changes that were refused because of what others committed");
    describe_counter!(WENT_AGAIN, "Changes that were made anew because others were faster");
    describe_gauge!(WAITING, "Changes that wait for their turn");
    describe_gauge!(UPLOADING, Unit::Bytes, "Arrow messages that are held in memory");
    describe_gauge!(CONNECTIONS, "Connections to the database, by pool and state");
    describe_gauge!(CONNECTIONS_MOST, "How many connections a pool may have");
    describe_gauge!(OPEN_VERSIONS, "Newest versions that are kept open");
    describe_gauge!(OPEN_BYTES, Unit::Bytes, "The memory that they hold, about");
    describe_gauge!(CACHE_BYTES, Unit::Bytes, "Indexes and metadata that Lance remembers");
    describe_gauge!(JOBS_NOW, "Jobs that this process is at");
    describe_counter!(JOBS, "Jobs that came to their end here, by kind and outcome");
    describe_counter!(SWEPT, "Garbage that was removed, by kind");
}

/// All that was counted, in the text format of Prometheus.
pub fn render() -> String {
    RECORDER.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Keeps what was measured small when nobody asks for it.
pub async fn keep_up() {
    const INTERVAL: Duration = Duration::from_secs(10);
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Some(recorder) = RECORDER.get() {
            recorder.run_upkeep();
        }
    }
}

/// Something that is there until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Present(&'static str, f64);

impl Present {
    fn new(name: &'static str, amount: f64) -> Self {
        gauge!(name).increment(amount);
        Self(name, amount)
    }

    pub fn request() -> Self {
        Self::new(REQUESTS_NOW, 1.0)
    }

    pub fn waiting() -> Self {
        Self::new(WAITING, 1.0)
    }

    pub fn uploading(bytes: u64) -> Self {
        Self::new(UPLOADING, as_float(bytes))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        gauge!(self.0).decrement(self.1);
    }
}

/// The name of an operation.
pub type Label = SharedString;

/// Counts bytes in one direction.
pub type Bytes = Counter;

/// Of the body of a request.
pub fn received(operation: Label) -> Bytes {
    counter!(RECEIVED, "operation" => operation)
}

/// Of the body of an answer.
pub fn sent(operation: Label) -> Bytes {
    counter!(SENT, "operation" => operation)
}

pub fn answered(operation: Label, status: u16, elapsed: Duration) {
    counter!(REQUESTS, "operation" => operation.clone(), "status" => status.to_string())
        .increment(1);
    histogram!(REQUEST_SECONDS, "operation" => operation).record(elapsed.as_secs_f64());
}

pub fn turned_away(limit: &'static str) {
    counter!(TURNED_AWAY, "limit" => limit).increment(1);
}

/// A refusal that could not be written down, such as one of too many that waited.
pub fn refusal_lost() {
    counter!(REFUSALS_LOST).increment(1);
}

pub fn recorded(origin: &'static str, operation: Option<&str>) {
    let operation = operation.unwrap_or("unknown").to_owned();
    counter!(VERSIONS, "origin" => origin, "operation" => operation).increment(1);
}

pub fn shared(commits: usize) {
    histogram!(GROUP_SIZE).record(as_float(commits as u64));
}

pub fn conflicted() {
    counter!(CONFLICTS).increment(1);
}

pub fn went_again() {
    counter!(WENT_AGAIN).increment(1);
}

pub fn connections(pool: &'static str, used: usize, idle: usize, most: usize) {
    gauge!(CONNECTIONS, "pool" => pool, "state" => "used").set(as_float(used as u64));
    gauge!(CONNECTIONS, "pool" => pool, "state" => "idle").set(as_float(idle as u64));
    gauge!(CONNECTIONS_MOST, "pool" => pool).set(as_float(most as u64));
}

pub fn open_versions(number: usize, bytes: usize) {
    gauge!(OPEN_VERSIONS).set(as_float(number as u64));
    gauge!(OPEN_BYTES).set(as_float(bytes as u64));
}

pub fn lance_cache(bytes: u64) {
    gauge!(CACHE_BYTES).set(as_float(bytes));
}

pub fn jobs_running(number: usize) {
    gauge!(JOBS_NOW).set(as_float(number as u64));
}

pub fn job_ended(kind: &'static str, outcome: &'static str) {
    counter!(JOBS, "kind" => kind, "outcome" => outcome).increment(1);
}

pub fn swept(kind: &'static str, number: u64) {
    counter!(SWEPT, "kind" => kind).increment(number);
}

/// Exact up to 2^53, and nothing here is more.
#[expect(clippy::cast_precision_loss, reason = "what is lost is less than anyone can see")]
fn as_float(number: u64) -> f64 {
    number as f64
}
