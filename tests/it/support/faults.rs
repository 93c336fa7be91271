//! A store that fails, freezes, or does what it is asked and then says that it failed, at the one
//! step that a test picks.
//!
//! The store stands between a server and its storage. For everything to pass through it the storage
//! root is of the scheme `file-object-store`, which Lance reads and writes as it does an object
//! store: on plain paths it goes past the store. A rule is about the tables of one case, whose names
//! begin with it, so that many cases share a server.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use lance_io::object_store::WrappingObjectStore;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart,
};
use tiltyard::config::Settings;
use tiltyard::server::Parts;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(30);
const SCHEME: &str = "file-object-store://";

/// What happens at the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    FailBefore,
    /// It is done, and the answer is an error.
    FailAfter,
    /// Nothing of the case is done any more until the rule is over, this step first.
    FreezeBefore,
    /// The same, but this step was done.
    FreezeAfter,
    /// This step fails, and every one like it until the rule is over.
    FailAll,
}

/// Which steps count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// What changes storage.
    Writes,
    Reads,
}

/// One request to storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `put`, `get`, `list`, …
    pub what: &'static str,
    /// Within the table's folder.
    pub path: String,
}

impl Step {
    fn steps(&self) -> Steps {
        match self.what {
            "get" | "head" | "list" => Steps::Reads,
            _ => Steps::Writes,
        }
    }

    /// Whether it tells readers where to look first, which no commit depends on.
    pub fn is_hint(&self) -> bool {
        self.path.ends_with("latest_version_hint.json")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.path)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Fired,
    Over,
}

/// The fault of one case, from when it is laid until it is dropped.
pub struct Rule {
    faults: Faults,
    case: String,
    state: watch::Sender<State>,
}

/// Which steps a rule is about.
type IsIt = Box<dyn Fn(&Step) -> bool + Send>;

struct Laid {
    case: String,
    is_it: IsIt,
    /// How many steps are still to come before the one.
    before: usize,
    fault: Fault,
    fired: Option<Step>,
    state: watch::Sender<State>,
}

impl Rule {
    /// The step at which it happened, if it did.
    pub fn fired(&self) -> Option<Step> {
        let laid = self.faults.laid();
        laid.iter()
            .find(|one| one.state.same_channel(&self.state))
            .and_then(|one| one.fired.clone())
    }

    /// Ends this rule, and begins another at that very moment.
    pub fn then(self, is_it: impl Fn(&Step) -> bool + Send + 'static, fault: Fault) -> Self {
        self.faults.lay_at(&self.case, is_it, fault)
    }

    /// Waits until it happened; false when `or` comes first.
    pub async fn fired_or(&self, or: impl Future<Output = ()>) -> bool {
        let mut state = self.state.subscribe();
        let fired = state.wait_for(|state| *state != State::Waiting);
        tokio::select! {
            _ = tokio::time::timeout(PATIENCE, fired) => self.fired().is_some(),
            () = or => self.fired().is_some(),
        }
    }
}

impl Drop for Rule {
    /// What was frozen goes on.
    fn drop(&mut self) {
        self.faults.laid().retain(|one| !one.state.same_channel(&self.state));
        self.state.send_replace(State::Over);
    }
}

/// The faults of one server.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Laid>>>);

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

/// What becomes of one step.
enum Verdict {
    Go,
    Fail(Step),
    DoAndFail(Step),
    Freeze(watch::Receiver<State>),
    DoAndFreeze(watch::Receiver<State>),
}

impl Faults {
    /// The parts of a server whose storage has these faults.
    pub fn parts(&self) -> Parts {
        Parts { storage: Some(Arc::new(self.clone())), ..Parts::default() }
    }

    fn laid(&self) -> MutexGuard<'_, Vec<Laid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a fault at a step on the tables `case_…`, counted from 0 and from now; one at a time.
    pub fn lay(&self, case: &str, steps: Steps, before: usize, fault: Fault) -> Rule {
        self.lay_after(case, Box::new(move |step| step.steps() == steps), before, fault)
    }

    /// Lays a fault at the first step that is like this.
    pub fn lay_at(
        &self,
        case: &str,
        is_it: impl Fn(&Step) -> bool + Send + 'static,
        fault: Fault,
    ) -> Rule {
        self.lay_after(case, Box::new(is_it), 0, fault)
    }

