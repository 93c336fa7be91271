//! HTTPS, with certificates that change. Those in `tests/tls` are for these tests alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::process::{LIMIT, Serving, tiltyard};
use crate::support::secrets;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Makes this pair the server's.
fn use_pair(home: &Path, name: &str) {
    let key = std::fs::read_to_string(file(&format!("{name}.key"))).expect("the key");
    key.lines().filter(|line| !line.starts_with('-')).for_each(secrets::register);
    for end in ["crt", "key"] {
        let (from, to) = (file(&format!("{name}.{end}")), home.join(format!("server.{end}")));
        std::fs::copy(from, to).expect("a copy");
    }
}

/// A client that trusts one of the certificates and nobody else.
fn client(trusted: &str) -> reqwest::Client {
    let pem = std::fs::read(file(&format!("{trusted}.crt"))).expect("the certificate");
    let trusted = reqwest::Certificate::from_pem(&pem).expect("a certificate");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]);
    client.build().expect("a client")
}

const ARGUMENTS: [&str; 7] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--tls-certificate",
    "server.crt",
    "--tls-key",
    "server.key",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_changes_is_taken_up() {
    let home = tempfile::TempDir::with_prefix("tiltyard-tls-").expect("a folder");
    use_pair(home.path(), "first");
    let mut serving = Serving::start(tiltyard(home.path(), &ARGUMENTS));
    assert!(serving.base.starts_with("https://"), "{}", serving.line);
    let url = format!("{}/healthz", serving.base);
    let well = async |trusted: &str| {
        let answer = client(trusted).get(&url).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    };
    assert!(well("first").await);
    assert!(!well("second").await, "any certificate would do");
    let plain = url.replace("https://", "http://");
    assert!(client("first").get(&plain).send().await.is_err(), "it speaks without TLS too");
    // One file is there before the other: until both fit, the old pair serves.
    std::fs::copy(file("second.crt"), home.path().join("server.crt")).expect("a copy");
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(well("first").await);
    use_pair(home.path(), "second");
    let changed = Instant::now();
    while !well("second").await {
        assert!(changed.elapsed() < LIMIT, "the new certificate is not taken up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!well("first").await);
    let status = tokio::task::spawn_blocking(move || serving.terminate()).await.expect("a task");
    assert!(status.success());
}

#[test]
fn files_that_cannot_be_used_are_refused_at_the_start() {
    let home = tempfile::TempDir::with_prefix("tiltyard-tls-").expect("a folder");
    for (certificate, key) in
        [("first.crt", "second.key"), ("first.key", "first.crt"), ("no", "no")]
    {
        let (certificate, key) = (file(certificate), file(key));
        let mut command = tiltyard(home.path(), &["serve", "--listen", "127.0.0.1:0"]);
        command.arg("--tls-certificate").arg(&certificate).arg("--tls-key").arg(&key);
        let told = command.output().expect("the binary runs");
        assert!(!told.status.success());
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.contains("certificate") && told.contains("cannot be used"), "{told}");
    }
    let told = tiltyard(home.path(), &["serve", "--tls-key", "x"]).output().expect("it runs");
    assert!(!told.status.success(), "a key alone is taken");
}
