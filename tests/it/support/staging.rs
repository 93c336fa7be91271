//! Versions as a client with managed versioning makes them: the files of the table are there, and
//! the manifest waits under a name that nobody looks for.

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{files_under, foreign};

/// A manifest without its final name.
#[derive(Clone, Debug)]
pub struct Staged {
    pub version: u64,
    pub manifest: PathBuf,
}

impl Staged {
    /// The fields of CreateTableVersion.
    pub fn claim(&self) -> Value {
        json!({
            "version": self.version,
            "manifest_path": relative(&self.manifest),
            "manifest_size": std::fs::metadata(&self.manifest).expect("the staged manifest").len(),
            "naming_scheme": "V2",
        })
    }

    /// The same for a request that names its table by `id`.
    pub fn claim_of(&self, id: &[&str]) -> Value {
        let mut claim = self.claim();
        claim["id"] = json!(id);
        claim
    }

    /// The same as an operation of BatchCommitTables.
    pub fn operation(&self, id: &[&str]) -> Value {
        json!({"create_table_version": self.claim_of(id)})
    }
}

/// As clients give a path: relative to the root of the object store.
pub fn relative(path: &Path) -> String {
    path.display().to_string().trim_start_matches('/').to_string()
}

/// Stages the version after the newest: these rows appended, or the first of the table.
pub async fn stage(location: &str, rows: RecordBatch) -> Staged {
    stage_line(location, vec![rows]).await.pop().expect("a version")
}

/// Stages versions that each build on the one before.
pub async fn stage_line(location: &str, line: Vec<RecordBatch>) -> Vec<Staged> {
    let place = foreign::folder(location);
    let scratch = TempDir::with_prefix("tiltyard-staging-").expect("a temporary folder");
    let copy = scratch.path().join("copy");
    copy_files(&place, &copy);
    let copied = copy.display().to_string();
    let mut staged = Vec::new();
    for rows in line {
        let before = files_under(&copy);
        let is_version = |file: &PathBuf| file.extension().is_some_and(|kind| kind == "manifest");
        let version = if before.iter().any(is_version) {
            foreign::append(&copied, rows).await
        } else {
            foreign::create(&copied, rows).await
        };
        for file in files_under(&copy).into_iter().filter(|file| !before.contains(file)) {
            let within = file.strip_prefix(&copy).expect("a file of the copy");
            let mut target = place.join(within);
            if within.starts_with("_versions") {
                if within.extension().is_none_or(|kind| kind != "manifest") {
                    continue;
                }
                let name = format!("{}-{}", target.display(), uuid::Uuid::new_v4());
                target = PathBuf::from(name);
                staged.push(Staged { version, manifest: target.clone() });
            }
            std::fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
            std::fs::copy(&file, &target).expect("a copied file");
        }
    }
    staged
}

/// Takes the newest version of a line back to where it was staged; the line may be a branch's.
pub fn unname(location: &str, version: u64) -> Staged {
    let folder = foreign::folder(location).join("_versions");
    let manifest = folder.join(format!("{:020}.manifest", u64::MAX - version));
    let staged = PathBuf::from(format!("{}-{}", manifest.display(), uuid::Uuid::new_v4()));
    std::fs::rename(&manifest, &staged).expect("the manifest is there");
    // The hint would name what is no version any more; it may be missing.
    let _ = std::fs::remove_file(folder.join("latest_version_hint.json"));
    Staged { version, manifest: staged }
}

/// The staged manifests of a table, or of a branch by its own location.
pub fn staging(location: &str) -> Vec<PathBuf> {
    let mut files = files_under(&foreign::folder(location).join("_versions"));
    files.retain(|file| file.to_string_lossy().contains(".manifest-"));
    files
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for file in files_under(from) {
        let target = to.join(file.strip_prefix(from).expect("a file of the folder"));
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
        std::fs::copy(&file, &target).expect("a copied file");
    }
}
