//! One running server: its own folder, database, port and threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tiltyard::config::Settings;
use tiltyard::server::Parts;
use tokio::sync::oneshot;

use super::proxy::{Proxy, nginx};
use super::{Database, Reply, needed, secrets};

pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
const START_LIMIT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(5);
const HTTP: &str = "http://";
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
pub enum Backend {
    Sqlite,
    Postgres,
    /// PostgreSQL, with the lake in an object store. [`TestServer::lake`] is empty then.
    S3,
}

/// Names the S3 server of the tests (`scripts/with-s3`), as `http://host:port`.
const S3_VARIABLE: &str = "TILTYARD_TEST_S3";
/// It takes any, and the tests look for this one where no secret may be. `scripts/with-s3` has it too.
const S3_SECRET: &str = "tests-Vk2mR8sYw4";
/// The bucket that it has.
const BUCKET: &str = "lake";
/// When set, every server is two of them behind a proxy.
const REPLICAS_VARIABLE: &str = "TILTYARD_TEST_REPLICAS";

type Configure = Arc<dyn Fn(&mut Settings) + Send + Sync>;

/// The real `server::run` on threads of its own, taken down when dropped.
pub struct TestServer {
    base: String,
    client: Client,
    running: Running,
    configure: Configure,
    parts: Parts,
    home: Arc<Home>,
    /// With another server that it shares the requests with.
    front: Option<Front>,
    /// The API key that is sent with every request.
    key: Option<String>,
}

/// A proxy, and the server behind it that is not the first.
struct Front {
    proxy: Proxy,
    running: Running,
}

/// What servers that serve one catalog share; the last of them takes it away.
struct Home {
    database: Database,
    folder: TempDir,
    /// The S3 server that has the lake instead of the folder.
    s3: Option<String>,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.database.remove_blocking();
    }
}

impl TestServer {
    /// `None` when there is no server for `backend`, which [`Database::create`] has then said.
    pub async fn spawn(backend: Backend) -> Option<Self> {
        Self::spawn_with(backend, |_| {}).await
    }

    /// As [`Self::spawn`]; `configure` may change the settings, which already name the fresh
    /// database and the fresh lake.
    pub async fn spawn_with(
        backend: Backend,
        configure: impl Fn(&mut Settings) + Send + Sync + 'static,
    ) -> Option<Self> {
        Self::spawn_of(backend, Parts::default(), configure).await
    }

    /// As [`Self::spawn_with`], of these parts.
    pub async fn spawn_of(
        backend: Backend,
        parts: Parts,
        configure: impl Fn(&mut Settings) + Send + Sync + 'static,
    ) -> Option<Self> {
        // Before a database is made that nobody would take away.
        let s3 = match backend {
            Backend::S3 => Some(needed(S3_VARIABLE, "test object stores too")?),
            Backend::Sqlite | Backend::Postgres => None,
        };
        let home = TempDir::with_prefix("tiltyard-it-").expect("a temporary folder");
        let database = Database::create(backend, home.path()).await?;
        let home = Arc::new(Home { database, folder: home, s3 });
        let mut server = Self::start(home, parts, Arc::new(configure)).await;
        if std::env::var_os(REPLICAS_VARIABLE).is_some() {
            server.put_behind_proxy(&nginx()?).await;
        }
        Some(server)
    }

    /// Two servers behind a proxy that gives each request to the other one.
    pub async fn replicas(backend: Backend) -> Option<Self> {
        let nginx = nginx()?;
        let mut server = Self::spawn(backend).await?;
        if server.front.is_none() {
            server.put_behind_proxy(&nginx).await;
        }
        Some(server)
    }

    async fn put_behind_proxy(&mut self, nginx: &str) {
        let settings = settings(&self.home, self.configure.as_ref());
        let other = Running::start(self.parts.clone(), settings);
        self.base = other.base.clone();
        self.wait_until_up().await;
        let addresses = [&self.running.base, &other.base].map(|base| base.trim_start_matches(HTTP));
        let proxy = Proxy::start(nginx, self.home(), &addresses);
        self.base = proxy.base.clone();
        self.front = Some(Front { proxy, running: other });
        self.wait_until_up().await;
    }

    /// Stops one of two servers behind a proxy.
    pub fn stop_replica(&mut self, number: usize) {
        let front = self.front.as_mut().expect("a server behind a proxy");
        let replica = if number == 0 { &mut self.running } else { &mut front.running };
        assert!(replica.stop(), "the server did not stop");
    }

