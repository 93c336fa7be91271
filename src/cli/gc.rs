//! `tiltyard gc`.

use std::process::ExitCode;
use std::time::Duration;

use super::{block_on, say, settings};
use crate::commit::{Sweeping, Swept};
use crate::config::{Overrides, duration};
use crate::error::Result;
use crate::server;

#[derive(clap::Args)]
pub(super) struct Gc {
    /// Only say what would be removed, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// The least age of a file that nothing refers to; a client may commit a younger one yet
    /// [default: 24h, or the upload TTL if that is longer]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    orphan_age: Option<Duration>,

    #[command(flatten)]
    overrides: Overrides,
}

/// What was swept, in numbers.
#[derive(Default)]
struct Total {
    tables: u64,
    folders: u64,
    uploads: u64,
    files: u64,
    bytes: u64,
    notes: u64,
    failed: u64,
}

pub(super) fn run(gc: &Gc) -> Result<ExitCode> {
    let settings = settings(&gc.overrides)?;
    let how = if gc.dry_run { Sweeping::DryRun } else { Sweeping::Remove };
    let verb = if gc.dry_run { "would remove" } else { "removed" };
    let mut total = Total::default();
    block_on(async {
        server::offline(&settings, async |engine| {
            let age = gc.orphan_age.unwrap_or_else(|| engine.garbage_age());
            engine.sweep(how, age, &mut |swept| total.add(verb, &swept)).await
        })
        .await
    })?;
    say(&format!(
        "{verb} {} dropped tables, {} folders, {} uploads, {} files that nothing refers to \
         ({} bytes), {} notes",
        total.tables, total.folders, total.uploads, total.files, total.bytes, total.notes
    ));
    if total.failed > 0 {
        say(&format!("{} things could not be done; the next run tries again", total.failed));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

impl Total {
    /// Counts a thing, and tells of it.
    fn add(&mut self, verb: &str, swept: &Swept) {
        match swept {
            Swept::Table { .. } => self.tables += 1,
            Swept::Folder { .. } => self.folders += 1,
            Swept::Upload { .. } => self.uploads += 1,
            Swept::File { bytes, .. } => {
                self.files += 1;
                self.bytes += bytes;
            }
            Swept::UploadNote { .. } => self.notes += 1,
            Swept::Sessions { number } | Swept::Answers { number } => self.notes += number,
            Swept::Failed { .. } => {
                self.failed += 1;
                return say(&format!("could not sweep {swept}"));
            }
        }
        say(&format!("{verb} {swept}"));
    }
}
