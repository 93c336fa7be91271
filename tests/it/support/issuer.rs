//! An issuer of tokens, as an OpenID Connect provider is one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use tiltyard::config::TokenIssuer;

/// For whom its tokens are.
pub const AUDIENCE: &str = "tiltyard";

/// A key that tokens are signed with.
pub enum SigningKey {
    Rsa(String, Box<RsaKeyPair>),
    Ec(String, Box<EcdsaKeyPair>),
}

impl SigningKey {
    pub fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        Self::Rsa(id.into(), Box::new(pair))
    }

    pub fn ec(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self::Ec(id.into(), Box::new(pair))
    }

    pub fn id(&self) -> &str {
        match self {
            Self::Rsa(id, _) | Self::Ec(id, _) => id,
        }
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(..) => "RS256",
            Self::Ec(..) => "ES256",
        }
    }

    /// As it is published.
    pub fn jwk(&self) -> Value {
        match self {
            Self::Rsa(id, pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                let [n, e] =
                    [n, e].map(|part| BASE64.encode(part.big_endian_without_leading_zero()));
                json!({"kty": "RSA", "kid": id, "use": "sig", "alg": "RS256", "n": n, "e": e})
            }
            Self::Ec(id, pair) => {
                let point = pair.public_key().as_ref();
                let [x, y] = [&point[1..33], &point[33..]].map(|part| BASE64.encode(part));
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y})
            }
        }
    }

    /// A token with this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| BASE64.encode(part.to_string()));
        let text = format!("{header}.{claims}");
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(_, pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature)
                    .expect("a signature");
                signature
            }
            Self::Ec(_, pair) => {
                pair.sign(&random, text.as_bytes()).expect("a signature").as_ref().to_vec()
            }
        };
        format!("{text}.{}", BASE64.encode(signature))
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs()
}

#[derive(Default)]
struct Said {
    base: Mutex<String>,
    keys: Mutex<Vec<Value>>,
    is_down: AtomicBool,
    asked: AtomicUsize,
}

/// It publishes keys, and tells where in its discovery document.
pub struct TokenMaker {
    pub url: String,
    said: Arc<Said>,
    server: tokio::task::JoinHandle<()>,
}

impl TokenMaker {
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let said = Arc::new(Said::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        said.base.lock().expect("a lock").clone_from(&url);
        let discovery = async |State(said): State<Arc<Said>>| {
            let base = said.base.lock().expect("a lock").clone();
            Json(json!({"issuer": base, "jwks_uri": format!("{base}/keys")}))
        };
        let published = async |State(said): State<Arc<Said>>| {
            said.asked.fetch_add(1, Ordering::SeqCst);
            if said.is_down.load(Ordering::SeqCst) {
                return Err(StatusCode::INTERNAL_SERVER_ERROR);
            }
            let keys = said.keys.lock().expect("a lock").clone();
            Ok(Json(json!({"keys": keys})))
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(published))
            .with_state(said.clone());
        let serve = async move { axum::serve(listener, router).await.expect("it serves") };
        let maker = Self { url, said, server: tokio::spawn(serve) };
        maker.publish(keys);
        maker
    }

    /// Publishes these keys and, among them, what nobody knows how to use.
    pub fn publish(&self, keys: &[&SigningKey]) {
        let mut all = vec![json!({"kty": "NEW", "kid": "unheard-of"})];
        all.extend(keys.iter().map(|key| key.jwk()));
        *self.said.keys.lock().expect("a lock") = all;
    }

    pub fn go_down(&self, is_down: bool) {
        self.said.is_down.store(is_down, Ordering::SeqCst);
    }

    /// How often its keys were asked for.
    pub fn times_asked(&self) -> usize {
        self.said.asked.load(Ordering::SeqCst)
    }

    /// What a good token claims.
    pub fn claims(&self, subject: &str) -> Value {
        json!({"iss": self.url, "aud": AUDIENCE, "sub": subject, "exp": now() + 600})
    }

    pub fn token(&self, key: &SigningKey, claims: &Value) -> String {
        let header = json!({"alg": key.algorithm(), "typ": "JWT", "kid": key.id()});
        key.sign(&header, claims)
    }

    pub fn settings(&self) -> TokenIssuer {
        let (issuer, audiences) = (self.url.clone(), vec![AUDIENCE.into()]);
        TokenIssuer { issuer, audiences, ..TokenIssuer::default() }
    }
}

impl Drop for TokenMaker {
    fn drop(&mut self) {
        self.server.abort();
    }
}
