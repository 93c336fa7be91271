//! nginx before two servers, as `deploy/nginx.conf` sets it up.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::needed;

/// Names an nginx (`scripts/nginx`).
const VARIABLE: &str = "TILTYARD_TEST_NGINX";
const CONFIGURATION: &str = include_str!("../../../deploy/nginx.conf");
/// What else nginx wants to be told. One process, which ends with the test.
const AROUND: &str = "daemon off; master_process off; pid $home/pid; error_log stderr error;
events {}
http {
    access_log off;
    client_body_temp_path $home/body; proxy_temp_path $home/proxy; fastcgi_temp_path $home/fastcgi;
    uwsgi_temp_path $home/uwsgi; scgi_temp_path $home/scgi;
    $configuration
}
";

/// A running nginx, killed when dropped.
pub struct Proxy {
    child: Child,
    /// `http://host:port`.
    pub base: String,
}

/// The program. A missing one fails in CI and is said elsewhere.
pub fn nginx() -> Option<String> {
    needed(VARIABLE, "try what is in deploy/")
}

impl Proxy {
    /// Starts it before servers with these addresses. It may not be up yet.
    pub fn start(nginx: &str, home: &Path, addresses: &[&str]) -> Self {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = probe.local_addr().expect("an address").to_string();
        drop(probe);
        let home = home.join(format!("nginx-{}", address.replace(':', "-")));
        std::fs::create_dir_all(&home).expect("a folder for nginx");
        let servers: Vec<String> =
            addresses.iter().map(|address| format!("server {address};")).collect();
        let changed = |text: &str, from: &str, to: &str| {
            assert!(text.contains(from), "deploy/nginx.conf has no {from}");
            text.replace(from, to)
        };
        let text = changed(CONFIGURATION, "server tiltyard:2333;", &servers.join(" "));
        let text = changed(&text, "listen 8080;", &format!("listen {address};"));
        let text = AROUND.replace("$configuration", &text);
        let file = home.join("nginx.conf");
        std::fs::write(&file, text.replace("$home", &home.display().to_string())).expect("a file");
        let child = Command::new(nginx)
            .args(["-e", "stderr", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{nginx} does not start: {error}"));
        Self { child, base: format!("http://{address}") }
    }

    /// Fails if it ended.
    pub fn fail_if_ended(&mut self) {
        let ended = self.child.try_wait().expect("the state of nginx");
        assert!(ended.is_none(), "nginx ended: {ended:?}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
