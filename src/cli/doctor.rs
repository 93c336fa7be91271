//! `tiltyard doctor`.

use std::process::ExitCode;
use std::time::Duration;

use super::{block_on, say, settings};
use crate::commit::{Finding, Mending, Patients, Repair};
use crate::config::{Overrides, duration};
use crate::error::Result;
use crate::model::TableId;
use crate::server;

/// What stands between the names of an identifier, as in the paths of the REST interface.
const DELIMITER: &str = "$";

#[derive(clap::Args)]
pub(super) struct Doctor {
    /// The tables to examine, such as ns$sub$table [default: all, and the storage root]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,

    /// Mend what can be mended
    #[arg(long)]
    repair: bool,

    /// Print one JSON object for each finding, and nothing else
    #[arg(long)]
    json: bool,

    /// The least age of a file that nothing refers to; a client may commit a younger one yet
    /// [default: 24h, or the upload TTL if that is longer]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    orphan_age: Option<Duration>,

    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(doctor: &Doctor) -> Result<ExitCode> {
    let settings = settings(&doctor.overrides)?;
    let ids = doctor.tables.iter().map(|id| TableId::parse(id, DELIMITER));
    let ids = ids.collect::<std::result::Result<Vec<_>, _>>()?;
    let patients = if ids.is_empty() { Patients::All } else { Patients::These(ids) };
    let repair = if doctor.repair { Repair::Yes } else { Repair::No };
    let mut group = None;
    let mut print = |finding: Finding| {
        if doctor.json {
            return say(&as_json(&finding));
        }
        let about = heading(&finding);
        if group.as_ref() != Some(&about) {
            say(&format!("{about}:"));
            group = Some(about);
        }
        say(&format!("  {}: {}", finding.what, told(&finding.mending)));
    };
    let verdict = block_on(async {
        server::offline(&settings, async |engine| {
            let age = doctor.orphan_age.unwrap_or_else(|| engine.garbage_age());
            engine.examine(patients, repair, age, &mut print).await
        })
        .await
    })?;
    if !doctor.json {
        say(&format!(
            "examined {} tables: {} findings, of which {} were mended and {} remain; {} notes",
            verdict.tables,
            verdict.mended + verdict.remaining,
            verdict.mended,
            verdict.remaining,
            verdict.notes
        ));
        if verdict.remaining > 0 && repair == Repair::No {
            say("--repair mends what can be mended");
        }
    }
    Ok(if verdict.remaining == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn heading(finding: &Finding) -> String {
    match (&finding.table, &finding.branch) {
        (None, _) => "catalog and storage root".into(),
        (Some(table), None) => format!("table {table}"),
        (Some(table), Some(branch)) => format!("table {table}, branch {branch}"),
    }
}

fn told(mending: &Mending) -> String {
    match mending {
        Mending::Possible(how) => format!("would {how}"),
        Mending::Done(how) => format!("mended ({how})"),
        Mending::Failed(how, why) => format!("could not {how}: {why}"),
        Mending::Beyond(why) => format!("not to be mended here: {why}"),
        Mending::Note(why) => format!("left alone: {why}"),
    }
}

fn as_json(finding: &Finding) -> String {
    let (state, detail) = match &finding.mending {
        Mending::Possible(how) => ("found", (*how).to_owned()),
        Mending::Done(how) => ("mended", (*how).to_owned()),
        Mending::Failed(how, why) => ("failed", format!("{how}: {why}")),
        Mending::Beyond(why) => ("beyond", (*why).to_owned()),
        Mending::Note(why) => ("note", (*why).to_owned()),
    };
    let (table, branch) = (finding.table.as_ref(), finding.branch.as_ref());
    serde_json::json!({
        "table": table.map(ToString::to_string),
        "branch": branch.map(ToString::to_string),
        "finding": finding.what,
        "state": state,
        "detail": detail,
    })
    .to_string()
}
