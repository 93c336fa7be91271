//! Putting a new version: the moment at which written files become rows that everyone sees.
//!
//! Lance's own commit handler puts the manifest if absent, so that storage arbitrates between all
//! writers, ours and others'. A strict commit is stopped just before the put when the version that
//! it would get is not the one after the version that it read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema as ArrowSchema;
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::dataset::{CommitBuilder, WriteDestination};
use lance::datatypes::Schema;
use lance_table::format::{Fragment, Manifest};
use lance_table::io::commit::ManifestLocation;
use uuid::Uuid;

use super::add_columns::check_stored_names;
use super::below::moved_on;
use super::guard::{Fence, Guard, Ledger};
use super::snapshot::fragment_from_json;
use super::write::data_files;
use super::{Lake, Location, Snapshot, failure, probe, schema, verify};
use crate::error::{Conflict, Error, Result};
use crate::model::{ManifestEntry, Staged};

/// How long putting a version may take, retries included, before its outcome counts as unknown.
pub(super) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(120);
/// How many versions pass between two version hints, which Lance would write with each. Whoever reads
/// a hint looks for later versions from there on.
const HINTED: u64 = 8;

/// What a commit does. `staged` are uploads of ours, which were checked when they were written;
/// `fragments` is Lance's JSON from a caller, which is checked here.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub staged: Vec<Staged>,
    pub fragments: Vec<serde_json::Value>,
    /// The JSON Arrow schema that the caller expects.
    pub schema: Option<serde_json::Value>,
}

impl Input {
    /// The names of all data files.
    pub fn data_files(&self) -> Vec<String> {
        let staged = self.staged.iter().flat_map(|staged| data_files(&staged.fragments));
        staged.chain(data_files(&self.fragments)).collect()
    }
}

/// The three operations of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// More rows.
    Append,
    /// Rows and schema in the place of all that was there; the first version of a table too.
    Overwrite,
    /// New columns for the rows that are there.
    Merge,
}

impl Change {
    /// Lance's name of the operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "Append",
            Self::Overwrite => "Overwrite",
            Self::Merge => "Merge",
        }
    }
}

/// What a commit must respect.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The version that the change was made against; 0 for a table without one.
    pub read_version: u64,
    pub transaction_id: Uuid,
    /// Refuse unless the new version is the one right after `read_version`.
    pub strict: bool,
    /// The newest version that was looked at. The new one must be right after it, even where Lance
    /// would go on top of what came since: that may be a version of a batch, which is taken back yet.
    pub newest: Option<u64>,
    /// Kept in the manifest's transaction.
    pub properties: BTreeMap<String, String>,
    /// Asked just before the put.
    pub fence: Option<Arc<dyn Fence>>,
}

/// A version that stands.
#[derive(Clone)]
pub struct Published {
    pub manifest: ManifestEntry,
    /// How many rows live in it.
    pub num_rows: u64,
    /// The version, opened; `None` for the first one of a table.
    pub snapshot: Option<Snapshot>,
}

/// A change that was checked and only has to be put.
pub struct Prepared {
    pub(super) change: Change,
    pub(super) operation: Operation,
    pub(super) stable_row_ids: bool,
    /// The data files that an append adds.
    pub(super) new_files: HashSet<String>,
}

impl Prepared {
    fn of(change: Change, operation: Operation, stable_row_ids: bool) -> Self {
        let new_files = match &operation {
            Operation::Append { fragments } => {
                let files = fragments.iter().flat_map(|fragment| &fragment.files);
                files.map(|file| file.path.clone()).collect()
            }
            _ => HashSet::new(),
        };
        Self { change, operation, stable_row_ids, new_files }
    }
}

