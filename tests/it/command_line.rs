//! The binary itself: subcommands, settings and their precedence, start-up line, SIGTERM.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::{LIMIT, Serving, tiltyard};

fn output(home: &Path, arguments: &[&str]) -> Output {
    let output = tiltyard(home, arguments).output();
    output.expect("the binary runs")
}

/// Both streams of a process that has ended, as text.
fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

async fn post(serving: &Serving, path: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build();
    let url = format!("{}{path}", serving.base);
    let reply = client.expect("a client").post(url).send().await;
    let reply = reply.expect("an answer");
    let status = reply.status().as_u16();
    (status, reply.json().await.unwrap_or_default())
}

/// Where a table that is declared now would stand.
async fn place_of_tables(serving: &Serving) -> String {
    let (status, body) = post(serving, "/v1/table/t/declare").await;
    assert_eq!(status, 200, "{body}");
    body["location"].as_str().unwrap_or_default().to_string()
}

fn home() -> TempDir {
    TempDir::with_prefix("tiltyard-cli-").expect("a temporary folder")
}

/// With nothing set but a free port: the database and the lake appear beside the caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_just_works() {
    let home = home();
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let mut serving = Serving::start(tiltyard(home.path(), &arguments));
    assert!(!serving.base.ends_with(":0"), "{}", serving.line);
    assert!(serving.line.contains("catalog"), "{}", serving.line);
    assert!(serving.line.contains("storage"), "{}", serving.line);
    assert!(home.path().join("tiltyard-data/catalog.db").is_file());
    assert_eq!(post(&serving, "/v1/namespace/kept/create").await.0, 200);
    assert!(place_of_tables(&serving).await.contains("tiltyard-data/lake"));
    assert!(serving.terminate().success(), "SIGTERM is a good end");

    let mut serving = Serving::start(tiltyard(home.path(), &arguments));
    assert_eq!(post(&serving, "/v1/namespace/kept/exists").await.0, 200);
    assert!(serving.terminate().success());
}

/// A flag wins over a variable, a variable over the file, the file over the default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_have_an_order() {
    let home = home();
    let file = home.path().join("settings.toml");
    let text = "listen = \"127.0.0.1:0\"\nstorage_root = \"from-file\"\n";
    std::fs::write(&file, text).expect("a settings file");
    let config = file.display().to_string();
    let by_flag = ["serve", "--config", &config, "--storage-root", "from-flag"];
    for (arguments, variable, expected) in [
        (&by_flag[..3], None, "from-file"),
        (&by_flag[..3], Some("from-variable"), "from-variable"),
        (&by_flag[..], Some("from-variable"), "from-flag"),
    ] {
        let mut command = tiltyard(home.path(), arguments);
        command.env("TILTYARD_DATABASE", format!("sqlite://{expected}.db"));
        if let Some(variable) = variable {
            command.env("TILTYARD_STORAGE_ROOT", variable);
        }
        let mut serving = Serving::start(command);
        let place = place_of_tables(&serving).await;
        assert!(place.contains(expected), "{expected}: {place}");
        assert!(home.path().join(format!("{expected}.db")).is_file());
        serving.terminate();
    }
}

#[test]
fn help_is_there_for_people() {
    let home = home();
    let help = output(home.path(), &["--help"]);
    assert!(help.status.success());
    let text = said(&help);
    for word in ["serve", "migrate", "gc", "doctor", "openapi"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    let help = output(home.path(), &["serve", "--help"]);
    assert!(help.status.success());
    let text = said(&help);
    for flag in [
        "--listen",
        "--database",
        "--no-migrate",
        "--storage-root",
        "--gc-interval",
        "--upload-ttl",
        "--storage-option",
        "--allow-location",
        "--config",
    ] {
        assert!(text.contains(flag), "{flag} is not in:\n{text}");
    }
}

/// Each ends at once, says what is wrong, and leaves no database behind.
#[test]
fn nonsense_is_refused_at_the_start() {
    let home = home();
    let broken = home.path().join("broken.toml");
    std::fs::write(&broken, "listen = [").expect("a settings file");
    let broken = broken.display().to_string();
    for arguments in [
        ["serve", "--no-such-flag", "x"],
        ["serve", "--listen", "nonsense"],
        ["serve", "--storage-option", "no-equals-sign"],
        ["serve", "--gc-interval", "soon"],
        ["serve", "--database", "mysql://localhost/x"],
        ["serve", "--config", "missing.toml"],
        ["serve", "--config", &broken],
        ["no-such-command", "x", "y"],
    ] {
        let mut command = tiltyard(home.path(), &arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let started = Instant::now();
        while child.try_wait().expect("its state").is_none() {
            if started.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{arguments:?} was not refused");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().expect("its output");
        let text = said(&output);
        assert!(!output.status.success(), "{arguments:?}: {text}");
        assert!(!text.trim().is_empty(), "{arguments:?} says nothing");
        assert!(!text.contains("panicked"), "{arguments:?}: {text}");
    }
}

#[test]
fn openapi_prints_the_document() {
    let home = home();
    let printed = output(home.path(), &["openapi"]);
    assert!(printed.status.success(), "{}", said(&printed));
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/tiltyard.json");
    let checked_in = std::fs::read_to_string(path).expect("openapi/tiltyard.json");
    let checked_in: Value = serde_json::from_str(&checked_in).expect("JSON");
    assert!(printed == checked_in, "run `make openapi`");
}

/// `migrate` makes the database ready, so that `serve --no-migrate` has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_then_serve_without() {
    let home = home();
    let migrated = output(home.path(), &["migrate", "--database", "sqlite://x/catalog.db"]);
    assert!(migrated.status.success(), "{}", said(&migrated));
    assert!(home.path().join("x/catalog.db").is_file());
    let arguments =
        ["serve", "--no-migrate", "--listen", "127.0.0.1:0", "--database", "sqlite://x/catalog.db"];
    let mut serving = Serving::start(tiltyard(home.path(), &arguments));
    assert_eq!(post(&serving, "/v1/namespace/a/create").await.0, 200);
    assert!(serving.terminate().success());
}

/// As a container asks, with the settings of the server and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_by_the_exit_status() {
    let home = home();
    let mut serving = Serving::start(tiltyard(home.path(), &["serve", "--listen", "127.0.0.1:0"]));
    let base = serving.base.clone();
    let address = base.trim_start_matches("http://").to_owned();
    for arguments in [
        vec!["health", "--url", &base],
        vec!["health", "--url", &base, "--ready"],
        vec!["health", "--listen", &address],
    ] {
        let told = output(home.path(), &arguments);
        assert!(told.status.success(), "{arguments:?}: {}", said(&told));
    }
    std::fs::remove_dir_all(home.path().join("tiltyard-data/lake")).expect("the lake");
    std::fs::write(home.path().join("tiltyard-data/lake"), "no folder").expect("a file");
    // What it saw last it answers for a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let told = output(home.path(), &["health", "--url", &base, "--ready"]);
    assert!(!told.status.success() && said(&told).contains("storage"), "{}", said(&told));
    assert!(output(home.path(), &["health", "--url", &base]).status.success());
    assert!(serving.terminate().success());
    let told = output(home.path(), &["health", "--url", &base]);
    assert!(!told.status.success(), "{}", said(&told));
}
