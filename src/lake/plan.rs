//! How a query is answered, in words.

use datafusion::physical_plan::displayable;
use futures::StreamExt;
use lance_datafusion::exec::format_plan;

use super::{Query, Snapshot};
use crate::error::Result;

/// How much a plan tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Short,
    Full,
}

impl Snapshot {
    /// The plan of a query, which is not run.
    ///
    /// # Errors
    /// As [`Snapshot::query`].
    pub async fn explain(&self, query: &Query, detail: Detail) -> Result<String> {
        let (snapshot, query) = (self.clone(), query.clone());
        let explaining = async move {
            let plan = snapshot.plan(snapshot.dataset.scan(), &query).await?;
            let text = displayable(plan.as_ref()).indent(detail == Detail::Full).to_string();
            Ok(snapshot.without_folders(&text))
        };
        self.readers.run(explaining).await
    }

    /// Runs a query to its end, and gives its plan with what each part of it took. Rows are
    /// forgotten as they come. The run stops when the future is dropped.
    ///
    /// # Errors
    /// As [`Snapshot::query`].
    pub async fn analyze(&self, query: &Query) -> Result<String> {
        let (snapshot, query) = (self.clone(), query.clone());
        let analyzing = async move {
            let plan = snapshot.plan(snapshot.dataset.scan(), &query).await?;
            let mut rows = snapshot.execute(plan.clone(), &query)?;
            while let Some(batch) = rows.next().await {
                batch.map_err(|error| snapshot.query_failed(&query, error))?;
            }
            Ok(snapshot.without_folders(&format_plan(plan)))
        };
        self.readers.run(analyzing).await
    }

    /// A plan names the folders that it reads; a caller has no business with where they are.
    fn without_folders(&self, text: &str) -> String {
        let base = self.dataset.branch_location().path.to_string();
        let location = self.location.as_str().trim_end_matches('/');
        let mut text = text.to_owned();
        for folder in [location, location.trim_start_matches('/'), &base] {
            if !folder.is_empty() {
                text = text.replace(&format!("{folder}/"), "").replace(folder, ".");
            }
        }
        text
    }
}
