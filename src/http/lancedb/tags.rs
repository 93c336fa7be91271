//! Tags: names for versions. All but the listing have the namespace dialect's form.

use std::collections::BTreeMap;

use axum::Json as Reply;
use axum::extract::State;

use super::every;
use crate::http::AppState;
use crate::http::error::ApiResult;
use crate::http::extract::TablePath;
use crate::http::namespace::tables::get_table;
use crate::http::namespace::tags::TagContents;
use crate::model::Caller;

/// Lists the tags of a table, those of all branches: from a tag's name to what it points to.
pub(in crate::http) async fn list_tags(
    State(state): State<AppState>,
    _caller: Caller,
    TablePath(id, _): TablePath,
) -> ApiResult<Reply<BTreeMap<String, TagContents>>> {
    let table = get_table(&state, &id).await?;
    let tags = every("tags", async |page| state.engine.list_tags(&table, &page).await).await?;
    Ok(Reply(tags.into_iter().map(|tag| (tag.name.clone(), TagContents::from(&tag))).collect()))
}
