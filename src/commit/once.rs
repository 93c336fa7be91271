//! Exactly once: a request that carries a key takes effect once, however often it is sent.
//!
//! The key is an `Idempotency-Key`, bound to the caller, the route and the hash of the body; the
//! `x-request-id` of a LanceDB client, which sends it again with the same request; or a multipart
//! write that is completed. A UUID is derived from it, the mark, and travels in the manifest of every
//! version that the request makes: as the id of a transaction of our own planning, else as one of its
//! properties. So after a crash between the manifest and the answer a retry finds what landed by
//! looking at storage ([`Engine::find_marked`]), and answers what the first try would have.
//!
//! What changes only SQL leaves no mark. Its answer is kept right after it: when the server dies in
//! between, a retry may be told that what it makes is there already, or that what it takes away is
//! gone. It is never done twice.
//!
//! Two may hold a key, one after the other, when the first is frozen for longer than its lease and
//! then goes on. Just before each put it is asked whether the key is still held (the fence). For what
//! is left of the time until the put storage decides: the first puts a version that stands already,
//! or puts it before the second, which looks for the mark in every version that it would build on.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{Engine, jitter};
use crate::catalog::idempotency;
use crate::error::{Error, Result};
use crate::model::{Caller, Mark, StreamKey};

pub(super) use crate::model::Attempt;

/// How long a request that holds a key is taken to be alive without a sign of life.
const LEASE: Duration = Duration::from_secs(30);
/// How often it gives one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the answer to a LanceDB client is kept: it tries again for some minutes at most.
const KEPT_FOR_REQUEST: Duration = Duration::from_secs(10 * 60);
/// How long a retry waits for the first request before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long one of a LanceDB client waits, which gives up after three answers that it should come
/// again, and after 300 seconds without one.
const PATIENCE_FOR_LANCEDB: Duration = Duration::from_secs(240);
/// How often a waiting retry looks.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The name space of transaction ids that are derived from keys.
const DERIVED: Uuid = Uuid::from_u128(0x7469_6c74_7961_7264_8000_6b65_7973_0001);

/// The key of a request that must take effect once.
#[derive(Debug, Clone)]
pub struct Once {
    key_hash: String,
    body_hash: String,
    kept: Duration,
    patience: Duration,
    /// Who holds the key, among those that were sent the same request.
    holder: Uuid,
}

impl Once {
    /// An `Idempotency-Key`; the same key with another body is refused.
    pub fn new(caller: &Caller, route: &str, key: &str, body: &[u8]) -> Self {
        Self::of_key(&format!("{}\u{1f}{route}\u{1f}{key}", caller.name()), body)
    }

    /// An `Idempotency-Key`, with all that it is bound to besides the body.
    pub fn of_key(bound: &str, body: &[u8]) -> Self {
        Self::with_body_hash(bound, hash(body))
    }

    /// The key of a request whose body was a stream.
    ///
    /// # Errors
    /// `Internal` before the end of the body.
    pub(super) fn of_stream(key: &StreamKey) -> Result<Self> {
        let body_hash = key.body_hash().ok_or_else(|| {
            Error::internal("taking the key of a request", "its body has not come yet")
        })?;
        Ok(Self::with_body_hash(key.bound(), body_hash.to_owned()))
    }

    fn with_body_hash(bound: &str, body_hash: String) -> Self {
        Self {
            key_hash: hash(bound.as_bytes()),
            body_hash,
            kept: KEPT,
            patience: PATIENCE,
            holder: Uuid::now_v7(),
        }
    }

    /// The `x-request-id` of a request that a LanceDB client may send again. `table` is the table,
    /// or whatever else the request is about, with its database. With another body it is simply
    /// another request.
    pub fn of_request(
        caller: &Caller,
        table: &str,
        route: &str,
        request_id: &str,
        body: &[u8],
    ) -> Self {
        let body_hash = hash(body);
        let parts = ["x-request-id", caller.name(), table, route, request_id, &body_hash];
        // As JSON, since none of them is free of any separator.
        let bound = serde_json::json!(parts).to_string();
        Self {
            key_hash: hash(bound.as_bytes()),
            body_hash,
            kept: KEPT_FOR_REQUEST,
            patience: PATIENCE_FOR_LANCEDB,
            holder: Uuid::now_v7(),
        }
    }

