//! Tokens of OpenID Connect issuers: JWTs (RFC 7519) that an issuer signed with a key which it
//! publishes (RFC 7517). Who sends one is `NAME:user/SUB`, and in the groups `NAME:group/GROUP`, where
//! NAME is the issuer's in the settings, so that nobody else's names can be theirs.

use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, dangerous, decode, decode_header};
use serde_json::{Map, Value};

use super::issuer_keys::IssuerKeys;
use crate::error::{Error, Result};
use crate::model::{Caller, Grant, Object, Role, check_principal};

/// The longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 32 << 10;
/// The most groups of a caller that count.
const MAX_GROUPS: usize = 1000;
/// Signatures that only the issuer can make. Those with a shared secret are not among them.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// One whose tokens are taken.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Ours for it, which begins the names of its users and groups.
    pub name: String,
    /// What its tokens have as `iss`.
    pub issuer: String,
    /// Of these a token's `aud` has to name one.
    pub audiences: Vec<String>,
    /// Where its keys are: an `https` URL or a file. Without, where its discovery document says.
    pub jwks: Option<String>,
    /// By how much its clock may differ from ours.
    pub clock_skew: Duration,
    /// The claim with the groups of a user: its name, or the names on the way to it, with dots between.
    pub groups_claim: String,
    /// What the members of some of its groups may do.
    pub roles: Vec<(String, Role, Object)>,
}

/// Those whose tokens are taken, with their keys.
pub(super) struct Issuers(Vec<(Issuer, IssuerKeys)>);

impl Issuers {
    /// # Errors
    /// `InvalidInput` for settings that cannot be meant.
    pub(super) async fn open(issuers: Vec<Issuer>) -> Result<Self> {
        let mut opened: Vec<(Issuer, IssuerKeys)> = Vec::new();
        for issuer in issuers {
            let wrong =
                |what: &str| Error::invalid_input(format!("token_issuers.{}: {what}", issuer.name));
            if issuer.issuer.is_empty() {
                return Err(wrong("'issuer' is missing: what its tokens have as 'iss'"));
            }
            if issuer.audiences.is_empty() {
                return Err(wrong("'audiences' is missing: tokens for anybody else are refused"));
            }
            if issuer.name.is_empty() || issuer.name.contains([':', '/']) {
                return Err(wrong("its name is to have neither ':' nor '/'"));
            }
            if opened.iter().any(|(other, _)| other.issuer == issuer.issuer) {
                return Err(wrong("another has the same 'issuer'"));
            }
            let keys = IssuerKeys::open(&issuer.issuer, issuer.jwks.as_deref());
            let keys = keys.await.map_err(|error| wrong(&error.to_string()))?;
            opened.push((issuer, keys));
        }
        Ok(Self(opened))
    }

    /// What the settings let members of groups do.
    pub(super) fn grants(&self) -> impl Iterator<Item = Grant> {
        self.0.iter().flat_map(|(issuer, _)| {
            issuer.roles.iter().map(|(group, role, object)| Grant {
                principal: issuer.group(group),
                object: object.clone(),
                role: *role,
                granted_by: Caller::server().name().to_owned(),
                granted_at_us: 0,
            })
        })
    }

    /// Whether a credential may be a token of an issuer.
    pub(super) fn take(&self, credential: &str) -> bool {
        !self.0.is_empty() && credential.split('.').count() == 3
    }

    /// Finds who sends a token.
    ///
    /// # Errors
    /// `Unauthenticated` for one that is not good; `ServiceUnavailable` while the issuer's keys are not
    /// known.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller> {
        let refused = |why: &str| Error::Unauthenticated(format!("the token is not taken: {why}"));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused("it is too long"));
        }
        let unreadable = |_| refused("it is no JWT");
        let header = decode_header(token).map_err(unreadable)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("its signature is of a kind that anybody could make"));
        }
        // RFC 7515, section 4.1.11: what is not understood must not be passed over.
        if header.crit.is_some() {
            return Err(refused("its header asks for what is not known here"));
        }
        let said = dangerous::insecure_decode::<Map<String, Value>>(token).map_err(unreadable)?;
        let said = said.claims.get("iss").and_then(Value::as_str);
        let found = self.0.iter().find(|(issuer, _)| Some(issuer.issuer.as_str()) == said);
        let (issuer, keys) = found.ok_or_else(|| refused("its issuer is not known here"))?;

        let fits = |key: &Jwk| fits(key, &header);
        let mut why = None;
        for key in keys.find(fits).await? {
            match issuer.check(token, &key, &header) {
                Ok(claims) => return issuer.caller(&claims),
                Err(error) => why = Some(told(&error)),
            }
        }
        Err(refused(why.unwrap_or("its issuer has no such key")))
    }
}

