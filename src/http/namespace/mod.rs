//! The namespace dialect: the Lance Namespace REST specification, one file per noun.

pub mod backfills;
pub mod batches;
pub mod branches;
pub mod changes;
pub mod columns;
pub mod data;
mod fulltext;
pub mod indexes;
pub mod namespaces;
pub mod query;
pub mod rows;
mod sources;
pub mod stats;
mod storage_options;
pub mod tables;
pub mod tags;
pub mod transactions;
pub mod versions;
pub mod views;
