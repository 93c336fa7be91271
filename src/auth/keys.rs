//! API keys: `tiltyard_<id>_<secret>`. The secret is random, so that a fast hash of it is enough to
//! know it by.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::known::Known;
use crate::error::{Error, Result};
use crate::model::ApiKey;

const PREFIX: &str = "tiltyard_";
const SECRET_BYTES: usize = 32;

/// A key that was just made, for the one time that it is shown.
pub struct NewKey {
    pub id: String,
    /// All of it, as it is sent.
    pub text: String,
    pub secret_hash: String,
}

/// # Errors
/// `Internal` when the system has no random numbers.
pub fn new_key() -> Result<NewKey> {
    let mut secret = [0; SECRET_BYTES];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut secret).map_err(|_| Error::internal("making a key", "no random numbers"))?;
    let secret = BASE64_URL_SAFE_NO_PAD.encode(secret);
    let id = Uuid::now_v7().simple().to_string();
    let text = format!("{PREFIX}{id}_{secret}");
    Ok(NewKey { id, text, secret_hash: hash(&secret).to_hex().to_string() })
}

fn hash(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

/// Answers the id of a key and who calls with it.
///
/// # Errors
/// `Unauthenticated`, the same for a key that is not known and for a wrong secret.
pub(super) fn check(known: &Known, text: &str, now_us: i64) -> Result<(String, String)> {
    let unknown = || Error::Unauthenticated("the API key is not known".into());
    let (id, secret) =
        text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or_else(unknown)?;
    let key = known.key(id).ok_or_else(unknown)?;
    // BLAKE3's hashes are compared in constant time.
    let is_right = blake3::Hash::from_hex(&key.secret_hash).is_ok_and(|good| good == hash(secret));
    if !is_right {
        return Err(unknown());
    }
    if key.is_expired(now_us) {
        return Err(Error::Unauthenticated("the API key has expired".into()));
    }
    let ApiKey { id, principal, .. } = key;
    Ok((id.clone(), principal.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_secret_until_it_expires() {
        let made = new_key().unwrap();
        let key = ApiKey {
            id: made.id.clone(),
            principal: "alice".into(),
            secret_hash: made.secret_hash.clone(),
            description: String::new(),
            created_by: "admin".into(),
            created_at_us: 0,
            expires_at_us: Some(100),
            last_used_us: None,
        };
        let known = Known::new(1, vec![key], Vec::new());
        assert_eq!(check(&known, &made.text, 99).unwrap(), (made.id, "alice".into()));
        assert!(check(&known, &made.text, 100).is_err());
        let other = new_key().unwrap();
        assert!(check(&known, &other.text, 0).is_err());
        let (start, _) = made.text.rsplit_once('_').unwrap_or_default();
        for wrong in ["", PREFIX, start, &made.text[..made.text.len() - 1], &made.secret_hash] {
            assert!(check(&known, wrong, 0).is_err(), "{wrong}");
        }
    }
}
