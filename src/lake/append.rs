//! Adding rows that are written already: what can be checked before it is known on top of which
//! version they go, and one version for the rows of several.

use std::collections::{BTreeMap, HashMap, HashSet};

use lance::dataset::transaction::Operation;
use lance::datatypes::{Field, Schema};
use lance_table::format::Fragment;
use uuid::Uuid;

use super::mark::MARK;
use super::publish::{Change, Prepared, Published, Rules};
use super::publish::{all_fragments, decode_all, refuse_deletions};
use super::snapshot::fragment_from_json;
use super::{Lake, Location, Snapshot, verify};
use crate::error::{Error, Result};
use crate::model::Staged;

/// Rows to add, whose files were looked at.
pub struct Addition {
    pub(super) fragments: Vec<Fragment>,
    /// What the files of fragments hold that a caller named; `None` when it named none.
    fields: Option<Vec<Field>>,
    /// What the uploads hold.
    staged: Vec<Schema>,
    files: HashSet<String>,
}

/// Fragments that a caller named, whose files were looked at.
pub struct Named {
    fragments: Vec<Fragment>,
    fields: Option<Vec<Field>>,
}

impl Lake {
    /// Looks at the files of fragments that are to be added.
    ///
    /// # Errors
    /// `InvalidInput` and `TableSchemaValidation` that say what is wrong with them.
    pub async fn look_at(
        &self,
        location: &Location,
        fragments: &[serde_json::Value],
    ) -> Result<Named> {
        let fragments: Vec<Fragment> =
            fragments.iter().map(fragment_from_json).collect::<Result<_>>()?;
        refuse_deletions(&fragments)?;
        let fields = match fragments.is_empty() {
            true => None,
            false => Some(self.verify(location, &fragments, &HashSet::new()).await?),
        };
        Ok(Named { fragments, fields })
    }
}

impl Named {
    /// Together with the rows of uploads.
    ///
    /// # Errors
    /// `InvalidInput` for a data file that is named twice.
    pub fn with(self, staged: &[Staged]) -> Result<Addition> {
        let fragments = all_fragments(self.fragments, staged)?;
        let files = fragments.iter().flat_map(|fragment| &fragment.files);
        let files = files.map(|file| file.path.clone()).collect();
        Ok(Addition { fragments, fields: self.fields, staged: decode_all(staged)?, files })
    }
}

impl Addition {
    /// How many rows there are.
    pub fn num_rows(&self) -> u64 {
        self.fragments.iter().filter_map(Fragment::num_rows).sum::<usize>() as u64
    }

    pub fn num_fragments(&self) -> usize {
        self.fragments.len()
    }

    /// Whether the table can read the columns, and lacks none that it needs.
    fn check_columns(&self, table: &Schema) -> Result<()> {
        let staged = self.staged.iter().flat_map(|schema| &schema.fields);
        for field in self.fields.iter().flatten().chain(staged) {
            let known = table.fields.iter().find(|known| known.id == field.id);
            if !known.is_some_and(|known| verify::fits(known, field)) {
                return Err(Error::TableSchemaValidation(format!(
                    "column '{}' ({}) of the fragments does not fit the table's schema; upload \
                     them again with mode=append",
                    field.name, field.logical_type
                )));
            }
        }
        let lacking = |fields: &[Field]| {
            let is_there = |known: &Field| fields.iter().any(|field| field.id == known.id);
            table.fields.iter().find(|known| !known.nullable && !is_there(known))
        };
        // An upload holds what its version of the table asked for; another may ask for more.
        let by_upload = self.staged.iter().find_map(|schema| lacking(&schema.fields));
        let by_name = || self.fields.as_deref().and_then(lacking);
        if let Some(field) = by_upload.or_else(by_name) {
            return Err(Error::TableSchemaValidation(format!(
                "the fragments lack column '{}', which may not be null",
                field.name
            )));
        }
        Ok(())
    }
}

impl Snapshot {
    /// Which of several additions can go on top of this version, together with those before them.
    ///
    /// # Errors
    /// For each one that cannot: `TableSchemaValidation`, or `InvalidInput` for a file that is in
    /// the table already.
    pub fn check_additions(&self, additions: &[&Addition]) -> Vec<Result<()>> {
        let new: HashSet<&str> =
            additions.iter().flat_map(|addition| &addition.files).map(String::as_str).collect();
        let files = self.dataset.fragments().iter().flat_map(|fragment| &fragment.files);
        let mut taken: HashSet<&str> =
            files.map(|file| file.path.as_str()).filter(|path| new.contains(path)).collect();
        let mut verdicts = Vec::new();
        for addition in additions {
            let verdict =
                addition.check_columns(self.dataset.schema()).and_then(|()| {
                    match addition.files.iter().find(|file| taken.contains(file.as_str())) {
                        Some(file) => Err(there_already(file)),
                        None => Ok(()),
                    }
                });
            if verdict.is_ok() {
                taken.extend(addition.files.iter().map(String::as_str));
            }
            verdicts.push(verdict);
        }
        verdicts
    }

    /// Whether it refers to all of some data files.
    pub fn holds_files(&self, files: &[String]) -> bool {
        let held = self.dataset.fragments().iter().flat_map(|fragment| &fragment.files);
        let held: HashSet<&str> = held.map(|file| file.path.as_str()).collect();
        files.iter().all(|file| held.contains(file.as_str()))
    }

    /// Puts one version with the rows of all additions, which were checked against this one: it
    /// lands as the version right after this one, or not at all.
    ///
    /// # Errors
    /// `ConcurrentModification` when another version stands there.
    pub async fn append_all(&self, additions: &[&Addition], rules: &Rules) -> Result<Published> {
        let fragments = additions.iter().flat_map(|addition| addition.fragments.clone()).collect();
        let prepared = Prepared {
            change: Change::Append,
            operation: Operation::Append { fragments },
            stable_row_ids: false,
            // The version that they were checked against is the one below.
            new_files: HashSet::new(),
        };
        let rules = Rules { read_version: self.version(), strict: true, ..rules.clone() };
        self.lake.publish(&self.location, Some(self), prepared, &rules).await
    }
}

pub(super) fn there_already(file: &str) -> Error {
    Error::invalid_input(format!("the data file '{file}' is in the table already"))
}

/// How a version says that it holds the rows of a commit that shares it with others.
const MEMBER: &str = "tiltyard.member.";

/// A commit that shares a version: its transaction's id, its rows, and the mark of its request.
pub type Member<'a> = (Uuid, &'a Addition, Option<Uuid>);

/// The properties of the transaction that several share.
pub fn shared_properties(
    own: &BTreeMap<String, String>,
    members: &[Member<'_>],
) -> BTreeMap<String, String> {
    let mut properties = own.clone();
    for (id, addition, _) in members {
        properties.insert(format!("{MEMBER}{id}"), addition.num_rows().to_string());
    }
    let marks = members.iter().filter_map(|(_, _, mark)| mark.map(|mark| mark.to_string()));
    let marks = marks.collect::<Vec<_>>().join(",");
    if !marks.is_empty() {
        properties.insert(MARK.to_owned(), marks);
    }
    properties
}

/// The commits that share the version of a transaction with these properties.
pub(super) fn members(properties: &HashMap<String, String>) -> Vec<Uuid> {
    let ids = properties.keys().filter_map(|name| name.strip_prefix(MEMBER));
    ids.filter_map(|id| Uuid::try_parse(id).ok()).collect()
}
