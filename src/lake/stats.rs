//! What a version weighs.

use std::collections::HashSet;

use lance::dataset::statistics::DatasetStatisticsExt;
use lance::index::DatasetIndexExt;
use lance_table::system_index::is_system_index;

use super::Snapshot;
use crate::error::Result;

/// Fragments of fewer rows than this are small: the bound of LanceDB's own statistics.
const SMALL_FRAGMENT_ROWS: u64 = 100_000;

/// How many rows the fragments hold, deleted ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FragmentLengths {
    pub min: u64,
    pub max: u64,
    pub mean: u64,
    pub p25: u64,
    pub p50: u64,
    pub p75: u64,
    pub p99: u64,
}

/// What a version weighs.
#[derive(Debug, Clone, Copy)]
pub struct TableStats {
    /// What its columns take in the data files.
    pub total_bytes: u64,
    pub num_rows: u64,
    pub num_indices: u64,
    pub num_fragments: u64,
    pub num_small_fragments: u64,
    pub lengths: FragmentLengths,
}

impl Snapshot {
    /// Counts rows, bytes, indices and fragments. Looks at the end of every data file.
    pub async fn table_stats(&self) -> Result<TableStats> {
        let snapshot = self.clone();
        self.readers.run(async move { snapshot.count_all().await }).await
    }

    async fn count_all(&self) -> Result<TableStats> {
        let columns =
            self.dataset.calculate_data_stats().await.map_err(|error| self.failed(error))?;
        let mut lengths = Vec::with_capacity(self.dataset.count_fragments());
        for fragment in self.dataset.get_fragments() {
            let rows = fragment.physical_rows().await.map_err(|error| self.failed(error))?;
            lengths.push(rows as u64);
        }
        lengths.sort_unstable();
        Ok(TableStats {
            total_bytes: columns.fields.iter().map(|field| field.bytes_on_disk).sum(),
            num_rows: self.num_rows().await?,
            num_indices: self.count_indices().await?,
            num_fragments: lengths.len() as u64,
            num_small_fragments: lengths.iter().filter(|rows| **rows < SMALL_FRAGMENT_ROWS).count()
                as u64,
            lengths: FragmentLengths::of(&lengths),
        })
    }

    /// Indices by name: one may be in several pieces. Those that Lance makes for itself do not count.
    async fn count_indices(&self) -> Result<u64> {
        let pieces = self.dataset.load_indices().await.map_err(|error| self.failed(error))?;
        let names: HashSet<&str> = pieces
            .iter()
            .filter(|piece| !is_system_index(piece))
            .map(|piece| piece.name.as_str())
            .collect();
        Ok(names.len() as u64)
    }
}

impl FragmentLengths {
    fn of(sorted: &[u64]) -> Self {
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let at =
            |percent: usize| sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default();
        Self {
            min: *min,
            max: *max,
            mean: sorted.iter().sum::<u64>() / sorted.len() as u64,
            p25: at(25),
            p50: at(50),
            p75: at(75),
            p99: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_summed_up() {
        assert_eq!(FragmentLengths::of(&[]), FragmentLengths::default());
        let one = FragmentLengths::of(&[7]);
        assert_eq!((one.min, one.max, one.mean, one.p25, one.p99), (7, 7, 7, 7, 7));
        let four = FragmentLengths::of(&[1, 2, 3, 10]);
        assert_eq!((four.min, four.max, four.mean), (1, 10, 4));
        assert_eq!((four.p25, four.p50, four.p75, four.p99), (2, 3, 10, 10));
    }
}
