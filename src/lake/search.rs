//! Searching for the nearest vectors.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, Float64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type};
use lance::dataset::scanner::Scanner;
use lance_index::vector::ApproxMode;
use lance_linalg::distance::MetricType;

use super::selection::is_row_column;
use super::{Query, Snapshot};
use crate::error::{Error, Result};

/// How many query vectors one search may have: each is compared with every vector of the table.
const MAX_QUERIES: usize = 1_024;
/// What the answers to several query vectors may hold while they are ranked.
const MAX_RANKED_BYTES: u64 = 256 << 20;
/// What ranking holds for a row besides its vector.
const RANKED_ROW_BYTES: u64 = 128;

/// As many partitions as an index can have here; Lance adds to the number without a look.
const MAX_PROBES: usize = 65_536;

/// A nearest-neighbour search. How many it finds is the query's limit.
#[derive(Debug, Clone, Default)]
pub struct Vectors {
    /// One query vector, or several of the same length.
    pub queries: Vec<Vec<f64>>,
    /// The column to search; the only vector column when absent.
    pub column: Option<String>,
    /// `l2`, `cosine`, `dot` or `hamming`; what the index or the numbers suggest when absent.
    pub distance_type: Option<String>,
    /// The smallest distance that counts.
    pub lower_bound: Option<f32>,
    /// The first distance that does not count any more.
    pub upper_bound: Option<f32>,
    /// How many partitions of an index to search; the two below win over it.
    pub nprobes: Option<usize>,
    pub minimum_nprobes: Option<usize>,
    pub maximum_nprobes: Option<usize>,
    /// How many times more rows to fetch and to rank again by their own vectors.
    pub refine_factor: Option<u32>,
    /// How many candidates an HNSW index keeps while it searches.
    pub ef: Option<usize>,
    pub bypass_index: bool,
    /// Between 0, the fewest partitions that can do, and 1, all of them; takes the place of
    /// `nprobes`.
    pub search_effort: Option<f64>,
    pub accuracy: Accuracy,
}

/// What an index may trade for speed, where its kind leaves a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accuracy {
    Fast,
    #[default]
    Normal,
    Accurate,
}

/// The column that is searched.
struct Target {
    path: String,
    /// The type of a vector's numbers.
    numbers: DataType,
    dimension: i32,
    /// Whether a row has any number of vectors.
    is_multivector: bool,
}

impl Snapshot {
    /// Tells the scanner what to search. The answer is what remains of the query's limit and offset
    /// for the scanner to do.
    ///
    /// # Errors
    /// `InvalidInput` for a search that does not fit the column, `TableColumnNotFound`.
    pub(super) fn prepare_vectors(
        &self,
        scanner: &mut Scanner,
        search: &Vectors,
        query: &Query,
        rows: u64,
    ) -> Result<(Option<u64>, Option<u64>)> {
        check_settings(search, query)?;
        let target = self.target(search)?;
        let queries = query_array(&search.queries, &target)?;
        let several = target.has_several(search);
        let offset = query.offset.unwrap_or(0);
        // The offset skips among the nearest, so that many more have to be found. There are no more
        // than the table has rows, and room is made for each.
        let all = rows.max(1);
        let k = query.limit.unwrap_or(all).saturating_add(offset).min(all);
        if several {
            check_memory(search, &target, k)?;
        }
        scanner
            .nearest(&target.path, queries.as_ref(), to_usize(k))
            .map_err(|error| self.query_failed(query, error))?;
        configure(scanner, search, k, all)?;
        // Several queries answer k rows each, so that a limit of k would cut the others off.
        Ok(if several { (None, None) } else { (query.limit, query.offset) })
    }

    /// Whether each query vector has an answer of its own.
    ///
    /// # Errors
    /// As [`Self::prepare_vectors`].
    pub(super) fn answers_each(&self, search: &Vectors) -> Result<bool> {
        Ok(self.target(search)?.has_several(search))
    }

    /// The column to search: the one named, else the only one that holds vectors.
    fn target(&self, search: &Vectors) -> Result<Target> {
        let Some(path) = search.column.as_deref() else {
            return self.only_target(search.queries.first().map_or(0, Vec::len));
        };
        if is_row_column(path) {
            return Err(Error::invalid_input(format!("the column '{path}' holds no vectors")));
        }
        let field = self.dataset.schema().field(path).ok_or_else(|| self.no_column(path))?;
        target(path, &field.data_type()).ok_or_else(|| {
            Error::invalid_input(format!(
                "the column '{path}' holds no vectors: it is of the type {}",
                field.data_type()
            ))
        })
    }

