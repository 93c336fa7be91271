//! What a vector index is built with: the caller's wishes checked, Lance's defaults for the rest.

use arrow::datatypes::DataType;
use lance::index::vector::{StageParams, VectorIndexParams, pq_quantizer_minimum_rows};
use lance_index::vector::bq::RQBuildParams;
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::ivf::builder::recommended_num_partitions;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_linalg::distance::DistanceType;
use serde::{Deserialize, Serialize};

use super::kind::IndexKind;
use crate::error::{Error, Result};

/// More partitions than this help no table that one server indexes, and each costs k-means time.
const MAX_PARTITIONS: i64 = 65_536;
const MAX_PARTITION_SIZE: i64 = 1 << 32;
const MAX_SAMPLE_RATE: i64 = 65_536;
const MAX_ITERATIONS: i64 = 1_000;
/// Lance's own floor: fewer edges make graphs that fall apart.
const MIN_EDGES: i64 = 4;
/// Each vector of a graph keeps so many neighbours, in memory while it is built.
const MAX_EDGES: i64 = 256;
const MAX_CONSTRUCTION: i64 = 4_096;
/// How many bytes of sampled vectors k-means may hold; with more Lance trains in steps.
const SAMPLE_BYTES: u64 = 512 << 20;

/// What a caller may say about a vector index; the names are the spec's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VectorOptions {
    pub distance_type: Option<String>,
    pub num_partitions: Option<i64>,
    pub num_sub_vectors: Option<i64>,
    pub num_bits: Option<i64>,
    pub sample_rate: Option<i64>,
    pub max_iterations: Option<i64>,
    pub target_partition_size: Option<i64>,
    pub m: Option<i64>,
    pub ef_construction: Option<i64>,
}

impl VectorOptions {
    /// The first option that was given although `kind` has no use for it.
    pub(super) fn out_of_place(&self, kind: IndexKind) -> Option<&'static str> {
        let vector = kind.is_vector();
        let has_bits = kind.has_pq()
            || matches!(kind, IndexKind::IvfSq | IndexKind::IvfRq)
            || kind == IndexKind::IvfHnswSq;
        let uses = [
            ("distance_type", self.distance_type.is_some(), vector),
            ("num_partitions", self.num_partitions.is_some(), vector),
            ("num_sub_vectors", self.num_sub_vectors.is_some(), kind.has_pq()),
            ("num_bits", self.num_bits.is_some(), has_bits),
            ("sample_rate", self.sample_rate.is_some(), vector),
            ("max_iterations", self.max_iterations.is_some(), vector),
            ("target_partition_size", self.target_partition_size.is_some(), vector),
            ("m", self.m.is_some(), kind.has_hnsw()),
            ("ef_construction", self.ef_construction.is_some(), kind.has_hnsw()),
        ];
        uses.iter().find(|(_, given, used)| *given && !used).map(|(name, ..)| *name)
    }
}

/// A column of vectors, or of lists of them.
#[derive(Debug, Clone)]
pub(super) struct VectorColumn {
    element: DataType,
    dimension: usize,
    /// Whether a row holds several vectors.
    is_multi: bool,
}

impl VectorColumn {
    /// # Errors
    /// `InvalidInput` for a column that does not hold vectors.
    pub(super) fn of(path: &str, data_type: &DataType) -> Result<Self> {
        let (vector, is_multi) = match data_type {
            DataType::List(item) => (item.data_type(), true),
            other => (other, false),
        };
        let found = match vector {
            DataType::FixedSizeList(item, dimension) => {
                usize::try_from(*dimension).ok().map(|dimension| (item.data_type(), dimension))
            }
            _ => None,
        };
        let Some((element, dimension)) = found else {
            return Err(Error::invalid_input(format!(
                "a vector index needs a column of vectors (fixed_size_list of floats or uint8), \
                 and '{path}' is {data_type}"
            )));
        };
        let is_number = matches!(
            element,
            DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::UInt8
        );
        if !is_number || dimension == 0 {
            return Err(Error::invalid_input(format!(
                "the vectors of a vector index are of float16, float32, float64 or uint8 and have \
                 at least one dimension, and '{path}' is {data_type}"
            )));
        }
        Ok(Self { element: element.clone(), dimension, is_multi })
    }

