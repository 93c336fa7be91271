//! Changes to columns and to what is kept with them. They are short, but for new columns and new
//! types, which are written for every row: others in this process wait for all of them, since a
//! commit in between would have them begin again.

use std::collections::BTreeMap;

use super::Engine;
use super::change::Made;
use super::marks::Found;
use crate::error::Result;
use crate::lake::{Alteration, FieldMetadata, NewColumn, Snapshot};
use crate::model::{Caller, Properties, Table};

impl Engine {
    /// # Errors
    /// `InvalidInput`, `TableColumnNotFound`; `ConcurrentModification` when others were in the way
    /// every time; `InvalidTableState` for a table without a version. So for all that follow.
    pub async fn add_columns(
        &self,
        table: &Table,
        columns: Vec<NewColumn>,
        caller: &Caller,
    ) -> Result<Made<()>> {
        let work = |newest: Snapshot| {
            let columns = columns.clone();
            async move { newest.add_columns(columns).await }
        };
        self.change(table, caller, work, |_| Ok(())).await
    }

    pub async fn alter_columns(
        &self,
        table: &Table,
        alterations: Vec<Alteration>,
        caller: &Caller,
    ) -> Result<Made<()>> {
        let work = |newest: Snapshot| {
            let alterations = alterations.clone();
            async move { newest.alter_columns(alterations).await }
        };
        self.change(table, caller, work, |_| Ok(())).await
    }

    pub async fn drop_columns(
        &self,
        table: &Table,
        columns: Vec<String>,
        caller: &Caller,
    ) -> Result<Made<()>> {
        let work = |newest: Snapshot| {
            let columns = columns.clone();
            async move { newest.drop_columns(columns).await }
        };
        self.change(table, caller, work, |_| Ok(())).await
    }

    /// Answers all that is kept with the fields after the change, by path.
    pub async fn update_field_metadata(
        &self,
        table: &Table,
        updates: Vec<FieldMetadata>,
        caller: &Caller,
    ) -> Result<Made<BTreeMap<String, Properties>>> {
        let work = |newest: Snapshot| {
            let updates = updates.clone();
            async move { newest.update_field_metadata(updates).await }
        };
        self.change(table, caller, work, |found| found.snapshot.field_metadata(&updates)).await
    }

    /// Answers the pairs that the schema has after the change.
    pub async fn replace_schema_metadata(
        &self,
        table: &Table,
        metadata: Properties,
        caller: &Caller,
    ) -> Result<Made<Properties>> {
        let work = |newest: Snapshot| {
            let metadata = metadata.clone();
            async move { newest.replace_schema_metadata(metadata).await }
        };
        let kept = |found: &Found| Ok(found.snapshot.metadata().clone().into_iter().collect());
        self.change(table, caller, work, kept).await
    }
}