    /// The only column with vectors; of several, the only one with vectors of that length.
    fn only_target(&self, dimension: usize) -> Result<Target> {
        let schema = self.arrow_schema();
        let quoted = |name: &str| match name.contains(['.', '`']) {
            true => format!("`{}`", name.replace('`', "``")),
            false => name.to_owned(),
        };
        let all = schema.fields().iter();
        let mut targets: Vec<Target> =
            all.filter_map(|field| target(&quoted(field.name()), field.data_type())).collect();
        // Lists of bytes are vectors only where there are no others.
        if targets.iter().any(|target| target.numbers.is_floating()) {
            targets.retain(|target| target.numbers.is_floating());
        }
        if targets.len() > 1 {
            let fits = |target: &Target| usize::try_from(target.dimension) == Ok(dimension);
            if targets.iter().filter(|target| fits(target)).count() == 1 {
                targets.retain(fits);
            }
        }
        match targets.len() {
            1 => Ok(targets.swap_remove(0)),
            0 => Err(Error::invalid_input("the table has no vector column to search")),
            _ => Err(Error::invalid_input(
                "the table has several vector columns: name one as vector_column",
            )),
        }
    }
}

impl Target {
    /// Several vectors are one query of a column whose rows have several.
    fn has_several(&self, search: &Vectors) -> bool {
        search.queries.len() > 1 && !self.is_multivector
    }
}

fn target(path: &str, data_type: &DataType) -> Option<Target> {
    let (list, is_multivector) = match data_type {
        DataType::List(item) => (item.data_type(), true),
        list => (list, false),
    };
    let DataType::FixedSizeList(item, dimension) = list else {
        return None;
    };
    let numbers = item.data_type();
    let known = numbers.is_floating() || matches!(numbers, DataType::UInt8 | DataType::Int8);
    known.then(|| Target {
        path: path.to_owned(),
        numbers: numbers.clone(),
        dimension: *dimension,
        is_multivector,
    })
}

/// # Errors
/// `InvalidInput` for a number that has no meaning, which Lance would find late or not at all.
fn check_settings(search: &Vectors, query: &Query) -> Result<()> {
    let at_least_one = [
        ("nprobes", search.nprobes),
        ("minimum_nprobes", search.minimum_nprobes),
        ("maximum_nprobes", search.maximum_nprobes),
        ("refine_factor", search.refine_factor.map(|factor| factor as usize)),
        ("ef", search.ef),
    ];
    if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == Some(0)) {
        return Err(Error::invalid_input(format!("{name} must be at least 1")));
    }
    // The bounds win over the plain number, which stands for the one that is not given.
    let plain = search.nprobes.filter(|_| search.search_effort.is_none());
    if let (Some(least), Some(most)) =
        (search.minimum_nprobes.or(plain), search.maximum_nprobes.or(plain))
        && least > most
    {
        return Err(Error::invalid_input(format!(
            "minimum_nprobes is {least}, which is more than maximum_nprobes, {most} (nprobes stands \
             for the one that is absent)"
        )));
    }
    for (name, bound) in [("lower_bound", search.lower_bound), ("upper_bound", search.upper_bound)]
    {
        if bound.is_some_and(|bound| !bound.is_finite()) {
            return Err(Error::invalid_input(format!("{name} is no finite number")));
        }
    }
    if search.search_effort.is_some_and(|effort| !(0.0..=1.0).contains(&effort)) {
        return Err(Error::invalid_input("search_effort must be between 0 and 1"));
    }
    if search.bypass_index && query.fast_search {
        return Err(Error::invalid_input(
            "fast_search reads nothing but an index, which bypass_vector_index leaves out",
        ));
    }
    Ok(())
}

fn configure(scanner: &mut Scanner, search: &Vectors, k: u64, rows: u64) -> Result<()> {
    if let Some(name) = &search.distance_type {
        scanner.distance_metric(metric(name)?);
    }
    if search.lower_bound.is_some() || search.upper_bound.is_some() {
        scanner.distance_range(search.lower_bound, search.upper_bound);
    }
    configure_probes(scanner, search)?;
    scanner.approx_mode(match search.accuracy {
        Accuracy::Fast => ApproxMode::Fast,
        Accuracy::Normal => ApproxMode::Normal,
        Accuracy::Accurate => ApproxMode::Accurate,
    });
    // No more rows can be fetched than there are, and Lance multiplies without a look.
    let factor = search.refine_factor.map(u64::from).map(|factor| factor.min(rows.div_ceil(k)));
    if let Some(factor) = factor {
        scanner.refine(u32::try_from(factor).unwrap_or(u32::MAX));
    }
    if let Some(ef) = search.ef {
        let ef = (ef as u64).min(rows);
        let fetched = k.saturating_mul(factor.unwrap_or(1)).min(rows);
        if ef < fetched {
            return Err(Error::invalid_input(format!(
                "ef is {ef}: it must not be less than the {fetched} rows that are fetched (k and \
                 offset, times refine_factor)"
            )));
        }
        scanner.ef(to_usize(ef.max(k.saturating_mul(factor.unwrap_or(1)))));
    }
    if search.bypass_index {
        scanner.use_index(false);
    }
    Ok(())
}

