//! Who is calling, and may they.
//!
//! What is known of keys and grants is read whole, and read again when its number in the catalog
//! changed. That is looked at before anything is changed, and else once a second: what was granted
//! holds at once, since a refusal looks again first, and who was let read is let read for a second
//! more.

mod issuer_keys;
mod issuers;
mod keys;
mod known;
mod manage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::catalog::{Catalog, access};
use crate::error::{Error, Result};
use crate::model::{ApiKey, Caller, Clock, Event, Grant, NamespaceId, Object, Role, TableId};

pub use issuers::Issuer;
use issuers::Issuers;
pub use known::Seen;
use known::{Decision, Known};
pub use manage::{FIRST_ADMIN, Keeper};

/// For how long it is not looked whether keys or grants changed.
const FRESH: Duration = Duration::from_secs(1);
/// How often it is noted which keys were used.
const NOTE_USE: Duration = Duration::from_secs(60);

/// Decides who may do what; cheap to clone.
#[derive(Clone)]
pub struct Access(Option<Arc<Inner>>);

struct Inner {
    catalog: Catalog,
    clock: Clock,
    issuers: Issuers,
    known: RwLock<(Arc<Known>, Instant)>,
    /// One looks at a time.
    looking: tokio::sync::Mutex<()>,
    /// When keys were used last, until it is noted.
    used: Mutex<HashMap<String, i64>>,
}

impl Access {
    /// Everybody may do everything.
    pub fn open() -> Self {
        Self(None)
    }

    /// Whoever calls has to say who they are, by a key or by a token of one of these issuers, and may
    /// do what they were granted.
    ///
    /// # Errors
    /// `InvalidInput` for an issuer that cannot be meant; `ServiceUnavailable` when the catalog does not
    /// answer.
    pub async fn guarded(catalog: Catalog, clock: Clock, issuers: Vec<Issuer>) -> Result<Self> {
        let known = (Arc::new(Known::default()), Instant::now());
        let inner = Inner {
            catalog,
            clock,
            issuers: Issuers::open(issuers).await?,
            known: RwLock::new(known),
            looking: tokio::sync::Mutex::default(),
            used: Mutex::default(),
        };
        inner.look().await?;
        Ok(Self(Some(Arc::new(inner))))
    }

    /// Whether callers have to say who they are.
    pub fn is_guarded(&self) -> bool {
        self.0.is_some()
    }

    /// Finds who calls.
    ///
    /// # Errors
    /// `Unauthenticated` without a credential, and for one that is not good.
    pub async fn authenticate(&self, credential: Option<&str>) -> Result<Caller> {
        let Some(inner) = &self.0 else { return Ok(Caller::anonymous()) };
        let needed = || {
            Error::Unauthenticated(
                "say who you are: send an API key as x-api-key, or one or a token as \
                 Authorization: Bearer"
                    .into(),
            )
        };
        let credential = credential.ok_or_else(needed)?;
        match inner.issuers.take(credential) {
            true => inner.issuers.caller(credential).await,
            false => inner.caller_of_key(credential).await,
        }
    }

    /// Makes sure that a caller has a role on something.
    ///
    /// # Errors
    /// `PermissionDenied`; for what the caller may not see, what would be said if it were not there.
    pub async fn require(&self, caller: &Caller, role: Role, object: &Object) -> Result<()> {
        let decide = |known: &Known| match known.decide(caller, role, object) {
            Decision::Allowed => Ok(()),
            Decision::Forbidden => Err(Error::PermissionDenied(format!(
                "'{caller}' would need the role '{}' on {}",
                role.as_str(),
                shown(object)
            ))),
            Decision::Unseen => Err(not_found(object)),
        };
        self.decide(decide).await
    }

    /// Looks at what is known now. To be done before a caller is let change anything.
    pub async fn look_again(&self) -> Result<()> {
        match &self.0 {
            Some(inner) => inner.look().await.map(drop),
            None => Ok(()),
        }
    }

    /// Makes sure that a caller may know of a namespace: that there is something in it that they may
    /// see.
    ///
    /// # Errors
    /// `NamespaceNotFound`.
    pub async fn require_sight(&self, caller: &Caller, id: &NamespaceId) -> Result<()> {
        let decide = |known: &Known| match known.sees_namespace(caller, id) {
            true => Ok(()),
            false => Err(Error::NamespaceNotFound(id.clone())),
        };
        self.decide(decide).await
    }