impl Lake {
    /// Checks a change against the version that it was made against; `base` is `None` for a table
    /// without one. Nothing is written.
    ///
    /// # Errors
    /// `InvalidInput` and `TableSchemaValidation` that say what does not fit.
    pub async fn prepare(
        &self,
        location: &Location,
        base: Option<&Snapshot>,
        change: Change,
        input: &Input,
    ) -> Result<Prepared> {
        if let (Change::Append, Some(base)) = (change, base) {
            return Ok(Prepared::of(change, self.append(location, base, input).await?, false));
        }
        let bare: Vec<Fragment> =
            input.fragments.iter().map(fragment_from_json).collect::<Result<_>>()?;
        let operation = match (change, base) {
            (Change::Merge, None) => {
                return Err(Error::invalid_input(
                    "a table without a version has nothing to merge into",
                ));
            }
            (Change::Merge, Some(base)) => self.merge(location, base, input, bare).await?,
            // The first rows of a table make its schema, whatever the caller calls it.
            (Change::Append | Change::Overwrite, _) => {
                self.overwrite(location, input, bare).await?
            }
        };
        let change = if base.is_none() { Change::Overwrite } else { change };
        let stable_row_ids = input.staged.iter().any(|staged| staged.stable_row_ids);
        Ok(Prepared::of(change, operation, stable_row_ids))
    }

    async fn append(
        &self,
        location: &Location,
        base: &Snapshot,
        input: &Input,
    ) -> Result<Operation> {
        let named = self.look_at(location, &input.fragments).await?;
        let addition = named.with(&input.staged)?;
        base.check_additions(&[&addition]).into_iter().collect::<Result<()>>()?;
        Ok(Operation::Append { fragments: addition.fragments })
    }

    async fn overwrite(
        &self,
        location: &Location,
        input: &Input,
        bare: Vec<Fragment>,
    ) -> Result<Operation> {
        refuse_deletions(&bare)?;
        let fields = self.verify(location, &bare, &HashSet::new()).await?;
        let mut schemas = decode_all(&input.staged)?;
        if !fields.is_empty() {
            schemas.push(Schema { fields, metadata: HashMap::new() });
        }
        let Some(first) = schemas.first().cloned() else {
            return Err(Error::invalid_input(
                "there is nothing to make a table of: name fragments or uploads",
            ));
        };
        let disagreeing = schemas.iter().find(|schema| !same_columns(schema, &first));
        if let Some(other) = disagreeing {
            return Err(Error::TableSchemaValidation(format!(
                "the fragments have different schemas: ({}) and ({})",
                shown(&first),
                shown(other)
            )));
        }
        let arrow = ArrowSchema::from(&first);
        check_stored_names(arrow.fields())?;
        if let Some(given) = &input.schema {
            schema::check_wire_schema(given, &arrow)?;
        }
        Ok(Operation::Overwrite {
            fragments: all_fragments(bare, &input.staged)?,
            schema: first,
            config_upsert_values: None,
            initial_bases: None,
        })
    }

    async fn merge(
        &self,
        location: &Location,
        base: &Snapshot,
        input: &Input,
        bare: Vec<Fragment>,
    ) -> Result<Operation> {
        let table = base.dataset.schema();
        let existing = base.dataset.fragments();
        let known: HashSet<String> = existing
            .iter()
            .flat_map(|fragment| fragment.files.iter().map(|file| file.path.clone()))
            .collect();
        let only_uploads = bare.is_empty();
        let fields = self.verify(location, &bare, &known).await?;
        let mut named = HashSet::new();
        if let Some(twice) = bare.iter().find(|fragment| !named.insert(fragment.id)) {
            return Err(Error::invalid_input(format!("fragment {} is named twice", twice.id)));
        }
        let mut changed: HashMap<u64, Fragment> = HashMap::new();
        for fragment in bare.into_iter().chain(staged_fragments(&input.staged)?) {
            let Some(old) = existing.iter().find(|old| old.id == fragment.id) else {
                return Err(Error::invalid_input(format!(
                    "fragment {} is not in version {} of the table",
                    fragment.id,
                    base.version()
                )));
            };
            let merged = match changed.remove(&old.id) {
                None => extended(old, old.clone(), fragment, table)?,
                Some(earlier) => extended(old, earlier, fragment, table)?,
            };
            changed.insert(old.id, merged);
        }
        if changed.is_empty() {
            return Err(Error::invalid_input(
                "there is nothing to merge: name fragments or uploads",
            ));
        }
        if !only_uploads
            && let Some(absent) = existing.iter().find(|f| !changed.contains_key(&f.id))
        {
            return Err(Error::invalid_input(format!(
                "a merge takes every fragment of the table; fragment {} is absent",
                absent.id
            )));
        }
        let fragments: Vec<Fragment> = existing
            .iter()
            .map(|old| changed.remove(&old.id).unwrap_or_else(|| old.clone()))
            .collect();
        let mut schema = table.clone();
        let staged = decode_all(&input.staged)?;
        for field in fields.iter().chain(staged.iter().flat_map(|schema| &schema.fields)) {
            match schema
                .fields
                .iter()
                .find(|known| known.id == field.id || known.name == field.name)
            {
                Some(known) if verify::fits(known, field) => {}
                Some(known) => {
                    return Err(Error::TableSchemaValidation(format!(
                        "the new column '{}' clashes with '{}': every fragment of a merge must get \
                         the same new columns in the same order",
                        field.name, known.name
                    )));
                }
                None => {
                    let mut field = field.clone();
                    check_stored_names([&Arc::new((&field).into())])?;
                    // The rows of fragments that did not get the column read as null.
                    field.nullable |= !fragments.iter().all(|fragment| {
                        fragment.files.iter().any(|file| file.fields.contains(&field.id))
                    });
                    schema.fields.push(field);
                }
            }
        }
        if let Some(given) = &input.schema {
            schema::check_wire_schema(given, &(&schema).into())?;
        }
        let preserves_nullability = schema
            .fields
            .iter()
            .all(|field| field.nullable || table.field_by_id(field.id).is_some());
        Ok(Operation::Merge { fragments, schema, preserves_nullability })
    }

