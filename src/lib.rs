//! Tiltyard: a REST catalog and commit server for Lance tables.
//!
//! A **namespace** holds namespaces and **tables**; a table is a Lance dataset at a *location*; a
//! dataset has *versions*, each one manifest; a version lists *fragments*. An *upload* is data that
//! was written but not yet committed. `ARCHITECTURE.md` tells how the parts fit.
//!
//! Modules in layer order; a module may name only modules in lower layers:
//!
//! | layer | modules |
//! |---|---|
//! | 5 | [`cli`] |
//! | 4 | [`server`] |
//! | 3 | [`http`], [`jobs`] |
//! | 2 | [`commit`], [`auth`] |
//! | 1 | [`catalog`] (SQL), [`lake`] (Lance and object stores) |
//! | 0 | [`model`], [`error`], [`config`], [`telemetry`] |

// Futures over Lance's own futures are deep types; the default limit is too low for them.
#![recursion_limit = "512"]

pub mod auth;
pub mod catalog;
pub mod cli;
pub mod commit;
pub mod config;
pub mod error;
pub mod http;
pub mod jobs;
pub mod lake;
pub mod model;
pub mod server;
pub mod telemetry;