    /// What a caller sees of the children of a namespace.
    pub async fn seen_in(&self, caller: &Caller, id: &NamespaceId) -> Result<Seen> {
        match &self.0 {
            None => Ok(Seen::All),
            // What was granted a moment ago is in the list.
            Some(inner) => match inner.known().await?.seen_in(caller, id) {
                Seen::All => Ok(Seen::All),
                Seen::Only { .. } => Ok(inner.look().await?.seen_in(caller, id)),
            },
        }
    }

    /// Answers for each of some tables whether a caller sees it.
    pub async fn sees_tables(&self, caller: &Caller, ids: &[&TableId]) -> Result<Vec<bool>> {
        let Some(inner) = &self.0 else { return Ok(vec![true; ids.len()]) };
        let known = inner.known().await?;
        let sees = |id: &&TableId| known.role_on_table(caller, id).is_some();
        Ok(ids.iter().map(sees).collect())
    }

    /// Answers for each of some events whether a caller may know of it: what happened to what they see,
    /// but of refusals, keys and grants only their own and those on what they are admin of.
    pub async fn sees_events(
        &self,
        caller: &Caller,
        events: impl Iterator<Item = &Event>,
    ) -> Result<Vec<bool>> {
        let Some(inner) = &self.0 else { return Ok(events.map(|_| true).collect()) };
        let known = inner.known().await?;
        let sees = |event: &Event| {
            let least = if event.kind.is_of_access() { Role::Admin } else { Role::Reader };
            event.principal == caller.name()
                || known.role_on(caller, &event.object).is_some_and(|role| role >= least)
        };
        Ok(events.map(sees).collect())
    }

    /// The grants that a caller may know of: those on what they are admin of, and their own.
    pub async fn grants(&self, caller: &Caller, all: Vec<Grant>) -> Result<Vec<Grant>> {
        let Some(inner) = &self.0 else { return Ok(all) };
        let known = inner.look().await?;
        let mut shown = all;
        shown.retain(|grant| {
            caller.is(&grant.principal) || known.role_on(caller, &grant.object) == Some(Role::Admin)
        });
        Ok(shown)
    }

    /// Whether a caller manages something, and so whatever they make in it.
    pub async fn manages(&self, caller: &Caller, object: &Object) -> Result<bool> {
        let Some(inner) = &self.0 else { return Ok(true) };
        Ok(inner.known().await?.role_on(caller, object) >= Some(Role::Manager))
    }

    /// The role that a caller has on something at this moment, if any.
    pub async fn role_now(&self, caller: &Caller, object: &Object) -> Result<Option<Role>> {
        let Some(inner) = &self.0 else { return Ok(Some(Role::Admin)) };
        Ok(inner.look().await?.role_on(caller, object))
    }

    /// # Errors
    /// `Unsupported` where callers need not say who they are.
    fn keeper<'a>(&'a self, caller: &'a Caller) -> Result<Keeper<'a>> {
        let inner = self.0.as_ref().ok_or_else(|| {
            Error::Unsupported("this server runs without authentication; see --auth".into())
        })?;
        Ok(Keeper { catalog: &inner.catalog, by: caller, now_us: inner.clock.now_us() })
    }

    /// As [`Keeper::create_key`].
    pub async fn create_key(
        &self,
        principal: &str,
        description: &str,
        expires_in: Option<Duration>,
        caller: &Caller,
    ) -> Result<(String, ApiKey)> {
        self.keeper(caller)?.create_key(principal, description, expires_in).await
    }

    /// As [`Keeper::rotate_key`].
    pub async fn rotate_key(
        &self,
        id: &str,
        overlap: Duration,
        caller: &Caller,
    ) -> Result<(String, ApiKey)> {
        let made = self.keeper(caller)?.rotate_key(id, overlap).await?;
        self.look_again().await?;
        Ok(made)
    }

    /// As [`Keeper::delete_key`]; from the answer on, this server takes it no more.
    pub async fn delete_key(&self, id: &str, caller: &Caller) -> Result<bool> {
        let gone = self.keeper(caller)?.delete_key(id).await?;
        self.look_again().await?;
        Ok(gone)
    }

