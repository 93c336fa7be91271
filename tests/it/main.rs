//! Black-box tests: real servers, spoken to over HTTP, on SQLite and on PostgreSQL.
//!
//! One file per capability. PostgreSQL is named by `TILTYARD_TEST_POSTGRES` and the Python of the
//! client scripts by `TILTYARD_TEST_PYTHON`; without them those tests fail in CI and are skipped,
//! with a printed line, elsewhere. With `TILTYARD_TEST_REPLICAS` every server within the process is
//! two of them behind an nginx, which `TILTYARD_TEST_NGINX` names. `TILTYARD_TEST_LONG` lets those
//! that go through all steps of something leave none out, as `make history` does.

// Futures over Lance's own futures are deep types.
#![recursion_limit = "512"]

#[macro_use]
mod support;

mod access;
mod access_detours;
mod adoption;
mod alter;
mod arrow_bodies;
mod backfill;
mod batch_crashes;
mod batches;
mod branches;
mod catalog_arbiter;
mod change_races;
mod changes;
mod clients;
mod clones;
mod columns;
mod command_line;
mod commit_races;
mod commit_tables;
mod commit_tables_crashes;
mod commit_tables_races;
mod commits;
mod databases;
mod deleted_versions;
mod deploy;
mod distributed;
mod distrust;
mod doctor;
#[macro_use]
mod dropped;
mod dropped_races;
mod errors;
mod events;
mod exactly_once;
mod exactly_once_crashes;
mod fulltext;
mod fuzz_commits;
mod garbage;
mod gc;
mod group_commits;
mod health;
mod history;
mod hostile_arrow;
mod hostile_changes;
mod hostile_filters;
mod hostile_lancedb;
mod ids;
mod indexes;
mod jobs;
mod lancedb;
mod lancedb_blobs;
mod lancedb_query;
mod leaks;
mod limits;
mod load;
mod locations;
mod managed;
mod merges;
mod metrics;
mod migrations;
mod model;
mod moving;
mod multipart;
mod multipart_crashes;
mod multipart_ends;
mod multipart_records;
mod namespaces;
mod openapi;
mod pagination;
mod plans;
mod profiles;
mod protection;
mod query;
mod query_limits;
mod rate_limits;
mod replicas;
mod restarts;
mod retries;
mod rows;
mod search;
mod stats;
mod storage_faults;
mod tables;
mod tags;
mod taken_back;
mod tidy;
mod tls;
mod tokens;
mod transactions;
mod vending;
mod vending_tokens;
mod versions;
mod views;
