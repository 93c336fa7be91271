//! The namespace dialect: the Lance Namespace REST specification, one file per noun.

pub mod changes;
pub mod data;
pub mod indexes;
pub mod namespaces;
pub mod rows;
pub mod tables;
pub mod versions;