/// Whether a token may have been signed with a key.
fn fits(key: &Jwk, header: &Header) -> bool {
    let common = &key.common;
    let is_meant = header.kid.is_none() || common.key_id == header.kid;
    let signs = !matches!(common.public_key_use, Some(PublicKeyUse::Encryption));
    let is_of_kind =
        common.key_algorithm.is_none_or(|kind| kind.to_string() == format!("{:?}", header.alg));
    is_meant && signs && is_of_kind
}

/// Why a token is refused, in our words.
fn told(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it does not hold yet",
        ErrorKind::InvalidAudience => "it is for somebody else",
        ErrorKind::InvalidIssuer => "its issuer is not known here",
        ErrorKind::MissingRequiredClaim(_) => "it needs the claims iss, aud, exp and sub",
        _ => "its signature is not its issuer's",
    }
}

impl Issuer {
    fn user(&self, subject: &str) -> String {
        format!("{}:user/{subject}", self.name)
    }

    fn group(&self, group: &str) -> String {
        format!("{}:group/{group}", self.name)
    }

    fn check(
        &self,
        token: &str,
        key: &Jwk,
        header: &Header,
    ) -> Result<Map<String, Value>, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&self.audiences);
        validation.validate_nbf = true;
        validation.leeway = self.clock_skew.as_secs();
        Ok(decode(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
    }

    /// # Errors
    /// `Unauthenticated` where the subject is no name.
    fn caller(&self, claims: &Map<String, Value>) -> Result<Caller> {
        let subject = claims.get("sub").and_then(Value::as_str).filter(|sub| !sub.is_empty());
        let name = subject.map(|subject| self.user(subject));
        let name = name.filter(|name| check_principal(name).is_ok()).ok_or_else(|| {
            Error::Unauthenticated("the token is not taken: its 'sub' is no name".into())
        })?;
        let groups = groups(claims, &self.groups_claim).into_iter().map(|group| self.group(group));
        let groups = groups.filter(|group| check_principal(group).is_ok()).take(MAX_GROUPS);
        Ok(Caller::known(name, groups.collect()))
    }
}

/// The claims with several words in one text (RFC 6749, section 3.3; RFC 8693, section 4.2).
const SCOPES: [&str; 2] = ["scope", "scp"];

/// The groups in a claim: a list, or the one that it is, whose name may have spaces.
fn groups<'a>(claims: &'a Map<String, Value>, claim: &str) -> Vec<&'a str> {
    let within = || {
        let mut names = claim.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    };
    // A name of a claim may have dots itself, such as a URL.
    match claims.get(claim).or_else(within) {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(text)) if SCOPES.contains(&claim) => text.split_whitespace().collect(),
        Some(Value::String(group)) => vec![group],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name_or_by_way() {
        let claims = serde_json::json!({
            "groups": ["a", 1, "b c"],
            "scope": "read  write",
            "team": "x lake-admins",
            "realm_access": {"roles": ["admin"]},
            "https://example.com/groups": ["x"],
        });
        let claims = claims.as_object().unwrap();
        assert_eq!(groups(claims, "groups"), ["a", "b c"]);
        assert_eq!(groups(claims, "scope"), ["read", "write"]);
        assert_eq!(groups(claims, "team"), ["x lake-admins"]);
        assert_eq!(groups(claims, "realm_access.roles"), ["admin"]);
        assert_eq!(groups(claims, "https://example.com/groups"), ["x"]);
        for none in ["none", "", "realm_access", "realm_access.none", "scope.x"] {
            assert!(groups(claims, none).is_empty(), "{none}");
        }
    }
}