    pub(super) fn is_multi(&self) -> bool {
        self.is_multi
    }

    fn is_binary(&self) -> bool {
        self.element == DataType::UInt8
    }

    fn vector_bytes(&self) -> u64 {
        let width = self.element.primitive_width().unwrap_or(size_of::<f64>());
        (self.dimension as u64).saturating_mul(width as u64)
    }
}

/// How many vectors the column must hold for the index to be trained.
pub(super) fn minimum_vectors(params: &VectorIndexParams) -> usize {
    let codes = params.stages.iter().find_map(|stage| match stage {
        StageParams::PQ(pq) => pq_quantizer_minimum_rows(pq.num_bits),
        _ => None,
    });
    codes.unwrap_or(1)
}

/// Lance's parameters. `num_rows` are those of the table, for the number of partitions.
///
/// # Errors
/// `InvalidInput` that names the option and what it may be.
pub(super) fn params(
    kind: IndexKind,
    options: &VectorOptions,
    column: &VectorColumn,
    num_rows: u64,
) -> Result<VectorIndexParams> {
    let distance = distance(kind, options.distance_type.as_deref(), column)?;
    let ivf = ivf(kind, options, column, num_rows)?;
    Ok(match kind {
        IndexKind::IvfPq => {
            VectorIndexParams::with_ivf_pq_params(distance, ivf, pq(options, column)?)
        }
        IndexKind::IvfSq => VectorIndexParams::with_ivf_sq_params(distance, ivf, sq(options)?),
        IndexKind::IvfRq => {
            VectorIndexParams::with_ivf_rq_params(distance, ivf, rq(options, column)?)
        }
        IndexKind::IvfHnswFlat => VectorIndexParams::ivf_hnsw(distance, ivf, hnsw(options)?),
        IndexKind::IvfHnswPq => VectorIndexParams::with_ivf_hnsw_pq_params(
            distance,
            ivf,
            hnsw(options)?,
            pq(options, column)?,
        ),
        IndexKind::IvfHnswSq => {
            VectorIndexParams::with_ivf_hnsw_sq_params(distance, ivf, hnsw(options)?, sq(options)?)
        }
        _ => VectorIndexParams::with_ivf_flat_params(distance, ivf),
    })
}

/// `l2` unless the vectors allow only another one.
fn distance(kind: IndexKind, given: Option<&str>, column: &VectorColumn) -> Result<DistanceType> {
    let distance = match given.map(str::to_lowercase).as_deref() {
        None if column.is_binary() => DistanceType::Hamming,
        None if column.is_multi => DistanceType::Cosine,
        None | Some("l2" | "euclidean") => DistanceType::L2,
        Some("cosine") => DistanceType::Cosine,
        Some("dot") => DistanceType::Dot,
        Some("hamming") => DistanceType::Hamming,
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            return Err(Error::invalid_input(format!(
                "unknown distance_type '{shown}'; known are: l2, cosine, dot, hamming"
            )));
        }
    };
    let is_flat = matches!(kind, IndexKind::IvfFlat | IndexKind::IvfHnswFlat);
    if column.is_binary() && !is_flat {
        return Err(Error::invalid_input(format!(
            "vectors of uint8 are bits and cannot be quantized by {}: use IVF_FLAT or \
             IVF_HNSW_FLAT",
            kind.as_str()
        )));
    }
    if column.is_binary() != (distance == DistanceType::Hamming) {
        return Err(Error::invalid_input(format!(
            "distance_type {distance} does not fit vectors of {}: hamming is for uint8, and uint8 \
             has only hamming",
            column.element
        )));
    }
    if column.is_multi && distance != DistanceType::Cosine {
        return Err(Error::invalid_input(
            "a column that holds several vectors in a row is indexed with distance_type cosine",
        ));
    }
    Ok(distance)
}