    /// The completion of a multipart write, whoever asks for it.
    pub(super) fn of_session(session: Uuid) -> Self {
        let bound = format!("multipart write\u{1f}{session}");
        Self {
            key_hash: hash(bound.as_bytes()),
            body_hash: String::new(),
            kept: KEPT,
            patience: PATIENCE_FOR_LANCEDB,
            holder: Uuid::now_v7(),
        }
    }

    pub(super) fn hash_of(bound: &str) -> String {
        hash(bound.as_bytes())
    }

    /// The same UUID for every try.
    pub(super) fn transaction_id(&self) -> Uuid {
        Uuid::new_v5(&DERIVED, self.key_hash.as_bytes())
    }

    pub(super) fn key_hash(&self) -> &str {
        &self.key_hash
    }

    pub(super) fn holder(&self) -> Uuid {
        self.holder
    }

    /// How long the answer is kept.
    pub(super) fn kept(&self) -> Duration {
        self.kept
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl Engine {
    /// Does the work of a request once: a request with the same key gets the answer that the first
    /// one got, and waits for it while the first is at work. An error is no answer: the next try
    /// does the work anew, and finds what the first one landed by the mark.
    ///
    /// The future must not be dropped before it ends, so it belongs into a task of its own.
    ///
    /// # Errors
    /// What the work ends with; `ServiceUnavailable` while the first request is still at work.
    pub async fn once<T, W, F>(&self, once: &Once, work: W) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        W: FnOnce(Arc<Mark>) -> F,
        F: Future<Output = Result<T>>,
    {
        let attempt = match self.take_once(once).await? {
            Ok(attempt) => attempt,
            Err(answer) => return Ok(answer),
        };
        let work = async { work(self.mark(once, attempt).await?).await };
        let answer = self.while_alive(Some(once), work).await?;
        // What was done is done: that it cannot be kept is no failure of the request.
        if let Err(error) = self.keep_answer(once, &answer).await {
            tracing::error!(%error, "could not keep an answer; a retry has to look for it");
        }
        Ok(answer)
    }

    /// As [`Self::once`], for a request whose body was a stream that has ended; for one without a
    /// key the work is simply done. What the work is given is the caller with the mark of the
    /// request.
    ///
    /// # Errors
    /// As [`Self::once`].
    pub(super) async fn once_received<T, W, F>(&self, caller: &Caller, work: W) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        W: FnOnce(Caller) -> F,
        F: Future<Output = Result<T>>,
    {
        let Some(key) = caller.key() else { return work(caller.clone()).await };
        let once = Once::of_stream(key)?;
        self.once(&once, |mark| work(caller.clone().marked(mark))).await
    }

    /// What a request that holds the key leaves in the versions that it makes.
    pub(super) async fn mark(&self, once: &Once, attempt: Attempt) -> Result<Arc<Mark>> {
        let since_us = match attempt {
            Attempt::First => self.now_us(),
            Attempt::AfterAnother => {
                let mut tx = self.catalog.read().await?;
                let known = idempotency::find_key(&mut tx, &once.key_hash).await?;
                known.map_or_else(|| self.now_us(), |known| known.taken_at_us)
            }
        };
        let (id, key_hash, holder) = (once.transaction_id(), once.key_hash.clone(), once.holder);
        Ok(Arc::new(Mark { id, key_hash, holder, attempt, since_us }))
    }

    pub(super) async fn keep_answer<T: Serialize>(&self, once: &Once, answer: &T) -> Result<()> {
        let answer = Self::answer_to_keep(answer)?;
        let mut tx = self.catalog.write().await?;
        idempotency::finish_key(&mut tx, &once.key_hash, &answer, self.after_us(once.kept)).await?;
        tx.commit().await
    }

    /// The caller, with the mark of a request that holds a key.
    pub(super) async fn marked_by(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        attempt: Attempt,
    ) -> Result<Caller> {
        match once {
            Some(once) => Ok(caller.clone().marked(self.mark(once, attempt).await?)),
            None => Ok(caller.clone()),
        }
    }

    /// Takes the key, or answers what the request that had it first was answered.
    ///
    /// # Errors
    /// `InvalidInput` for the same key with another body; `ServiceUnavailable` while the first
    /// request is still at work.
    pub(super) async fn take_once<T: DeserializeOwned>(
        &self,
        once: &Once,
    ) -> Result<Result<Attempt, T>> {
        let deadline = tokio::time::Instant::now() + once.patience;
        let mut pause = PAUSE;
        loop {
            let known = {
                let mut tx = self.catalog.read().await?;
                idempotency::find_key(&mut tx, &once.key_hash).await?
            };
            if let Some(known) = &known {
                if known.body_hash != once.body_hash {
                    return Err(Error::invalid_input(
                        "this Idempotency-Key was used with another body",
                    ));
                }
                if let Some(response) = &known.response {
                    let answer = serde_json::from_str(response)
                        .map_err(|error| Error::internal("reading a kept answer", error))?;
                    return Ok(Err(answer));
                }
            }
            let is_held = known.as_ref().is_some_and(|known| known.lease_us > self.now_us());
            let taken = !is_held && {
                let mut tx = self.catalog.write().await?;
                let taken = idempotency::take_key(
                    &mut tx,
                    &once.key_hash,
                    &once.body_hash,
                    once.holder,
                    self.now_us(),
                    self.after_us(LEASE),
                    self.after_us(once.kept),
                )
                .await?;
                tx.commit().await?;
                taken
            };
            if taken {
                let attempt = if known.is_some() { Attempt::AfterAnother } else { Attempt::First };
                return Ok(Ok(attempt));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::ServiceUnavailable(
                    "a request with this key is still at work; try again".into(),
                ));
            }
            // Many may wait for the keys of a server that was killed.
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Does the work while giving signs of life, and lets the key go when nothing was changed.
    /// When the outcome is unknown the key stays taken by nobody: the next try looks at storage.
    pub(super) async fn while_alive<T>(
        &self,
        once: Option<&Once>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(once) = once else { return work.await };
        // A task of its own: the work may hold the row that the sign of life waits for.
        let (engine, held) = (self.in_background(), once.clone());
        let signs = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                engine.extend_lease(&held, engine.after_us(LEASE)).await;
            }
        }));
        let outcome = work.await;
        drop(signs);
        match &outcome {
            Ok(_) => {}
            Err(error) if error.is_certainly_not_committed() => {
                if let Err(error) = self.release(once).await {
                    tracing::warn!(%error, "could not release an idempotency key");
                }
            }
            Err(_) => self.extend_lease(once, 0).await,
        }
        outcome
    }

    /// The answer in the form in which it is kept.
    pub(super) fn answer_to_keep<T: Serialize>(answer: &T) -> Result<String> {
        serde_json::to_string(answer).map_err(|error| Error::internal("keeping an answer", error))
    }

    async fn extend_lease(&self, once: &Once, lease_us: i64) {
        let extended = async {
            let mut tx = self.catalog.write().await?;
            idempotency::extend_lease(&mut tx, &once.key_hash, once.holder, lease_us).await?;
            tx.commit().await
        };
        if let Err(error) = extended.await {
            tracing::warn!(%error, "could not extend an idempotency key");
        }
    }

    pub(super) async fn release(&self, once: &Once) -> Result<()> {
        let mut tx = self.catalog.write().await?;
        idempotency::release_key(&mut tx, &once.key_hash, once.holder).await?;
        tx.commit().await
    }
}
