//! What indexes a version has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lance::index::DatasetIndexExt;
use lance_index::{IndexCriteria, IndexDescription, is_system_index};
use lance_table::format::{Fragment, IndexMetadata};

use super::kind::friendly;
use crate::error::{Error, Result};
use crate::lake::Snapshot;

/// One index: all segments of the same name.
#[derive(Debug, Clone)]
pub struct Index {
    pub name: String,
    /// The UUID of its first segment.
    pub uuid: String,
    /// Paths of fields.
    pub columns: Vec<String>,
    /// A word of `IndexKind`, or `Unknown`.
    pub kind: String,
    /// The protobuf type of its details; `None` for an index of an old Lance.
    pub type_url: Option<String>,
    /// Live rows that it covers; `None` when its manifest does not tell.
    pub num_indexed_rows: Option<u64>,
    /// Live rows that it does not cover.
    pub num_unindexed_rows: Option<u64>,
    pub size_bytes: Option<u64>,
    pub num_segments: usize,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// The version of its format.
    pub format_version: i32,
    /// JSON text of the kind's own.
    pub details: Option<String>,
    /// For a vector index, in lower case.
    pub distance_type: Option<String>,
}

impl Snapshot {
    /// The indexes of this version by name, without those that Lance keeps for itself.
    pub async fn indexes(&self) -> Result<Vec<Index>> {
        let segments = self.dataset.load_indices().await.map_err(|error| self.failed(error))?;
        let names: BTreeSet<&str> = segments
            .iter()
            .filter(|segment| !is_system_index(segment))
            .map(|segment| segment.name.as_str())
            .collect();
        let described = self.described(&names).await;
        let rows = LiveRows::of(self.dataset.fragments());
        let index = |name: &str| {
            let segments: Vec<&IndexMetadata> =
                segments.iter().filter(|segment| segment.name == name).collect();
            self.index(name, &segments, described.get(name).map(AsRef::as_ref), &rows)
        };
        names.into_iter().map(index).collect()
    }

    /// The index of that name, if this version has it.
    pub async fn index_named(&self, name: &str) -> Result<Option<Index>> {
        Ok(self.indexes().await?.into_iter().find(|index| index.name == name))
    }

    /// Lance's own descriptions by name. It describes all or none: where it gives up, as for an index
    /// of an old Lance, each is asked for alone, and those without are listed by their manifest.
    async fn described(
        &self,
        names: &BTreeSet<&str>,
    ) -> BTreeMap<String, Arc<dyn IndexDescription>> {
        let by_name = |found: Vec<Arc<dyn IndexDescription>>| {
            found.into_iter().map(|index| (index.name().to_owned(), index))
        };
        if let Ok(all) = self.dataset.describe_indices(None).await {
            return by_name(all).collect();
        }
        let mut described = BTreeMap::new();
        for name in names {
            let criteria = IndexCriteria::default().with_name(name);
            match self.dataset.describe_indices(Some(criteria)).await {
                Ok(found) => described.extend(by_name(found)),
                Err(error) => tracing::warn!(%error, "an index cannot be described"),
            }
        }
        described
    }

    fn index(
        &self,
        name: &str,
        segments: &[&IndexMetadata],
        described: Option<&dyn IndexDescription>,
        rows: &LiveRows,
    ) -> Result<Index> {
        let first = segments
            .first()
            .ok_or_else(|| Error::internal("reading an index", "an index without segments"))?;
        let schema = self.dataset.schema();
        let keyed = first.keyed_fields().iter();
        // A field that is gone has no path; the index then covers nothing that can be named.
        let columns = keyed.filter_map(|id| schema.field_path_minimal(*id).ok()).collect();
        let details = described.and_then(|index| index.details().ok());
        let num_indexed_rows = rows.covered(segments);
        Ok(Index {
            name: name.to_owned(),
            uuid: first.uuid.to_string(),
            columns,
            kind: described.map_or_else(|| "Unknown".into(), |index| friendly(index.index_type())),
            type_url: first.index_details.as_ref().map(|details| details.type_url.clone()),
            num_indexed_rows,
            num_unindexed_rows: num_indexed_rows
                .and_then(|covered| Some(rows.all()?.saturating_sub(covered))),
            size_bytes: described.and_then(IndexDescription::total_size_bytes),
            num_segments: segments.len(),
            created_at: segments
                .iter()
                .filter_map(|segment| segment.created_at)
                .min()
                .map(|time| time.to_rfc3339()),
            format_version: first.index_version,
            distance_type: details.as_deref().and_then(distance_of),
            details,
        })
    }
}

/// How many rows live in each fragment, as far as the manifest tells.
struct LiveRows(Vec<(u64, Option<u64>)>);

impl LiveRows {
    fn of(fragments: &[Fragment]) -> Self {
        let rows = |fragment: &Fragment| fragment.num_rows().map(|rows| rows as u64);
        Self(fragments.iter().map(|fragment| (fragment.id, rows(fragment))).collect())
    }

    fn all(&self) -> Option<u64> {
        self.0.iter().map(|(_, rows)| *rows).sum()
    }

    /// Of the fragments that any of the segments covers.
    fn covered(&self, segments: &[&IndexMetadata]) -> Option<u64> {
        let bitmaps: Option<Vec<_>> =
            segments.iter().map(|segment| segment.fragment_bitmap.as_ref()).collect();
        let bitmaps = bitmaps?;
        let is_covered = |id: u64| {
            u32::try_from(id).is_ok_and(|id| bitmaps.iter().any(|bitmap| bitmap.contains(id)))
        };
        self.0.iter().filter(|(id, _)| is_covered(*id)).map(|(_, rows)| *rows).sum()
    }
}

/// Lance's details of a vector index are JSON with the metric in it.
fn distance_of(details: &str) -> Option<String> {
    let details: serde_json::Value = serde_json::from_str(details).ok()?;
    let metric = details.get("metric_type")?.as_str()?.to_lowercase();
    (metric != "unknown").then_some(metric)
}
