//! Real clients: the scripts of `tests/clients`, each against a server of its own.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Backend, TestServer};

/// Names a Python that has the packages of `tests/clients/requirements.txt`.
const PYTHON_VARIABLE: &str = "TILTYARD_TEST_PYTHON";
/// Names a Node that finds the packages of `tests/clients/lancedb_node/package.json`.
const NODE_VARIABLE: &str = "TILTYARD_TEST_NODE";
const LIMIT: Duration = Duration::from_secs(540);

/// The interpreter of a client's script. A missing one fails in CI and is said elsewhere.
fn interpreter(script: &str) -> Option<String> {
    let variable = if script.ends_with(".mjs") { NODE_VARIABLE } else { PYTHON_VARIABLE };
    match std::env::var(variable) {
        Ok(interpreter) if !interpreter.is_empty() => Some(interpreter),
        _ if std::env::var_os("CI").is_some() => {
            panic!("{variable} is not set, and CI must run the real clients")
        }
        _ => {
            println!("skipped: {variable} is not set");
            None
        }
    }
}

/// Runs a script to its end, and shows what it printed when it fails.
fn run(interpreter: &str, script: &str, server: &TestServer) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut output = File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(server.home().join("client.log"))
        .expect("a file for the output");
    let mut child = Command::new(interpreter)
        .arg(&path)
        .arg(server.base())
        .current_dir(server.home())
        .env("RAY_USAGE_STATS_ENABLED", "0")
        .env("NO_PROXY", "127.0.0.1,localhost")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("the file again"))
        .stderr(output.try_clone().expect("the file again"))
        .spawn()
        .unwrap_or_else(|error| panic!("{interpreter} does not start: {error}"));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the state of the client") {
            break Some(status);
        }
        if started.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut shown = String::new();
    output.rewind().expect("the beginning of the output");
    output.read_to_string(&mut shown).expect("the output");
    match status {
        Some(status) if status.success() => println!("{shown}"),
        Some(status) => panic!("{script} ended with {status}:\n{shown}"),
        None => panic!("{script} took more than {LIMIT:?}:\n{shown}"),
    }
}

async fn check(script: &str, backend: Backend) {
    let Some(interpreter) = interpreter(script) else { return };
    let Some(server) = TestServer::spawn(backend).await else {
        return;
    };
    tokio::task::block_in_place(|| run(&interpreter, script, &server));
}

/// One script, run against both kinds of catalog.
macro_rules! on_both {
    ($name:ident) => {
        on_both!($name, concat!(stringify!($name), ".py"));
    };
    ($name:ident, $script:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                check($script, Backend::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                check($script, Backend::Postgres).await;
            }
        }
    };
}

on_both!(distributed_http);
on_both!(lancedb_namespace);
on_both!(lancedb_node, "lancedb_node/smoke.mjs");
on_both!(lancedb_remote);
on_both!(managed_versioning);
on_both!(namespace_python);
on_both!(namespace_rest);
on_both!(write_lance);

/// Two minutes of requests made from our own document. The catalog's kind makes no difference to
/// what it finds, so it runs on one.
mod schemathesis_run {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        check("schemathesis_run.py", Backend::Sqlite).await;
    }
}
