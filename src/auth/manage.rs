//! Changing keys and grants: what the operations and the command line have in common.

use std::time::Duration;

use super::keys::new_key;
use crate::catalog::access::{self, Granted};
use crate::catalog::{Catalog, Tx, events, namespaces, tables};
use crate::error::{Error, Result};
use crate::model::{ApiKey, Caller, Event, EventKind, Object, Role, check_principal};

/// Who may do everything on a new catalog.
pub const FIRST_ADMIN: &str = "admin";

/// Keys and grants of a catalog, changed by somebody at some time.
pub struct Keeper<'a> {
    pub catalog: &'a Catalog,
    /// Who is recorded.
    pub by: &'a Caller,
    pub now_us: i64,
}

impl Keeper<'_> {
    /// Makes a key. Answers what is sent as the key, which nobody can ask for again.
    ///
    /// # Errors
    /// `InvalidInput` for what nobody can be called.
    pub async fn create_key(
        &self,
        principal: &str,
        description: &str,
        expires_in: Option<Duration>,
    ) -> Result<(String, ApiKey)> {
        let mut tx = self.catalog.write().await?;
        let made = self.insert_key(&mut tx, principal, description, expires_in).await?;
        tx.commit().await?;
        tracing::info!(key.id = made.1.id, principal, by = %self.by, "made an API key");
        Ok(made)
    }

    async fn insert_key(
        &self,
        tx: &mut Tx,
        principal: &str,
        description: &str,
        expires_in: Option<Duration>,
    ) -> Result<(String, ApiKey)> {
        check_principal(principal)?;
        let made = new_key()?;
        let key = ApiKey {
            id: made.id,
            principal: principal.into(),
            secret_hash: made.secret_hash,
            description: description.into(),
            created_by: self.by.name().into(),
            created_at_us: self.now_us,
            expires_at_us: expires_in.map(|after| self.after_us(after)),
            last_used_us: None,
        };
        access::insert_key(tx, &key).await?;
        let event = self.event(EventKind::KeyCreated);
        self.tell(tx, event.with("key_id", key.id.as_str()).with("principal", principal)).await?;
        Ok((made.text, key))
    }

    /// Something that happens to a key, or to what else is nobody's but the server's.
    fn event(&self, kind: EventKind) -> Event {
        Event::new(kind, Object::root(), self.by, self.now_us)
    }

    async fn tell(&self, tx: &mut Tx, event: Event) -> Result<()> {
        events::insert_event(tx, event).await
    }

    fn after_us(&self, after: Duration) -> i64 {
        self.now_us.saturating_add(i64::try_from(after.as_micros()).unwrap_or(i64::MAX))
    }

    /// Makes another key for the same principal, good for as long as the old one was when it was made.
    /// That one ends after `overlap`.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such key, or it is no longer good.
    pub async fn rotate_key(&self, id: &str, overlap: Duration) -> Result<(String, ApiKey)> {
        let mut tx = self.catalog.write().await?;
        let old = access::find_key(&mut tx, id).await?;
        let old = old.filter(|key| !key.is_expired(self.now_us));
        let old =
            old.ok_or_else(|| Error::invalid_input("there is no such key, or it has ended"))?;
        // As long as the old one was good for when it was made.
        let life_us = old.expires_at_us.map(|expires| expires.saturating_sub(old.created_at_us));
        let life = life_us.map(|us| Duration::from_micros(us.unsigned_abs()));
        let made = self.insert_key(&mut tx, &old.principal, &old.description, life).await?;
        access::expire_key(&mut tx, id, self.after_us(overlap)).await?;
        self.tell(&mut tx, self.event(EventKind::KeyRotated).with("key_id", id)).await?;
        tx.commit().await?;
        tracing::info!(key.id = made.1.id, instead_of = id, by = %self.by, "made an API key");
        Ok(made)
    }

    /// Whether there was such a key.
    pub async fn delete_key(&self, id: &str) -> Result<bool> {
        let mut tx = self.catalog.write().await?;
        let gone = access::delete_key(&mut tx, id).await?;
        if gone {
            self.tell(&mut tx, self.event(EventKind::KeyDeleted).with("key_id", id)).await?;
        }
        tx.commit().await?;
        if gone {
            tracing::info!(key.id = id, by = %self.by, "took an API key away");
        }
        Ok(gone)
    }

    /// Gives a role in place of the one that the principal has there.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `TableNotFound`; `InvalidInput` for what nobody can be called.
    pub async fn grant(&self, principal: &str, role: Role, object: &Object) -> Result<()> {
        check_principal(principal)?;
        let mut tx = self.catalog.write().await?;
        let on = find(&mut tx, object).await?;
        access::put_grant(&mut tx, principal, &on, role, self.by, self.now_us).await?;
        tx.commit().await?;
        let role = role.as_str();
        tracing::info!(principal, role, object = ?object.to_list(), by = %self.by, "granted a role");
        Ok(())
    }

    /// Whether the principal had a role of their own there.
    ///
    /// # Errors
    /// `NamespaceNotFound`, `TableNotFound`.
    pub async fn revoke(&self, principal: &str, object: &Object) -> Result<bool> {
        let mut tx = self.catalog.write().await?;
        let on = find(&mut tx, object).await?;
        let gone = access::delete_grant(&mut tx, principal, &on).await?;
        if gone {
            let event = Event { object: object.clone(), ..self.event(EventKind::GrantDeleted) };
            self.tell(&mut tx, event.with("principal", principal)).await?;
        }
        tx.commit().await?;
        tracing::info!(principal, object = ?object.to_list(), by = %self.by, gone, "revoked a role");
        Ok(gone)
    }

    /// Makes the first key of a catalog that nobody was granted anything on: its principal may do
    /// everything. `None` when somebody was.
    pub async fn bootstrap(&self) -> Result<Option<String>> {
        let mut tx = self.catalog.write().await?;
        // Of several who begin at once, the database lets one go on.
        if !access::begin(&mut tx).await? {
            return Ok(None);
        }
        let on = find(&mut tx, &Object::root()).await?;
        access::put_grant(&mut tx, FIRST_ADMIN, &on, Role::Admin, self.by, self.now_us).await?;
        let (text, _) =
            self.insert_key(&mut tx, FIRST_ADMIN, "made at the first start", None).await?;
        tx.commit().await?;
        Ok(Some(text))
    }
}

/// # Errors
/// `NamespaceNotFound`, `TableNotFound`.
async fn find(tx: &mut Tx, object: &Object) -> Result<Granted> {
    Ok(match object {
        Object::Namespace(id) => Granted::Namespace(namespaces::get_namespace(tx, id).await?),
        Object::Table(id) => Granted::Table(tables::get_table(tx, id).await?),
    })
}
