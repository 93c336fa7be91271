//! What clients were told, compared with what is there: writers of every kind at once, on servers that
//! are killed. `make history` does the same for longer, and more of it.

use tempfile::TempDir;

use crate::support::script::{interpreter, run};
use crate::support::{Backend, Database, files_under, secrets};

const SCRIPT: &str = "history/run";

fn check(arguments: &[&str]) {
    let Some(interpreter) = interpreter(SCRIPT) else { return };
    let home = TempDir::with_prefix("tiltyard-history-").expect("a temporary folder");
    let folder = home.path().join("run").display().to_string();
    let mut all = vec!["--binary", env!("CARGO_BIN_EXE_tiltyard"), "--folder", &folder];
    all.extend(arguments);
    run(&interpreter, SCRIPT, &all, home.path());
    let mut logs = files_under(home.path());
    logs.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    assert!(logs.len() > 1, "no server wrote a log: {logs:?}");
    for log in logs {
        let told = std::fs::read(&log).expect("a log");
        secrets::assert_none_in(&log.display().to_string(), &told);
    }
}

/// Of histories that are wrong the checker says so.
#[test]
fn the_checker_is_checked() {
    let Some(interpreter) = interpreter(SCRIPT) else { return };
    let home = TempDir::with_prefix("tiltyard-history-").expect("a temporary folder");
    run(&interpreter, SCRIPT, &["--self-test"], home.path());
}

#[test]
fn one_server_is_killed_on_sqlite() {
    check(&["--scenario", "kills", "--kills", "6", "--writers", "8"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_is_killed_on_postgres() {
    let home = TempDir::with_prefix("tiltyard-history-").expect("a temporary folder");
    let Some(database) = Database::create(Backend::Postgres, home.path()).await else { return };
    let url = database.url().to_owned();
    let arguments = ["--scenario", "two", "--kills", "5", "--writers", "8", "--database", &url];
    tokio::task::block_in_place(|| check(&arguments));
    database.remove().await;
}
