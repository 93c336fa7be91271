//! `tiltyard openapi`.

use crate::error::Result;
use crate::server;

pub(super) fn run() -> Result<()> {
    println!("{}", server::openapi()?);
    Ok(())
}
