//! `tiltyard migrate`.

use super::{block_on, say, settings};
use crate::catalog;
use crate::config::Overrides;
use crate::error::Result;
use crate::server;

#[derive(clap::Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    overrides: Overrides,

    /// Move the catalog of this database, which no server may be at, to that of --to
    #[arg(long, value_name = "URL", requires = "to")]
    from: Option<String>,

    /// The database to move to: it is made and given its schema if need be, and must have no rows
    #[arg(long, value_name = "URL", requires = "from")]
    to: Option<String>,
}

pub(super) fn run(migrate: &Migrate) -> Result<()> {
    let settings = settings(&migrate.overrides)?;
    let Some((from, to)) = migrate.from.as_ref().zip(migrate.to.as_ref()) else {
        block_on(async move { server::migrate(&settings).await })?;
        say("the database schema is up to date");
        return Ok(());
    };
    let counts = block_on(catalog::move_catalog(from, to))?;
    for (table, rows) in counts {
        say(&format!("{rows:>10} {table}"));
    }
    say("all rows were copied, and counted in both databases");
    Ok(())
}
