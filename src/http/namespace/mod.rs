//! The namespace dialect: the Lance Namespace REST specification, one file per noun.

pub mod data;
mod fulltext;
pub mod namespaces;
mod query;
pub mod rows;
pub mod tables;
pub mod versions;
