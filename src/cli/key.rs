//! `tiltyard key`.

use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;

use super::{block_on, say, settings, with_keeper};
use crate::catalog::access;
use crate::config::{Overrides, duration};
use crate::error::{Error, Result};
use crate::model::ApiKey;

#[derive(clap::Args)]
pub(super) struct Key {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a key and print it, this once
    Create {
        /// Who calls with it, to whom roles are granted
        #[arg(long, value_name = "NAME")]
        principal: String,
        /// After how long it is good no more [default: never]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires_in: Option<Duration>,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// List the keys, without their secrets
    List {
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Make another key for the principal of one, which ends
    Rotate {
        key_id: String,
        /// For how long the old key stays good [default: not at all]
        #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s")]
        overlap: Duration,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Take a key away
    Delete {
        key_id: String,
        #[command(flatten)]
        overrides: Overrides,
    },
}

pub(super) fn run(key: Key) -> Result<()> {
    match key.what {
        What::Create { principal, expires_in, description, overrides } => {
            let settings = settings(&overrides)?;
            let (text, key) = block_on(with_keeper(&settings, async |keeper| {
                keeper.create_key(&principal, &description, expires_in).await
            }))?;
            say(&shown(&key));
            say(&text);
        }
        What::List { overrides } => {
            let settings = settings(&overrides)?;
            let keys = block_on(with_keeper(&settings, async |keeper| {
                access::list_keys(&mut keeper.catalog.read().await?, None).await
            }))?;
            for key in keys {
                say(&shown(&key));
            }
        }
        What::Rotate { key_id, overlap, overrides } => {
            let settings = settings(&overrides)?;
            let (text, key) = block_on(with_keeper(&settings, async |keeper| {
                keeper.rotate_key(&key_id, overlap).await
            }))?;
            say(&shown(&key));
            say(&text);
        }
        What::Delete { key_id, overrides } => {
            let settings = settings(&overrides)?;
            let gone =
                block_on(with_keeper(&settings, async |keeper| keeper.delete_key(&key_id).await))?;
            if !gone {
                return Err(Error::invalid_input("there is no such key"));
            }
        }
    }
    Ok(())
}

fn shown(key: &ApiKey) -> String {
    let ApiKey { id, principal, created_by, .. } = key;
    let expires = key.expires_at_us.map_or("never".into(), at);
    let used = key.last_used_us.map_or("never".into(), at);
    let created = at(key.created_at_us);
    format!(
        "{id} of '{principal}', made {created} by '{created_by}', ends {expires}, used {used} {}",
        key.description
    )
    .trim_end()
    .to_owned()
}

/// A time as people write it, in UTC.
fn at(us: i64) -> String {
    let since = Duration::from_micros(us.max(0).unsigned_abs());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}
