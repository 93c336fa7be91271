//! Whose a place is. What a table refers to is read for whoever may read the table, so that it must not be
//! a file of another that they may not read.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Lake, Location};
use crate::error::Result;

/// Knows where tables stand.
#[async_trait]
pub trait Neighbours: std::fmt::Debug + Send + Sync {
    /// Whether a place is, holds, or is in the folder of another table than the one at the location and
    /// those that it is a clone of.
    async fn are_at(&self, place: &str, location: &Location) -> Result<bool>;
}

impl Lake {
    /// The same, whose tables refer to no files of others.
    pub fn among(self, neighbours: Arc<dyn Neighbours>) -> Self {
        Self { neighbours: Some(neighbours), ..self }
    }

    /// Whether a table may refer to a place.
    pub(super) async fn may_refer(&self, location: &Location, place: &str) -> Result<bool> {
        if location.holds(place) {
            return Ok(true);
        }
        if !self.locations.may_hold(place) {
            return Ok(false);
        }
        match &self.neighbours {
            Some(neighbours) => Ok(!neighbours.are_at(place, location).await?),
            None => Ok(true),
        }
    }
}