    /// Puts the version. After an error that [`Error::is_certainly_not_committed`], it does not
    /// stand.
    ///
    /// # Errors
    /// `ConcurrentModification` when what landed since `read_version` does not go with it; with a
    /// `current_version` when something landed since `newest`.
    pub async fn publish(
        &self,
        location: &Location,
        base: Option<&Snapshot>,
        prepared: Prepared,
        rules: &Rules,
    ) -> Result<Published> {
        let properties: HashMap<String, String> = rules.properties.clone().into_iter().collect();
        let transaction = TransactionBuilder::new(rules.read_version, prepared.operation)
            .uuid(rules.transaction_id.to_string())
            .transaction_properties((!properties.is_empty()).then(|| Arc::new(properties)))
            .build();
        // A first version must not land on top of somebody else's first version either.
        let strict = rules.strict || base.is_none();
        let below = if strict { Some(rules.read_version) } else { rules.newest };
        let direct = match base {
            Some(base) if [below, Some(rules.read_version)] == [Some(base.version()); 2] => {
                base.direct().await?
            }
            _ => None,
        };
        let destination = match (&direct, base) {
            (Some(direct), _) => WriteDestination::Dataset(direct.dataset.clone()),
            (None, Some(base)) => WriteDestination::Dataset(base.dataset.clone()),
            (None, None) => WriteDestination::Uri(location.as_str()),
        };
        let mut builder = CommitBuilder::new(destination)
            .with_session(self.session())
            .with_store_params(self.params(location).clone())
            .use_stable_row_ids(prepared.stable_row_ids)
            .with_timeout(Some(PUBLISH_TIMEOUT));
        let ledger = Ledger::default();
        let guard = Guard {
            expected: below.map(|below| below + 1),
            new_files: prepared.new_files,
            fence: rules.fence.clone(),
            ledger: ledger.clone(),
            ..Guard::new(self.commit_handler(location).await?)
        };
        builder = builder.with_commit_handler(Arc::new(guard));
        if below.is_some() {
            builder = builder.with_max_retries(1);
        }
        let landed = match Box::pin(builder.execute(transaction)).await {
            Ok(dataset) => dataset,
            Err(lance::Error::DatasetAlreadyExists { .. }) => {
                return Err(Error::conflict(Conflict {
                    message: "the table got its first version meanwhile".into(),
                    retryable: prepared.change != Change::Overwrite,
                    ..Conflict::default()
                }));
            }
            // What stood after the base was taken back before Lance had read it.
            Err(error) if failure::is_absent(&error) && !ledger.put_begun() => {
                return Err(moved_on(base.map_or(0, Snapshot::version)));
            }
            // Another's version stands where this one was to.
            Err(lance::Error::CommitConflict { version, .. }) => {
                return Err(Error::conflict(Conflict {
                    message: format!("another commit made version {version} meanwhile"),
                    current_version: Some(version),
                    conflicting_version: Some(version),
                    retryable: true,
                    ..Conflict::default()
                }));
            }
            Err(error) => return Err(failure::from_lance(error, location)),
        };
        let num_rows = landed.fragments().iter().filter_map(Fragment::num_rows).sum::<usize>();
        let manifest = manifest_entry(landed.manifest(), landed.manifest_location());
        if direct.is_some() && manifest.version.is_multiple_of(HINTED) {
            self.write_hint(location, manifest.version).await;
        }
        let landed = direct.map_or(landed.clone(), |direct| direct.landed(&landed));
        // Lance took over everything but the version from the base, its way to commit too.
        let snapshot = base.map(|base| base.at(landed));
        Ok(Published { num_rows: num_rows as u64, manifest, snapshot })
    }
}