    /// As [`Keeper::grant`], by an admin of it.
    ///
    /// # Errors
    /// As [`Self::require`], too.
    pub async fn grant(
        &self,
        principal: &str,
        role: Role,
        object: &Object,
        caller: &Caller,
    ) -> Result<()> {
        let keeper = self.keeper(caller)?;
        self.require(caller, Role::Admin, object).await?;
        keeper.grant(principal, role, object).await?;
        self.look_again().await
    }

    /// As [`Keeper::revoke`], by an admin of it; from the answer on it holds no more at this server.
    ///
    /// # Errors
    /// As [`Self::require`], too.
    pub async fn revoke(&self, principal: &str, object: &Object, caller: &Caller) -> Result<bool> {
        let keeper = self.keeper(caller)?;
        self.require(caller, Role::Admin, object).await?;
        let gone = keeper.revoke(principal, object).await?;
        self.look_again().await?;
        Ok(gone)
    }

    async fn decide(&self, decide: impl Fn(&Known) -> Result<()>) -> Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        match decide(&*inner.known().await?) {
            Ok(()) => Ok(()),
            // What was granted a moment ago holds.
            Err(_) => decide(&*inner.look().await?),
        }
    }

    /// Notes now and then which keys were used, until it is dropped.
    pub async fn note_use(&self) {
        let Some(inner) = &self.0 else { return std::future::pending().await };
        loop {
            tokio::time::sleep(NOTE_USE).await;
            if let Err(error) = inner.note_use().await {
                tracing::warn!(%error, "could not note which keys were used");
            }
        }
    }

    /// As [`Self::note_use`], once.
    pub async fn note_use_now(&self) -> Result<()> {
        match &self.0 {
            Some(inner) => inner.note_use().await,
            None => Ok(()),
        }
    }
}

impl Inner {
    /// What is known, which is right but for the last moment.
    async fn known(&self) -> Result<Arc<Known>> {
        let (known, looked) = self.now_known();
        if looked.elapsed() < FRESH { Ok(known) } else { self.look_after(looked).await }
    }

    fn now_known(&self) -> (Arc<Known>, Instant) {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known now.
    async fn look(&self) -> Result<Arc<Known>> {
        self.look_after(Instant::now()).await
    }

    /// What is known at some moment after `since`.
    async fn look_after(&self, since: Instant) -> Result<Arc<Known>> {
        let _one = self.looking.lock().await;
        let (known, looked) = self.now_known();
        if looked > since {
            return Ok(known);
        }
        let began = Instant::now();
        let mut tx = self.catalog.read().await?;
        let epoch = access::epoch(&mut tx).await?;
        let known = if epoch == known.epoch {
            known
        } else {
            let keys = access::list_keys(&mut tx, None).await?;
            let mut grants = access::list_grants(&mut tx, None).await?;
            grants.extend(self.issuers.grants());
            Arc::new(Known::new(epoch, keys, grants))
        };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = (known.clone(), began);
        Ok(known)
    }

    async fn caller_of_key(&self, text: &str) -> Result<Caller> {
        let now_us = self.clock.now_us();
        let found = match keys::check(&*self.known().await?, text, now_us) {
            Ok(found) => found,
            // It may have been made a moment ago.
            Err(_) => keys::check(&*self.look().await?, text, now_us)?,
        };
        let (id, principal) = found;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now_us);
        Ok(Caller::known(principal, Vec::new()))
    }

    async fn note_use(&self) -> Result<()> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        let used: Vec<(String, i64)> = used.into_iter().collect();
        let mut tx = self.catalog.write().await?;
        access::touch_keys(&mut tx, &used).await?;
        tx.commit().await
    }
}

fn not_found(object: &Object) -> Error {
    match object {
        Object::Namespace(id) => Error::NamespaceNotFound(id.clone()),
        Object::Table(id) => Error::TableNotFound(id.clone()),
    }
}

fn shown(object: &Object) -> String {
    match object {
        Object::Namespace(id) if id.is_root() => "the root namespace".into(),
        Object::Namespace(id) => format!("namespace '{id}'"),
        Object::Table(id) => format!("table '{id}'"),
    }
}
