//! `tiltyard migrate`.

use super::{block_on, settings};
use crate::config::Overrides;
use crate::error::Result;
use crate::server;

#[derive(clap::Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(migrate: &Migrate) -> Result<()> {
    let settings = settings(&migrate.overrides)?;
    block_on(async move { server::migrate(&settings).await })?;
    println!("the database schema is up to date");
    Ok(())
}
