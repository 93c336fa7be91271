//! The layers of `ARCHITECTURE.md`: a module may name only modules in lower layers.

use std::path::{Path, PathBuf};

use crate::support::files_under;

/// Each module and its layer. Siblings do not see each other.
const LAYERS: [(&str, u8); 15] = [
    ("main", 5),
    ("cli", 5),
    ("server", 4),
    ("http", 3),
    ("ui", 3),
    ("jobs", 3),
    ("commit", 2),
    ("auth", 2),
    ("catalog", 1),
    ("lake", 1),
    ("model", 0),
    ("error", 0),
    ("config", 0),
    ("telemetry", 0),
    ("lib", 9),
];

/// Edges between siblings, each with its reason.
const EXCEPTIONS: [(&str, &str, &str); 3] = [
    ("error", "model", "an error names the table or version it is about"),
    ("telemetry", "error", "where traces cannot be sent to, the server does not start"),
    ("config", "telemetry", "a setting of the log is of the log's own type"),
];

/// Settings are read here, and passed on as plain values.
const READERS_OF_CONFIG: [&str; 2] = ["cli", "server"];

fn layer(module: &str) -> Option<u8> {
    let found = LAYERS.iter().find(|(name, _)| *name == module);
    found.map(|(_, layer)| *layer)
}

/// Whether `from` may name `to`, both modules of the crate.
fn may_name(from: &str, to: &str) -> bool {
    match (from, to) {
        _ if from == to => true,
        ("lib", _) => true,
        ("main", _) => to == "cli",
        _ if EXCEPTIONS.iter().any(|(of, at, _)| (*of, *at) == (from, to)) => true,
        (_, "config") => READERS_OF_CONFIG.contains(&from),
        _ => layer(from) > layer(to),
    }
}

/// Whether `from` may name a crate, by the first part of its path.
fn may_use(from: &str, krate: &str) -> bool {
    let of_lance = krate == "lance" || krate.starts_with("lance_");
    if of_lance || krate == "object_store" || krate.starts_with("datafusion") {
        return from == "lake";
    }
    if krate == "sqlx" || krate == "rusqlite" {
        return from == "catalog";
    }
    if krate == "axum" {
        return layer(from) >= Some(3);
    }
    true
}