fn ivf(
    kind: IndexKind,
    options: &VectorOptions,
    column: &VectorColumn,
    num_rows: u64,
) -> Result<IvfBuildParams> {
    if options.num_partitions.is_some() && options.target_partition_size.is_some() {
        return Err(Error::invalid_input("give num_partitions or target_partition_size, not both"));
    }
    let partitions = within("num_partitions", options.num_partitions, 1, MAX_PARTITIONS)?;
    let size =
        within("target_partition_size", options.target_partition_size, 1, MAX_PARTITION_SIZE)?;
    let mut ivf = IvfBuildParams {
        num_partitions: partitions,
        target_partition_size: size,
        ..IvfBuildParams::default()
    };
    if let Some(rate) = within("sample_rate", options.sample_rate, 1, MAX_SAMPLE_RATE)? {
        ivf.sample_rate = rate;
    }
    if let Some(times) = within("max_iterations", options.max_iterations, 1, MAX_ITERATIONS)? {
        ivf.max_iters = times;
    }
    let size = size.unwrap_or_else(|| kind.lance_type().target_partition_size());
    let rows = usize::try_from(num_rows).unwrap_or(usize::MAX);
    let partitions = partitions.unwrap_or_else(|| recommended_num_partitions(rows, size)) as u64;
    let sampled = partitions.saturating_mul(ivf.sample_rate as u64).min(num_rows);
    if !column.is_binary() && sampled.saturating_mul(column.vector_bytes()) > SAMPLE_BYTES {
        let step = SAMPLE_BYTES / partitions.saturating_mul(column.vector_bytes()).max(1);
        ivf.streaming_sample_rate = usize::try_from(step.max(1)).ok();
    }
    Ok(ivf)
}

fn pq(options: &VectorOptions, column: &VectorColumn) -> Result<PQBuildParams> {
    let bits = one_of_bits(IndexKind::IvfPq, options.num_bits, &[4, 8])?.unwrap_or(8);
    let dimension = column.dimension;
    let most = i64::try_from(dimension).unwrap_or(i64::MAX);
    let given = within("num_sub_vectors", options.num_sub_vectors, 1, most)?;
    let parts = given.unwrap_or_else(|| suggested_sub_vectors(dimension, bits));
    if !dimension.is_multiple_of(parts) {
        return Err(Error::invalid_input(format!(
            "num_sub_vectors must divide the dimension: {parts} does not divide {dimension}"
        )));
    }
    if bits == 4 && !parts.is_multiple_of(2) {
        return Err(Error::invalid_input(format!(
            "num_sub_vectors must be even with num_bits 4, and {parts} is not"
        )));
    }
    let mut pq = PQBuildParams::new(parts, bits);
    if let Some(times) = within("max_iterations", options.max_iterations, 1, MAX_ITERATIONS)? {
        pq.max_iters = times;
    }
    Ok(pq)
}

/// As LanceDB chooses: 16 dimensions to a code, or 8, or all.
fn suggested_sub_vectors(dimension: usize, bits: usize) -> usize {
    let step = [16, 8].into_iter().find(|step| dimension.is_multiple_of(*step));
    let parts = step.map_or(1, |step| dimension / step);
    let halves = parts.saturating_mul(2);
    // Two codes of four bits fill a byte.
    if bits == 4 && !parts.is_multiple_of(2) && dimension.is_multiple_of(halves) {
        halves
    } else {
        parts
    }
}

fn sq(options: &VectorOptions) -> Result<SQBuildParams> {
    one_of_bits(IndexKind::IvfSq, options.num_bits, &[8])?;
    Ok(SQBuildParams::default())
}

fn rq(options: &VectorOptions, column: &VectorColumn) -> Result<RQBuildParams> {
    if !column.dimension.is_multiple_of(8) {
        return Err(Error::invalid_input(format!(
            "IVF_RQ needs vectors whose dimension is a multiple of 8, and it is {}",
            column.dimension
        )));
    }
    let bits = one_of_bits(IndexKind::IvfRq, options.num_bits, &[1, 2, 3, 4, 5, 6, 7, 8, 9])?;
    let mut rq = RQBuildParams::default();
    if let Some(bits) = bits.and_then(|bits| u8::try_from(bits).ok()) {
        rq.num_bits = bits;
    }
    Ok(rq)
}

