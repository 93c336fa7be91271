//! What a caller is told to use for a table's storage: the options that the server was configured
//! with, and credentials for that table.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::access::Standing;
use crate::lake::{Credentials, Location, Permission};
use crate::model::{Caller, Event, EventKind, Object, Properties, Role, Table};

/// The options that every client is told.
pub(super) fn client_options(state: &AppState, table: &Table) -> Option<Properties> {
    let location = Location::from_stored(table.location.clone());
    Some(state.lake.client_options(&location).clone()).filter(|options| !options.is_empty())
}

/// The options for a caller of a table. They hold credentials unless the caller wants none
/// (`vend_credentials`); a caller who says nothing gets none where they cannot be limited to the table.
/// What the caller showed is looked at again, if there is anything.
///
/// # Errors
/// `Unsupported` where credentials are asked for and cannot be limited to the table;
/// `ServiceUnavailable` when they cannot be had now; `TableNotFound`.
pub(super) async fn storage_options(
    state: &AppState,
    caller: &Caller,
    standing: Option<&Standing>,
    table: &Table,
    vend_credentials: Option<bool>,
) -> Result<Option<Properties>> {
    let told = client_options(state, table);
    let location = Location::from_stored(table.location.clone());
    if vend_credentials == Some(false) || !state.lake.vends(&location) {
        return Ok(told);
    }
    match Box::pin(vend(state, caller, standing, table, &location)).await {
        Ok((_, credentials)) => {
            let mut options = told.unwrap_or_default();
            options.extend(credentials.options().clone());
            Ok(Some(options))
        }
        Err(Error::Unsupported(why)) if vend_credentials.is_none() => {
            tracing::warn!(table = %table.id, %why, "described without credentials");
            Ok(told)
        }
        Err(error) => Err(error),
    }
}

/// As [`storage_options`], of a table that was made a moment ago: whatever becomes of credentials, the
/// table is there. What is answered to a request with a key is kept, which credentials never are.
pub(super) async fn of_new_table(
    state: &AppState,
    caller: &Caller,
    table: &Table,
    vend_credentials: Option<bool>,
) -> Option<Properties> {
    if caller.mark().is_some() {
        return client_options(state, table);
    }
    match storage_options(state, caller, None, table, vend_credentials).await {
        Ok(options) => options,
        Err(error) => {
            tracing::warn!(table = %table.id, %error, "declared without credentials");
            client_options(state, table)
        }
    }
}

/// Credentials for a table, for what the caller may do with it at this moment.
async fn vend(
    state: &AppState,
    caller: &Caller,
    standing: Option<&Standing>,
    table: &Table,
    location: &Location,
) -> Result<(Permission, Arc<Credentials>)> {
    // They last longer than what a reader is let do after their key was taken away.
    if let Some(standing) = standing {
        standing.confirm().await?;
    }
    let role = state.access.role_now(caller, &Object::Table(table.id.clone())).await?;
    let permission = match role {
        Some(role) if role >= Role::Writer => Permission::Write,
        Some(_) => Permission::Read,
        None => return Err(Error::TableNotFound(table.id.clone())),
    };
    let credentials = state.lake.vend(location, permission).await?;
    let kind = EventKind::CredentialsVended;
    let event = Event::of_table(kind, table, caller, state.engine.now_us())
        .with("permission", permission.as_str())
        .with("expires_at_millis", credentials.expires_at_millis());
    // Nobody gets any of which there is no record.
    state.engine.record_events(&[event]).await?;
    tracing::info!(
        table = %table.id,
        %caller,
        permission = permission.as_str(),
        expires_at_millis = credentials.expires_at_millis(),
        "credentials handed out"
    );
    Ok((permission, credentials))
}
