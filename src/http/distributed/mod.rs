//! Ours: the two phases of Lance's distributed write, for workers that have no Lance library and
//! no storage credentials.

pub mod commits;
pub mod fragments;
pub mod many;
pub mod uploads;
