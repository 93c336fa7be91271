//! The namespace dialect: the Lance Namespace REST specification, one file per noun. What is dropped and
//! what is protected are nouns of ours.

pub mod backfills;
pub mod batches;
pub mod branches;
pub mod changes;
pub mod columns;
pub mod data;
pub mod dropped;
mod fulltext;
pub mod indexes;
pub mod namespaces;
pub mod protection;
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