    fn lay_after(&self, case: &str, is_it: IsIt, before: usize, fault: Fault) -> Rule {
        let (state, _) = watch::channel(State::Waiting);
        let laid = Laid {
            case: case.to_string(),
            is_it,
            before,
            fault,
            fired: None,
            state: state.clone(),
        };
        self.laid().push(laid);
        Rule { faults: self.clone(), case: case.to_string(), state }
    }

    fn judge(&self, what: &'static str, path: &Path) -> Verdict {
        let mut laid = self.laid();
        for one in laid.iter_mut() {
            let folder = format!("/{}_", one.case);
            let Some((_, rest)) = path.as_ref().split_once(&folder) else { continue };
            let (_, inside) = rest.split_once('/').unwrap_or_default();
            let step = Step { what, path: inside.to_string() };
            if one.fired.is_some() {
                return match one.fault {
                    Fault::FreezeBefore | Fault::FreezeAfter => {
                        Verdict::Freeze(one.state.subscribe())
                    }
                    Fault::FailAll if (one.is_it)(&step) => Verdict::Fail(step),
                    Fault::FailBefore | Fault::FailAfter | Fault::FailAll => Verdict::Go,
                };
            }
            if !(one.is_it)(&step) {
                return Verdict::Go;
            }
            if one.before > 0 {
                one.before -= 1;
                return Verdict::Go;
            }
            one.fired = Some(step.clone());
            one.state.send_replace(State::Fired);
            return match one.fault {
                Fault::FailBefore | Fault::FailAll => Verdict::Fail(step),
                Fault::FailAfter => Verdict::DoAndFail(step),
                Fault::FreezeBefore => Verdict::Freeze(one.state.subscribe()),
                Fault::FreezeAfter => Verdict::DoAndFreeze(one.state.subscribe()),
            };
        }
        Verdict::Go
    }

    async fn step<T>(
        &self,
        what: &'static str,
        path: &Path,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.judge(what, path) {
            Verdict::Go => work.await,
            Verdict::Fail(step) => Err(failure(&step)),
            Verdict::DoAndFail(step) => {
                work.await?;
                Err(failure(&step))
            }
            Verdict::Freeze(state) => {
                thaw(state).await;
                work.await
            }
            Verdict::DoAndFreeze(state) => {
                let done = work.await;
                thaw(state).await;
                done
            }
        }
    }
}

async fn thaw(mut state: watch::Receiver<State>) {
    // An error says that the rule is gone, which is the same.
    let _ = state.wait_for(|state| *state == State::Over).await;
}

fn failure(step: &Step) -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: format!("the storage of the test failed at {step}").into(),
    }
}

/// Settings for storage in which every step can fail.
pub fn as_object_store(settings: &mut Settings) {
    settings.storage_root = format!("{SCHEME}{}", settings.storage_root);
}

/// The same place as a plain path.
pub fn plain(location: &str) -> &str {
    location.trim_start_matches(SCHEME)
}

impl WrappingObjectStore for Faults {
    fn wrap(&self, _: &str, original: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Faulty { inner: original, faults: self.clone() })
    }

    fn wrap_paginated(
        &self,
        _: &str,
        _: Arc<dyn PaginatedListStore>,
    ) -> Option<Arc<dyn PaginatedListStore>> {
        None
    }
}

#[derive(Clone, Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let work = self.inner.put_opts(location, payload, options);
        self.faults.step("put", location, work).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = self.inner.put_multipart_opts(location, options);
        let inner = self.faults.step("begin", location, work).await?;
        let (faults, location) = (self.faults.clone(), location.clone());
        Ok(Box::new(FaultyUpload { inner, faults, location }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let what = if options.head { "head" } else { "get" };
        self.faults.step(what, location, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.faults.step("get", location, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    store.faults.step("delete", &location, store.inner.delete(&location)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let path = prefix.clone().unwrap_or_default();
            store.faults.step("list", &path, async { Ok(()) }).await?;
            Ok::<_, object_store::Error>(store.inner.list(prefix.as_ref()))
        };
        listed.into_stream().try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        self.faults.step("list", &path, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.step("copy", to, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.faults.step("rename", to, self.inner.rename_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Faults,
    location: Path,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (faults, location) = (self.faults.clone(), self.location.clone());
        let part = self.inner.put_part(data);
        async move { faults.step("part", &location, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let work = self.inner.complete();
        self.faults.step("complete", &self.location, work).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