    /// A server whose callers have to say who they are. What is sent to it is sent by its first admin.
    pub async fn guarded(backend: Backend) -> Option<Self> {
        Self::guarded_with(backend, |_| {}).await
    }

    /// As [`Self::guarded`], with other settings too.
    pub async fn guarded_with(
        backend: Backend,
        configure: impl Fn(&mut Settings) + Send + Sync + 'static,
    ) -> Option<Self> {
        let configure = move |settings: &mut Settings| {
            settings.auth = true;
            configure(settings);
        };
        let mut server = Self::spawn_with(backend, configure).await?;
        let key = server.running.first_key.recv_timeout(START_LIMIT).expect("the server starts");
        let key = key.expect("the first key");
        secrets::register_key(&key);
        server.key = Some(key);
        Some(server)
    }

    /// The key that is sent with every request, if there is one.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Another server of the same database and lake.
    pub async fn beside(&self) -> Self {
        let mut other = self.beside_of(Parts::default()).await;
        other.key.clone_from(&self.key);
        other
    }

    /// As [`Self::beside`], of these parts.
    pub async fn beside_of(&self, parts: Parts) -> Self {
        Self::start(self.home.clone(), parts, self.configure.clone()).await
    }

    async fn start(home: Arc<Home>, parts: Parts, configure: Configure) -> Self {
        secrets::watch_log();
        let running = Running::start(parts.clone(), settings(&home, configure.as_ref()));
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(180))
            .build()
            .expect("an HTTP client");
        let base = running.base.clone();
        let mut server =
            Self { base, client, running, configure, parts, home, front: None, key: None };
        server.wait_until_up().await;
        server
    }

    /// Stops the server and starts it again on the same database and lake.
    pub async fn restart(&mut self) {
        assert!(self.running.stop(), "the server did not stop");
        let front = self.front.take();
        let was_behind_proxy = front.is_some();
        if let Some(mut front) = front {
            assert!(front.running.stop(), "the server beside it did not stop");
        }
        let settings = settings(&self.home, self.configure.as_ref());
        self.running = Running::start(self.parts.clone(), settings);
        self.base = self.running.base.clone();
        self.wait_until_up().await;
        if let (true, Some(nginx)) = (was_behind_proxy, nginx()) {
            self.put_behind_proxy(&nginx).await;
        }
    }

    async fn wait_until_up(&mut self) {
        let started = Instant::now();
        let url = format!("{}/healthz", self.base);
        loop {
            if let Ok(response) = self.client.get(&url).send().await
                && response.status() == 200
            {
                return;
            }
            self.running.fail_if_ended();
            if let Some(front) = &mut self.front {
                front.proxy.fail_if_ended();
            }
            assert!(started.elapsed() < START_LIMIT, "the server is not up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `http://host:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn address(&self) -> &str {
        self.base.trim_start_matches(HTTP)
    }

    pub fn database(&self) -> &Database {
        &self.home.database
    }

    /// The folder that holds the lake; whatever else is in it is outside the storage root.
    pub fn home(&self) -> &Path {
        self.home.folder.path()
    }

    /// The storage root.
    pub fn lake(&self) -> PathBuf {
        self.home.folder.path().join("lake")
    }

    /// Every file under the storage root.
    pub fn files(&self) -> Vec<PathBuf> {
        files_under(&self.lake())
    }

    /// Asks the server to stop, as SIGTERM does.
    pub fn begin_shutdown(&mut self) {
        self.running.shutdown = None;
        if let Some(front) = &mut self.front {
            front.running.shutdown = None;
        }
    }

    /// Waits for the end of a shutdown; false when it takes too long.
    pub fn wait_until_down(&mut self) -> bool {
        self.running.stop()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.bare_request(method, path);
        match &self.key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    }

    /// A request without a key.
    pub fn bare_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let request = request.build().expect("a request");
        let url = request.url().to_string();
        let path = url.trim_start_matches(&self.base).to_string();
        let body = request.body().and_then(|body| body.as_bytes());
        let body = body.filter(|body| body.len() < 64_000).unwrap_or_default();
        let mut said = format!("{} {}", decoded(&url), String::from_utf8_lossy(body));
        for value in request.headers().values() {
            said.push_str(value.to_str().unwrap_or_default());
        }
        for name in ["authorization", "x-api-key"] {
            let sent = request.headers().get(name).and_then(|value| value.to_str().ok());
            sent.into_iter().for_each(secrets::register_credential);
        }
        let response = self.client.execute(request).await;
        let response = response.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        assert!(headers.contains_key("x-request-id"), "{path}: no x-request-id");
        let raw = response.bytes().await;
        let raw = raw.unwrap_or_else(|error| panic!("{path}: the body broke off: {error:?}"));
        let kind = headers.get("content-type").map(|kind| kind.as_bytes());
        let is_json = kind.is_some_and(|kind| kind.starts_with(b"application/json"));
        let body = if is_json && !raw.is_empty() {
            serde_json::from_slice(&raw).unwrap_or_else(|error| panic!("{path}: {error}"))
        } else {
            Value::Null
        };
        secrets::assert_none_answered(&path, &headers, &raw, &body);
        Reply {
            status,
            headers,
            body,
            raw: raw.to_vec(),
            path,
            said,
            home: self.home.folder.path().display().to_string(),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    /// Neither body nor content type.
    pub async fn post_empty(&self, path: &str) -> Reply {
        self.send(self.request(Method::POST, path)).await
    }

    pub async fn post_arrow(&self, path: &str, stream: Vec<u8>) -> Reply {
        self.send(self.arrow_request(path).body(stream)).await
    }

    /// An Arrow upload that still waits for its body.
    pub fn arrow_request(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path).header("content-type", ARROW_STREAM)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let mut stopped = self.running.stop();
        if let Some(mut front) = self.front.take() {
            stopped &= front.running.stop();
        }
        if !std::thread::panicking() {
            assert!(stopped, "the server did not stop within {STOP_LIMIT:?}");
            secrets::assert_none_found();
        }
    }
}

fn settings(home: &Home, configure: &(dyn Fn(&mut Settings) + Send + Sync)) -> Settings {
    let lake = home.folder.path().join("lake");
    std::fs::create_dir_all(&lake).expect("the lake's folder");
    let mut settings = Settings {
        listen: "127.0.0.1:0".to_string(),
        database: home.database.url().to_string(),
        storage_root: lake.display().to_string(),
        grace: GRACE,
        // Tests that look into the lake look for what is left; others set a time.
        drop_retention: Duration::ZERO,
        ..Settings::default()
    };
    if let Some(endpoint) = &home.s3 {
        let prefix = home.folder.path().file_name().expect("a name").to_string_lossy();
        settings.storage_root = format!("s3://{BUCKET}/{prefix}");
        let options = [
            ("endpoint", endpoint.as_str()),
            ("allow_http", "true"),
            ("region", "us-east-1"),
            ("access_key_id", "tests"),
            ("secret_access_key", S3_SECRET),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
        settings.storage_options.extend(options);
    }
    configure(&mut settings);
    let profiles = settings.storage_profiles.values().map(|profile| &profile.storage_options);
    std::iter::once(&settings.storage_options).chain(profiles).for_each(secrets::register_options);
    settings
}

struct Running {
    base: String,
    /// What the server says once it serves: the first API key of the catalog, if it made that.
    first_key: mpsc::Receiver<Option<String>>,
    /// Dropping it asks the server to stop.
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(parts: Parts, settings: Settings) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        socket.set_nonblocking(true).expect("a non-blocking socket");
        let base = format!("http://{}", socket.local_addr().expect("an address"));
        let (shutdown, signal) = oneshot::channel::<()>();
        let (sender, first_key) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let outcome = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(socket).expect("a listener");
                let stopped = async move {
                    let _ = signal.await;
                };
                let ready = |key: Option<&str>| {
                    let _ = sender.send(key.map(str::to_owned));
                };
                tiltyard::server::run_with(parts, settings, listener, stopped, ready).await
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
            if let Err(error) = outcome {
                panic!("the server ended with an error: {error:?}");
            }
        });
        Self { base, first_key, shutdown: Some(shutdown), thread: Some(thread) }
    }

    fn fail_if_ended(&mut self) {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            let ended = self.thread.take().map(JoinHandle::join);
            panic!("the server ended while starting: {ended:?}");
        }
    }

    /// True when the server has ended in time and without a panic.
    fn stop(&mut self) -> bool {
        self.shutdown = None;
        let Some(thread) = self.thread.take() else {
            return true;
        };
        let asked = Instant::now();
        while !thread.is_finished() {
            if asked.elapsed() > STOP_LIMIT {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().is_ok()
    }
}

/// A URL with its percent-encoding undone.
fn decoded(url: &str) -> String {
    let mut bytes = Vec::with_capacity(url.len());
    let mut rest = url.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let hex = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(hex) if byte == b'%' => {
                bytes.push(hex);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every file under `folder`, sorted; none when there is no such folder.
pub fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