pub(super) fn manifest_entry(manifest: &Manifest, location: &ManifestLocation) -> ManifestEntry {
    ManifestEntry {
        version: location.version,
        path: location.path.to_string(),
        size_bytes: location.size,
        e_tag: location.e_tag.clone(),
        naming_scheme: probe::from_lance(location.naming_scheme),
        modified_at_us: i64::try_from(manifest.timestamp_nanos / 1_000).unwrap_or(i64::MAX),
    }
}

pub(super) fn decode_all(staged: &[Staged]) -> Result<Vec<Schema>> {
    staged.iter().map(|staged| schema::decode(&staged.schema)).collect()
}

fn staged_fragments(staged: &[Staged]) -> Result<Vec<Fragment>> {
    staged.iter().flat_map(|staged| &staged.fragments).map(fragment_from_json).collect()
}

/// Those that the caller named and those of its uploads, each data file once.
pub(super) fn all_fragments(mut bare: Vec<Fragment>, staged: &[Staged]) -> Result<Vec<Fragment>> {
    bare.extend(staged_fragments(staged)?);
    // Lance numbers new fragments, and knows their row ids; a number that a caller gave would stay.
    let bare: Vec<Fragment> = bare
        .into_iter()
        .map(|fragment| Fragment {
            files: fragment.files,
            physical_rows: fragment.physical_rows,
            ..Fragment::new(0)
        })
        .collect();
    let mut seen = HashSet::new();
    for file in bare.iter().flat_map(|fragment| &fragment.files) {
        if !seen.insert(file.path.as_str()) {
            return Err(Error::invalid_input(format!(
                "the data file '{}' is named twice",
                file.path
            )));
        }
    }
    Ok(bare)
}

/// A deletion file is named after the fragment id, which a new fragment does not have yet.
pub(super) fn refuse_deletions(fragments: &[Fragment]) -> Result<()> {
    if fragments.iter().any(|fragment| fragment.deletion_file.is_some()) {
        return Err(Error::invalid_input("a new fragment must not have a deletion file"));
    }
    Ok(())
}

fn same_columns(one: &Schema, other: &Schema) -> bool {
    one.fields.len() == other.fields.len()
        && one.fields.iter().zip(&other.fields).all(|(a, b)| a.id == b.id && verify::same(a, b))
}

fn shown(schema: &Schema) -> String {
    let fields = schema.fields.iter();
    fields.map(|f| format!("{}: {}", f.name, f.logical_type)).collect::<Vec<_>>().join(", ")
}

/// Adds to `so_far`, which started as `old`, the files that `new` has beyond it. Of what the caller
/// says only new files with new columns are taken: the rest is the table's to know.
fn extended(
    old: &Fragment,
    mut so_far: Fragment,
    new: Fragment,
    table: &Schema,
) -> Result<Fragment> {
    let keeps_files = old.files.iter().all(|file| new.files.iter().any(|n| n.path == file.path));
    if !keeps_files || new.physical_rows != old.physical_rows {
        return Err(Error::invalid_input(format!(
            "fragment {} does not hold the files and rows that it has in the table",
            old.id
        )));
    }
    for file in new.files {
        if so_far.files.iter().any(|known| known.path == file.path) {
            continue;
        }
        if file.fields.iter().any(|id| table.field_by_id(*id).is_some()) {
            return Err(Error::invalid_input(format!(
                "the data file '{}' holds a column that the table has already",
                file.path
            )));
        }
        so_far.files.push(file);
    }
    Ok(so_far)
}
