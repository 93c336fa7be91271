//! Programs in other languages: the interpreters that have their packages, and running one to its end.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{needed, secrets};

/// Names a Python that has the packages of `tests/clients/requirements.txt`.
const PYTHON_VARIABLE: &str = "TILTYARD_TEST_PYTHON";
/// Names a Node that finds the packages of `tests/clients/lancedb_node/package.json`.
const NODE_VARIABLE: &str = "TILTYARD_TEST_NODE";
const LIMIT: Duration = Duration::from_secs(540);

/// The interpreter of a client's script. A missing one fails in CI and is said elsewhere.
pub fn interpreter(script: &str) -> Option<String> {
    let variable = if script.ends_with(".mjs") { NODE_VARIABLE } else { PYTHON_VARIABLE };
    needed(variable, "run the real clients")
}

/// Runs a script of the folder `tests` to its end, in the folder `home`, and shows what it printed when
/// it fails.
pub fn run(interpreter: &str, script: &str, arguments: &[&str], home: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let mut output = File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(home.join("client.log"))
        .expect("a file for the output");
    let mut child = Command::new(interpreter)
        .arg(&path)
        .args(arguments)
        .current_dir(home)
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
        Some(status) if status.success() => {
            secrets::assert_none_in(script, shown.as_bytes());
            println!("{shown}");
        }
        Some(status) => panic!("{script} ended with {status}:\n{shown}"),
        None => panic!("{script} took more than {LIMIT:?}:\n{shown}"),
    }
}