/// The code without comments and without the contents of texts, so that only code is looked at.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(character) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if character == '"' {
            text_literal(rest)
        } else if let Some(length) = raw_text(rest, &code) {
            length
        } else if let Some(length) = character_literal(rest) {
            length
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// The length of a comment, those within it included.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    let bytes = rest.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn text_literal(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#` and so on, where the `r` does not belong to a longer word.
fn raw_text(rest: &str, before: &str) -> Option<usize> {
    let hashes = rest.strip_prefix('r')?;
    let in_word = before.ends_with(|last: char| last.is_alphanumeric() || last == '_');
    let is_byte_text = before.ends_with('b');
    if in_word && !is_byte_text {
        return None;
    }
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let begin = 1 + count + 1;
    let length = rest[begin..].find(&end);
    Some(length.map_or(rest.len(), |length| begin + length + end.len()))
}

/// `'x'` or `'\n'`, but not the lifetime `'a`.
fn character_literal(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    let mut characters = inner.char_indices();
    let (_, first) = characters.next()?;
    if first == '\\' {
        let end = inner[2..].find('\'')?;
        return Some(1 + 2 + end + 1);
    }
    let (at, second) = characters.next()?;
    (second == '\'').then_some(1 + at + 1)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn first_word(text: &str) -> &str {
    let end = text.find(|character: char| !is_word(character));
    &text[..end.unwrap_or(text.len())]
}

/// The modules that stand behind one `crate::`: one, or those of a braced list.
fn modules_behind(text: &str) -> Vec<&str> {
    let text = text.trim_start();
    let Some(list) = text.strip_prefix('{') else {
        return vec![first_word(text)];
    };
    let (mut depth, mut modules, mut at_start) = (0, Vec::new(), true);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && is_word(character) => {
                modules.push(first_word(&list[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    modules
}

/// The crates and modules that code names: `crate::x` as `x`, and others by their first word.
struct Named<'a> {
    modules: Vec<&'a str>,
    crates: Vec<&'a str>,
}

fn named(code: &str) -> Named<'_> {
    let mut named = Named { modules: Vec::new(), crates: Vec::new() };
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let start = before.rfind(|character: char| !is_word(character));
        let word = &before[start.map_or(0, |start| start + 1)..];
        let lead = before[..before.len() - word.len()].trim_end();
        if word.is_empty() || lead.ends_with("::") {
            continue;
        }
        match word {
            "crate" | "tiltyard" => named.modules.extend(modules_behind(&code[at + 2..])),
            _ => named.crates.push(word),
        }
    }
    named
}

/// The module that a file belongs to: the first part of its path.
fn module_of(source: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(source).unwrap_or(file);
    let first = inside.components().next().expect("a file has a name");
    let first = Path::new(first.as_os_str()).with_extension("");
    first.display().to_string()
}

fn complaints(module: &str, file: &str, source: &str) -> Vec<String> {
    let code = code_only(source);
    let named = named(&code);
    let mut complaints = Vec::new();
    for to in named.modules {
        if layer(to).is_some() && !may_name(module, to) {
            complaints.push(format!("{file}: `{module}` names `{to}`"));
        }
    }
    for krate in named.crates {
        if module != "lib" && !may_use(module, krate) {
            complaints.push(format!("{file}: `{module}` names the crate `{krate}`"));
        }
    }
    complaints
}

fn source_files() -> (PathBuf, Vec<PathBuf>) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = files_under(&source);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    (source, files)
}

#[test]
fn modules_name_only_lower_layers() {
    let (source, files) = source_files();
    let mut all = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a source file");
        let module = module_of(&source, file);
        if layer(&module).is_none() {
            all.push(format!("`{module}` has no layer: add it to LAYERS in tests/it/tidy.rs"));
            continue;
        }
        let shown = file.strip_prefix(&source).unwrap_or(file).display();
        all.extend(complaints(&module, &format!("src/{shown}"), &text));
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
    assert!(files.len() > 20, "only {} files were looked at", files.len());
}

#[test]
fn an_upward_edge_is_seen() {
    for (module, source, expected) in [
        ("model", "use crate::catalog::Tx;", 1),
        ("model", "// use crate::catalog::Tx;", 0),
        ("model", "/* a /* b */ crate::lake::x */ fn f() {}", 0),
        ("model", "const X: &str = \"crate::lake::x\";", 0),
        ("model", "const X: &str = r#\"crate::lake::\"x\"#; use crate::lake::Y;", 1),
        ("error", "use crate::model::TableId;", 0),
        ("model", "use crate::error::Result;", 1),
        ("catalog", "use crate::{error::Error, lake::Lake, model::{Page, TableId}};", 1),
        ("catalog", "fn f() -> crate::error::Error { sqlx::query(\"\") }", 0),
        ("lake", "use sqlx::Row;", 1),
        ("lake", "use lance_core::Error; use lance::Dataset;", 0),
        ("commit", "use crate::{catalog::Catalog, lake::Lake};", 0),
        ("commit", "use lance_core::Error; fn f(x: &lance::Dataset) {}", 2),
        ("commit", "use axum::Router;", 1),
        ("http", "use axum::Router; let c = '\"'; use crate::commit::Commit;", 0),
        ("http", "fn f<'a>(x: &'a str) {} use crate::server::AppState;", 1),
        ("http", "use crate::jobs::Runner;", 1),
        ("http", "use crate::config::Settings;", 1),
        ("server", "use crate::config::Settings; use crate::http::router;", 0),
        ("main", "use tiltyard::cli; use tiltyard::server;", 1),
        ("cli", "pub(crate) use crate::server::run;", 0),
    ] {
        let found = complaints(module, "x.rs", source);
        assert_eq!(found.len(), expected, "{module}: {source}: {found:?}");
    }
}

/// The papers of the project, and how long they may be.
#[test]
fn the_papers_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, word) in [
        ("README.md", "make run"),
        ("README.md", "make test"),
        ("README.md", "curl"),
        ("README.md", "write_lance"),
        ("ARCHITECTURE.md", "Invariant"),
        ("LICENSE", "Apache License"),
        ("CHANGELOG.md", env!("CARGO_PKG_VERSION")),
    ] {
        let text = std::fs::read_to_string(root.join(name));
        let text = text.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.contains(word), "{name} does not say `{word}`");
    }
    let lines = |name: &str| {
        let text = std::fs::read_to_string(root.join(name)).unwrap_or_default();
        text.lines().count()
    };
    assert!(lines("ARCHITECTURE.md") < 150, "ARCHITECTURE.md is too long");
    assert!(lines("src/main.rs") < 40, "src/main.rs is too long");
}
