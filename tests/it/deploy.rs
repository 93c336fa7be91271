//! What is in `deploy/` names settings and metrics that there are. That the files are well-formed,
//! `scripts/check-deploy` sees.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::files_under;
use crate::support::process::tiltyard;

/// The words of a text that begin so.
fn words(text: &str, beginning: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_part(character));
    words.filter(|word| word.starts_with(beginning)).map(str::to_owned).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn its_settings_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = tiltyard(root, &["serve", "--help"]).output().expect("the binary runs");
    let known = words(&String::from_utf8_lossy(&help.stdout), "TILTYARD_");
    assert!(known.contains("TILTYARD_DATABASE"), "{known:?}");
    let mut files = files_under(&root.join("deploy"));
    files.push(root.join("Dockerfile"));
    let mut named = 0;
    for file in files {
        for setting in words(&read(&file), "TILTYARD_") {
            assert!(known.contains(&setting), "{}: {setting}", file.display());
            named += 1;
        }
    }
    assert!(named > 5, "only {named} settings are named");
}

#[test]
fn the_board_shows_metrics_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = read(&root.join("src/telemetry/meters.rs"));
    let known = words(&known, "tiltyard_");
    let board = read(&root.join("deploy/grafana/tiltyard.json"));
    let board: serde_json::Value = serde_json::from_str(&board).expect("JSON");
    let text = board["panels"].to_string();
    let shown = words(&text, "tiltyard_");
    assert!(shown.len() > 15, "{shown:?}");
    for name in shown {
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(&name);
        assert!(known.contains(base), "{name}");
    }
    // Each is of one replica or of all, as is chosen above the board.
    for panel in board["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            assert!(expression.contains("instance=~\"$instance\""), "{expression}");
        }
    }
}