fn hnsw(options: &VectorOptions) -> Result<HnswBuildParams> {
    let mut hnsw = HnswBuildParams::default();
    if let Some(edges) = within("m", options.m, MIN_EDGES, MAX_EDGES)? {
        hnsw.m = edges;
    }
    if let Some(ef) = within("ef_construction", options.ef_construction, 1, MAX_CONSTRUCTION)? {
        hnsw.ef_construction = ef;
    }
    if hnsw.ef_construction < hnsw.m {
        return Err(Error::invalid_input(format!(
            "ef_construction must be at least m: it is {}, and m is {}",
            hnsw.ef_construction, hnsw.m
        )));
    }
    Ok(hnsw)
}

fn within(name: &str, given: Option<i64>, least: i64, most: i64) -> Result<Option<usize>> {
    match given {
        None => Ok(None),
        Some(number) if (least..=most).contains(&number) => Ok(usize::try_from(number).ok()),
        Some(number) => Err(Error::invalid_input(format!(
            "{name} must be from {least} to {most}, and is {number}"
        ))),
    }
}

fn one_of_bits(kind: IndexKind, given: Option<i64>, allowed: &[i64]) -> Result<Option<usize>> {
    match given {
        None => Ok(None),
        Some(bits) if allowed.contains(&bits) => Ok(usize::try_from(bits).ok()),
        Some(bits) => Err(Error::invalid_input(format!(
            "num_bits of {} may be {}, and is {bits}",
            kind.as_str().replace("HNSW_", ""),
            allowed.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::*;

    fn column(element: DataType, dimension: i32) -> VectorColumn {
        let item = Arc::new(Field::new("item", element, true));
        VectorColumn::of("v", &DataType::FixedSizeList(item, dimension)).unwrap()
    }

    #[test]
    fn sub_vectors_follow_the_dimension() {
        assert_eq!(suggested_sub_vectors(128, 8), 8);
        assert_eq!(suggested_sub_vectors(24, 8), 3);
        assert_eq!(suggested_sub_vectors(24, 4), 6);
        assert_eq!(suggested_sub_vectors(5, 8), 1);
        let options = VectorOptions { num_sub_vectors: Some(3), ..Default::default() };
        assert!(pq(&options, &column(DataType::Float32, 8)).is_err());
    }

    #[test]
    fn k_means_of_a_large_sample_goes_in_steps() {
        let options = VectorOptions { num_partitions: Some(4096), ..Default::default() };
        let wide = column(DataType::Float32, 1536);
        let small = ivf(IndexKind::IvfPq, &options, &wide, 10_000).unwrap();
        assert_eq!(small.streaming_sample_rate, None);
        let large = ivf(IndexKind::IvfPq, &options, &wide, 100_000_000).unwrap();
        let step = large.streaming_sample_rate.unwrap() as u64;
        assert!(step >= 1 && step * 4096 * wide.vector_bytes() <= SAMPLE_BYTES);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let v = column(DataType::Float32, 16);
        let cases = [
            VectorOptions { num_partitions: Some(0), ..Default::default() },
            VectorOptions { num_partitions: Some(-1), ..Default::default() },
            VectorOptions { num_partitions: Some(i64::MAX), ..Default::default() },
            VectorOptions { num_bits: Some(3), ..Default::default() },
            VectorOptions { num_sub_vectors: Some(0), ..Default::default() },
            VectorOptions { num_sub_vectors: Some(i64::MAX), ..Default::default() },
            VectorOptions { sample_rate: Some(0), ..Default::default() },
            VectorOptions { max_iterations: Some(i64::MAX), ..Default::default() },
            VectorOptions { target_partition_size: Some(0), ..Default::default() },
            VectorOptions { distance_type: Some("hamming".into()), ..Default::default() },
            VectorOptions { distance_type: Some("manhattan".into()), ..Default::default() },
        ];
        for options in cases {
            let outcome = params(IndexKind::IvfPq, &options, &v, 1_000);
            assert!(matches!(outcome, Err(Error::InvalidInput(_))), "{options:?}");
        }
    }
}
