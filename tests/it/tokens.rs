//! Tokens of OpenID Connect issuers: which are taken, whose they are, and what their users may do.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltyard::config::{GroupRole, TokenIssuer};

use crate::support::code::*;
use crate::support::issuer::{SigningKey, TokenMaker, now};
use crate::support::process::tiltyard;
use crate::support::script::{interpreter, run};
use crate::support::{Backend, Reply, TestServer, assert_error, namespace, table, text};

async fn send_as(server: &TestServer, token: &str, method: Method, path: &str) -> Reply {
    let request = server.bare_request(method, path);
    server.send(request.header("authorization", format!("Bearer {token}"))).await
}

async fn who_am_i(server: &TestServer, token: &str) -> Reply {
    send_as(server, token, Method::GET, "/v1/access/whoami").await
}

async fn post_as(server: &TestServer, token: &str, path: &str) -> Reply {
    send_as(server, token, Method::POST, path).await
}

async fn grant(server: &TestServer, principal: &str, role: &str, on: &[&str]) {
    let body = json!({"principal": principal, "role": role, "namespace": on});
    server.post("/v1/access/grants/create", body).await.ok();
}

/// A server that takes tokens of these issuers, by name.
async fn taking(backend: Backend, issuers: &[(&str, TokenIssuer)]) -> Option<TestServer> {
    let issuers: Vec<(String, TokenIssuer)> =
        issuers.iter().map(|(name, issuer)| ((*name).to_owned(), issuer.clone())).collect();
    let configure = move |settings: &mut tiltyard::config::Settings| {
        settings.token_issuers = issuers.iter().cloned().collect();
    };
    TestServer::guarded_with(backend, configure).await
}