/// How many partitions are searched. Lance puts the bounds in the place of the plain number, each
/// for itself.
fn configure_probes(scanner: &mut Scanner, search: &Vectors) -> Result<()> {
    if let Some(effort) = search.search_effort {
        scanner
            .search_effort(effort)
            .map_err(|error| Error::internal("setting the effort of a search", error))?;
    } else if let Some(probes) = search.nprobes {
        scanner.nprobes(probes.min(MAX_PROBES));
    }
    if let Some(least) = search.minimum_nprobes {
        scanner.minimum_nprobes(least.min(MAX_PROBES));
    }
    if let Some(most) = search.maximum_nprobes {
        scanner.maximum_nprobes(most.min(MAX_PROBES));
    }
    Ok(())
}

fn metric(name: &str) -> Result<MetricType> {
    MetricType::try_from(name.to_lowercase().as_str()).map_err(|_| {
        let name: String = name.chars().take(40).collect();
        Error::invalid_input(format!(
            "unknown distance_type '{name}'; known are: l2, cosine, dot, hamming"
        ))
    })
}

/// Several queries are ranked in memory that nothing else watches over.
fn check_memory(search: &Vectors, target: &Target, k: u64) -> Result<()> {
    let number = target.numbers.primitive_width().unwrap_or(8) as u64;
    let vector = number.saturating_mul(u64::from(target.dimension.unsigned_abs()));
    let ranked = k.saturating_mul(search.queries.len() as u64);
    if ranked.saturating_mul(vector.saturating_add(RANKED_ROW_BYTES)) > MAX_RANKED_BYTES {
        return Err(Error::invalid_input(format!(
            "{} query vectors with {k} rows each are more than one search can hold: ask for fewer",
            search.queries.len()
        )));
    }
    Ok(())
}

/// One query is an array of numbers, several are a list of such arrays; the numbers are the
/// column's.
fn query_array(queries: &[Vec<f64>], target: &Target) -> Result<ArrayRef> {
    if queries.is_empty() || queries.iter().any(Vec::is_empty) {
        return Err(Error::invalid_input("the query vector is empty"));
    }
    if queries.len() > MAX_QUERIES {
        return Err(Error::invalid_input(format!(
            "the search has {} query vectors: no more than {MAX_QUERIES} are served",
            queries.len()
        )));
    }
    let dimension = target.dimension;
    if let Some(other) = queries.iter().find(|query| i32::try_from(query.len()) != Ok(dimension)) {
        return Err(Error::invalid_input(format!(
            "the query vector has {} numbers, and the vectors of the column '{}' have {dimension}",
            other.len(),
            target.path
        )));
    }
    let numbers = numbers(queries.concat(), target)?;
    if queries.len() == 1 {
        return Ok(numbers);
    }
    let item = Arc::new(Field::new("item", target.numbers.clone(), true));
    FixedSizeListArray::try_new(item, dimension, numbers, None)
        .map(|array| Arc::new(array) as ArrayRef)
        .map_err(|error| Error::internal("building a query", error))
}

fn numbers(values: Vec<f64>, target: &Target) -> Result<ArrayRef> {
    let kind = &target.numbers;
    let is_whole = !kind.is_floating();
    if values.iter().any(|number| !number.is_finite() || is_whole && number.fract() != 0.0) {
        return Err(does_not_fit(target));
    }
    // What does not fit becomes null, or infinite.
    let cast = |array: &dyn Array, to: &DataType| {
        cast_with_options(array, to, &CastOptions::default())
            .map_err(|error| Error::internal("building a query", error))
    };
    let numbers = cast(&Float64Array::from(values), kind)?;
    let back = cast(&numbers, &DataType::Float64)?;
    let fits = arrow::array::cast::as_primitive_array::<Float64Type>(&back)
        .iter()
        .all(|number| number.is_some_and(f64::is_finite));
    if fits { Ok(numbers) } else { Err(does_not_fit(target)) }
}

fn does_not_fit(target: &Target) -> Error {
    Error::invalid_input(format!(
        "the query vector holds a number that is none of the type {}, as the vectors of the \
         column '{}' hold",
        target.numbers, target.path
    ))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