/// Asks until the status is this one: keys are read again after seconds.
async fn until(status: u16, ask: impl AsyncFn() -> Reply) -> Reply {
    for _ in 0..150 {
        let reply = ask().await;
        if reply.status == status {
            return reply;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("never {status}");
}

mod good_and_bad {
    use super::*;

    async fn check(backend: Backend) {
        let (rsa, ec, stranger) =
            (SigningKey::rsa("r1"), SigningKey::ec("e1"), SigningKey::rsa("r1"));
        let maker = TokenMaker::start(&[&rsa, &ec]).await;
        let Some(server) = taking(backend, &[("corp", maker.settings())]).await else { return };
        let with = |changes: Value| {
            let mut claims = maker.claims("anna");
            for (name, value) in changes.as_object().expect("an object") {
                match value {
                    Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
                    value => claims[name] = value.clone(),
                }
            }
            claims
        };
        for good in [
            maker.token(&rsa, &with(json!({}))),
            maker.token(&ec, &with(json!({}))),
            maker.token(&rsa, &with(json!({"aud": ["other", "tiltyard"]}))),
            // The clocks of both differ by less than the minute that is allowed.
            maker.token(&rsa, &with(json!({"exp": now() - 30, "nbf": now() + 30}))),
            // One that does not say with which key.
            rsa.sign(&json!({"alg": "RS256"}), &with(json!({}))),
        ] {
            let said = who_am_i(&server, &good).await.ok();
            assert_eq!(text(&said, "principal"), "corp:user/anna");
        }
        let claims = with(json!({}));
        let whole = maker.token(&rsa, &claims);
        let (start, signature) = whole.rsplit_once('.').expect("a token");
        let forged = maker.token(&stranger, &with(json!({"sub": "admin"})));
        let (forged_start, _) = forged.rsplit_once('.').expect("a token");
        for (why, bad) in [
            ("its end has passed", maker.token(&rsa, &with(json!({"exp": now() - 120})))),
            ("it has no end", maker.token(&rsa, &with(json!({"exp": null})))),
            ("its end is no time", maker.token(&rsa, &with(json!({"exp": "never"})))),
            ("it is of later", maker.token(&rsa, &with(json!({"nbf": now() + 300})))),
            ("it is for others", maker.token(&rsa, &with(json!({"aud": "other"})))),
            ("it is for nobody", maker.token(&rsa, &with(json!({"aud": null})))),
            ("it is for none", maker.token(&rsa, &with(json!({"aud": []})))),
            ("another made it", maker.token(&rsa, &with(json!({"iss": "https://example.com"})))),
            ("nobody made it", maker.token(&rsa, &with(json!({"iss": null})))),
            ("it is of nobody", maker.token(&rsa, &with(json!({"sub": null})))),
            ("its subject is empty", maker.token(&rsa, &with(json!({"sub": ""})))),
            ("its subject is no text", maker.token(&rsa, &with(json!({"sub": 5})))),
            ("its subject is too long", maker.token(&rsa, &with(json!({"sub": "x".repeat(300)})))),
            ("a stranger signed it", maker.token(&stranger, &claims)),
            ("its claims are another's", format!("{forged_start}.{signature}")),
            ("it is not signed", format!("{start}.")),
            ("it says that it needs no signature", rsa.sign(&json!({"alg": "none"}), &claims)),
            ("anybody could sign so", rsa.sign(&json!({"alg": "HS256", "kid": "r1"}), &claims)),
            ("the key is of another kind", ec.sign(&json!({"alg": "ES256", "kid": "r1"}), &claims)),
            (
                "the algorithm is not the key's",
                rsa.sign(&json!({"alg": "RS512", "kid": "r1"}), &claims),
            ),
            ("no key is called so", rsa.sign(&json!({"alg": "RS256", "kid": "r2"}), &claims)),
            ("it is cut off", start.into()),
            ("it is no token", "a.b.c".into()),
            ("it is empty", "..".into()),
            ("it is too long", format!("{start}.{}", "A".repeat(40_000))),
        ] {
            let reply = who_am_i(&server, &bad).await;
            assert_eq!(reply.status, 401, "{why}: {}", reply.text());
            assert_error(&reply, 401, UNAUTHENTICATED);
            let inner = bad.rsplit('.').next().filter(|part| part.len() > 8);
            assert!(inner.is_none_or(|part| !reply.text().contains(part)), "{why}");
        }
        // Strange keys make it ask again, and not as often as somebody sends them.
        assert!(maker.times_asked() < 6, "{} times", maker.times_asked());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        check(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        check(Backend::Postgres).await;
    }
}

mod users_and_groups {
    use super::*;

    async fn check(backend: Backend) {
        let (key, other_key) = (SigningKey::rsa("k"), SigningKey::ec("k"));
        let corp = TokenMaker::start(&[&key]).await;
        let partner = TokenMaker::start(&[&other_key]).await;
        let lead = |group: &str, role: &str, names: &[&str]| {
            let namespace = names.iter().map(|name| (*name).to_owned()).collect();
            GroupRole { group: group.into(), role: role.into(), namespace }
        };
        let roles = vec![lead("leads", "admin", &[]), lead("readers", "reader", &["ns"])];
        let by_corp =
            TokenIssuer { roles, groups_claim: "access.groups".into(), ..corp.settings() };
        let issuers = [("corp", by_corp), ("partner", partner.settings())];
        let Some(server) = taking(backend, &issuers).await else { return };
        server.with_declared("ns$t").await;
        let of_corp = |subject: &str, groups: &[&str]| {
            let mut claims = corp.claims(subject);
            claims["access"] = json!({"groups": groups});
            corp.token(&key, &claims)
        };
        let (anna, bert) = (of_corp("anna", &["data", "staff"]), of_corp("bert", &["staff"]));
        let said = who_am_i(&server, &anna).await.ok();
        assert_eq!(said["groups"], json!(["corp:group/data", "corp:group/staff"]));

        // What is granted to a group holds for its members, and for nobody who is called so elsewhere.
        let describe = table("ns$t", "describe");
        assert_error(&post_as(&server, &anna, &describe).await, 404, TABLE_NOT_FOUND);
        grant(&server, "corp:group/data", "writer", &["ns"]).await;
        post_as(&server, &anna, &describe).await.ok();
        assert_error(&post_as(&server, &bert, &describe).await, 404, TABLE_NOT_FOUND);
        let mut claims = partner.claims("anna");
        claims["groups"] = json!(["data"]);
        let stranger = partner.token(&other_key, &claims);
        assert_error(&post_as(&server, &stranger, &describe).await, 404, TABLE_NOT_FOUND);
        grant(&server, "partner:user/anna", "reader", &["ns"]).await;
        post_as(&server, &stranger, &describe).await.ok();
        let declare = table("ns$new", "declare");
        assert_error(&post_as(&server, &stranger, &declare).await, 403, PERMISSION_DENIED);

        // Whoever makes something manages it.
        post_as(&server, &anna, &declare).await.ok();
        post_as(&server, &anna, &table("ns$new", "drop")).await.ok();
        assert_error(
            &post_as(&server, &anna, &table("ns$t", "drop")).await,
            403,
            PERMISSION_DENIED,
        );

        // The settings let members of a group do something, without a grant.
        let (lead, reader) = (of_corp("carl", &["leads"]), of_corp("dora", &["readers"]));
        post_as(&server, &reader, &describe).await.ok();
        assert_error(&post_as(&server, &reader, &declare).await, 403, PERMISSION_DENIED);
        post_as(&server, &lead, &namespace("led", "create")).await.ok();
        send_as(&server, &lead, Method::GET, "/v1/access/keys").await.ok();

        // As the specification has it, in a body; a header wins.
        let body = json!({"identity": {"auth_token": anna}});
        let request = server.bare_request(Method::POST, &describe);
        server.send(request.json(&body)).await.ok();
        let request = server.bare_request(Method::POST, &describe);
        let reply = server.send(request.header("x-api-key", "tiltyard_x_y").json(&body)).await;
        assert_error(&reply, 401, UNAUTHENTICATED);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        check(Backend::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        check(Backend::Postgres).await;
    }
}

/// `lance_namespace`, lance-ray and lancedb bring a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_clients_bring_one() {
    const SCRIPT: &str = "clients/logging_in.py";
    let key = SigningKey::rsa("k");
    let maker = TokenMaker::start(&[&key]).await;
    let role = GroupRole { group: "robots".into(), role: "admin".into(), namespace: Vec::new() };
    let issuer = TokenIssuer { roles: vec![role], ..maker.settings() };
    let server = taking(Backend::Sqlite, &[("corp", issuer)]).await.expect("a server");
    let mut claims = maker.claims("robot");
    claims["groups"] = json!(["robots"]);
    let token = maker.token(&key, &claims);
    let Some(interpreter) = interpreter(SCRIPT) else { return };
    let arguments = [server.base(), server.key().expect("a key"), &token];
    tokio::task::block_in_place(|| run(&interpreter, SCRIPT, &arguments, server.home()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_replaced() {
    let (old, new) = (SigningKey::rsa("old"), SigningKey::rsa("new"));
    let maker = TokenMaker::start(&[&old]).await;
    let server = taking(Backend::Sqlite, &[("corp", maker.settings())]).await.expect("a server");
    let [by_old, by_new] = [&old, &new].map(|key| maker.token(key, &maker.claims("anna")));
    who_am_i(&server, &by_old).await.ok();
    assert_error(&who_am_i(&server, &by_new).await, 401, UNAUTHENTICATED);
    maker.publish(&[&new]);
    until(200, async || who_am_i(&server, &by_new).await).await;
    assert_error(&who_am_i(&server, &by_old).await, 401, UNAUTHENTICATED);
}

/// An issuer that does not answer keeps nobody else out, and nobody whose key is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_goes_away() {
    let key = SigningKey::ec("k");
    let maker = TokenMaker::start(&[&key]).await;
    maker.go_down(true);
    let server = taking(Backend::Sqlite, &[("corp", maker.settings())]).await.expect("a server");
    let token = maker.token(&key, &maker.claims("anna"));
    let reply = who_am_i(&server, &token).await;
    assert_error(&reply, 503, SERVICE_UNAVAILABLE);
    assert!(reply.header("retry-after").is_some());
    server.get("/v1/access/whoami").await.ok();
    maker.go_down(false);
    until(200, async || who_am_i(&server, &token).await).await;
    maker.go_down(true);
    who_am_i(&server, &token).await.ok();
    let unknown = key.sign(&json!({"alg": "ES256", "kid": "x"}), &maker.claims("anna"));
    assert_error(&who_am_i(&server, &unknown).await, 401, UNAUTHENTICATED);
    who_am_i(&server, &token).await.ok();
}

/// Without a way to the issuer, its keys may stand in a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_a_file() {
    let (key, next) = (SigningKey::ec("k"), SigningKey::rsa("next"));
    let maker = TokenMaker::start(&[]).await;
    let folder = TempDir::with_prefix("tiltyard-keys-").expect("a folder");
    let file = folder.path().join("keys.json");
    let write = |keys: &[&SigningKey]| {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        std::fs::write(&file, json!({"keys": keys}).to_string()).expect("a file");
    };
    write(&[&key]);
    let jwks = Some(file.display().to_string());
    let issuer = TokenIssuer { jwks, ..maker.settings() };
    let server = taking(Backend::Sqlite, &[("corp", issuer)]).await.expect("a server");
    who_am_i(&server, &maker.token(&key, &maker.claims("anna"))).await.ok();
    let by_next = maker.token(&next, &maker.claims("anna"));
    assert_error(&who_am_i(&server, &by_next).await, 401, UNAUTHENTICATED);
    write(&[&key, &next]);
    until(200, async || who_am_i(&server, &by_next).await).await;
    assert_eq!(maker.times_asked(), 0);
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let home = TempDir::with_prefix("tiltyard-issuers-").expect("a folder");
    let file = home.path().join("tiltyard.toml");
    let good = "issuer = 'https://login.example.com'\naudiences = ['tiltyard']\n";
    let cases = [
        ("", "[token_issuers.corp]\n{good}", "--auth"),
        ("auth = true", "[token_issuers.corp]\naudiences = ['tiltyard']\n", "'issuer'"),
        (
            "auth = true",
            "[token_issuers.corp]\nissuer = 'https://login.example.com'\n",
            "'audiences'",
        ),
        ("auth = true", "[token_issuers.corp]\n{good}jwks = 'http://example.com/keys'\n", "https"),
        ("auth = true", "[token_issuers.corp]\n{good}jwks = 'no-such-file.json'\n", "no-such-file"),
        ("auth = true", "[token_issuers.corp]\n{good}[token_issuers.again]\n{good}", "same"),
        ("auth = true", "[token_issuers.'a/b']\n{good}", "name"),
        ("auth = true", "[token_issuers.corp]\n{good}audience = 'x'\n", "audience"),
        (
            "auth = true",
            "[token_issuers.corp]\n{good}[[token_issuers.corp.roles]]\ngroup = 'g'\nrole = 'king'\n",
            "king",
        ),
    ];
    for (first, rest, needle) in cases {
        let text = format!("{first}\n{}", rest.replace("{good}", good));
        std::fs::write(&file, &text).expect("a file");
        let config = file.display().to_string();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--config", &config];
        let output = tiltyard(home.path(), &arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(needle), "{text}: {said}");
    }
}
