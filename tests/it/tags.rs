//! Tags: one truth in storage, whoever makes them.

use serde_json::{Value, json};

use crate::support::batches::batch_ab;
use crate::support::code::*;
use crate::support::{TestServer, assert_error, enc, foreign, table};

async fn tag(server: &TestServer, name: &str, version: u64) {
    let body = json!({"tag": name, "version": version});
    server.post(&table("ns$t", "tags/create"), body).await.ok();
}

async fn version_of(server: &TestServer, name: &str) -> Value {
    server.post(&table("ns$t", "tags/version"), json!({"tag": name})).await.ok()
}

async fn tags(server: &TestServer) -> Value {
    server.post_empty(&table("ns$t", "tags/list")).await.ok()["tags"].take()
}

async fn with_two_versions(server: &TestServer) -> String {
    let location = server.with_table("ns$t", 2).await;
    server.insert("ns$t", &batch_ab(2..3)).await;
    location
}

everywhere! {
    async fn a_tag_is_seen_by_all(server: TestServer) {
        let location = with_two_versions(&server).await;
        tag(&server, "v1", 1).await;
        assert_eq!(version_of(&server, "v1").await, json!({"version": 1}));
        let there = foreign::open(&location).await;
        assert_eq!(there.tags().get_version("v1").await.expect("the tag"), 1);
        // And the other way round.
        there.tags().create("theirs", 2).await.expect("a foreign tag");
        assert_eq!(version_of(&server, "theirs").await, json!({"version": 2}));
        let listed = tags(&server).await;
        assert_eq!(listed["v1"]["version"], 1);
        assert_eq!(listed["theirs"]["version"], 2);
        assert!(listed["v1"]["manifestSize"].as_u64() > Some(0), "{listed}");
        assert!(listed["v1"].get("branch").is_none(), "{listed}");
        there.tags().delete("theirs").await.expect("a foreign delete");
        assert_eq!(tags(&server).await.as_object().expect("a map").len(), 1);
        // A tag is no version.
        assert_eq!(server.versions("ns$t").await, [1, 2]);
    }
}

everywhere! {
    async fn a_tag_moves_and_goes(server: TestServer) {
        let location = with_two_versions(&server).await;
        tag(&server, "live", 1).await;
        let moved = json!({"tag": "live", "version": 2});
        server.post(&table("ns$t", "tags/update"), moved).await.ok();
        assert_eq!(version_of(&server, "live").await["version"], 2);
        let there = foreign::open(&location).await;
        assert_eq!(there.tags().get_version("live").await.expect("the tag"), 2);
        server.post(&table("ns$t", "tags/delete"), json!({"tag": "live"})).await.ok();
        let gone = server.post(&table("ns$t", "tags/version"), json!({"tag": "live"})).await;
        assert_error(&gone, 404, TABLE_TAG_NOT_FOUND);
        assert!(there.tags().get_version("live").await.is_err());
        assert_eq!(tags(&server).await, json!({}));
    }
}

everywhere! {
    async fn a_tag_keeps_its_version_from_a_clean_up(server: TestServer) {
        let location = with_two_versions(&server).await;
        tag(&server, "keep", 1).await;
        server.insert("ns$t", &batch_ab(3..4)).await;
        foreign::clean_up(&location).await;
        assert_eq!(server.versions("ns$t").await, [1, 3]);
    }
}

everywhere! {
    async fn a_name_is_given_once(server: TestServer) {
        with_two_versions(&server).await;
        tag(&server, "one", 1).await;
        let again = json!({"tag": "one", "version": 2});
        let reply = server.post(&table("ns$t", "tags/create"), again).await;
        assert_error(&reply, 409, TABLE_TAG_ALREADY_EXISTS);
        assert_eq!(version_of(&server, "one").await["version"], 1);
        // Of many at once exactly one gets it.
        let create = table("ns$t", "tags/create");
        let racers = (0..8).map(|racer| {
            let body = json!({"tag": "race", "version": racer % 2 + 1});
            server.post(&create, body)
        });
        let replies = futures::future::join_all(racers).await;
        let won = replies.iter().filter(|reply| reply.status == 200).count();
        assert_eq!(won, 1);
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            assert_error(reply, 409, TABLE_TAG_ALREADY_EXISTS);
        }
    }
}

everywhere! {
    async fn pages_of_tags_are_whole(server: TestServer) {
        with_two_versions(&server).await;
        let names = ["a", "b", "c.1", "d-2", "e_3"];
        for name in names {
            tag(&server, name, 1).await;
        }
        let (mut seen, mut next) = (Vec::new(), String::new());
        loop {
            let query = format!("tags/list?limit=2{next}");
            let page = server.post_empty(&table("ns$t", &query)).await.ok();
            let found = page["tags"].as_object().expect("a map");
            assert!(found.len() <= 2, "{page}");
            seen.extend(found.keys().cloned());
            match page["page_token"].as_str() {
                Some(token) => next = format!("&page_token={}", enc(token)),
                None => break,
            }
        }
        assert_eq!(seen, names);
        let wrong = server.post_empty(&table("ns$t", "tags/list?page_token=zzz")).await;
        assert_error(&wrong, 400, INVALID_INPUT);
        let none = server.post_empty(&table("ns$t", "tags/list?limit=0")).await;
        assert_error(&none, 400, INVALID_INPUT);
    }
}

both! {
    async fn what_is_not_there_is_named(server: TestServer) {
        with_two_versions(&server).await;
        tag(&server, "here", 1).await;
        let (on, before) = (|operation| table("ns$t", operation), server.snapshot().await);
        let absent = json!({"tag": "absent", "version": 1});
        for operation in ["tags/version", "tags/update", "tags/delete"] {
            let reply = server.post(&on(operation), absent.clone()).await;
            assert_error(&reply, 404, TABLE_TAG_NOT_FOUND);
        }
        for operation in ["tags/create", "tags/update"] {
            for (version, branch) in [(9, Value::Null), (0, Value::Null), (u64::MAX, json!("main"))]
            {
                let body = json!({"tag": "here", "version": version, "branch": branch});
                let reply = server.post(&on(operation), body).await;
                assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
            }
            let body = json!({"tag": "here", "version": 1, "branch": "nowhere"});
            let reply = server.post(&on(operation), body).await;
            assert_error(&reply, 404, TABLE_BRANCH_NOT_FOUND);
        }
        server.assert_unchanged(&before, "tags that are refused").await;
    }
}

both! {
    async fn bad_names_and_bodies_are_refused(server: TestServer) {
        with_two_versions(&server).await;
        let before = server.snapshot().await;
        let long = "a".repeat(300);
        let bad = ["", ".a", "a.", "a..b", "a/b", "../a", "a b", "x.lock", "a\u{0}", &long];
        for name in bad {
            let body = json!({"tag": name, "version": 1});
            for operation in ["tags/create", "tags/update", "tags/delete", "tags/version"] {
                let reply = server.post(&table("ns$t", operation), body.clone()).await;
                assert_error(&reply, 400, INVALID_INPUT);
            }
        }
        for body in [
            json!({}),
            json!({"tag": "a"}),
            json!({"tag": "a", "version": -1}),
            json!({"tag": "a", "version": "1"}),
            json!({"tag": 1, "version": 1}),
            json!({"tag": "a", "version": 1, "branch": "a b"}),
            json!({"tag": "a", "version": 1, "id": ["ns", "other"]}),
        ] {
            let reply = server.post(&table("ns$t", "tags/create"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
        server.assert_unchanged(&before, "bad tags").await;
    }
}

everywhere! {
    async fn tags_need_a_table_with_a_version(server: TestServer) {
        server.with_declared("ns$d").await;
        let body = json!({"tag": "a", "version": 1});
        for operation in ["tags/list", "tags/version", "tags/delete"] {
            let reply = server.post(&table("ns$d", operation), body.clone()).await;
            assert_error(&reply, 409, INVALID_TABLE_STATE);
        }
        for operation in ["tags/create", "tags/update"] {
            let reply = server.post(&table("ns$d", operation), body.clone()).await;
            assert_error(&reply, 404, TABLE_VERSION_NOT_FOUND);
        }
        for operation in
            ["tags/list", "tags/version", "tags/delete", "tags/create", "tags/update"]
        {
            let reply = server.post(&table("ns$none", operation), body.clone()).await;
            assert_error(&reply, 404, TABLE_NOT_FOUND);
        }
    }
}

everywhere! {
    async fn names_that_other_clients_could_not_list(server: TestServer) {
        let location = with_two_versions(&server).await;
        let body = json!({"tag": "größe", "version": 1});
        let refused = server.post(&table("ns$t", "tags/create"), body).await;
        assert_error(&refused, 400, INVALID_INPUT);
        // Lance takes the name, and then cannot list any tag. Here it can be seen, and removed.
        let there = foreign::open(&location).await;
        there.tags().create("größe", 2).await.expect("a foreign tag");
        assert!(there.tags().list().await.is_err());
        assert_eq!(tags(&server).await["größe"]["version"], 2);
        assert_eq!(version_of(&server, "größe").await["version"], 2);
        server.post(&table("ns$t", "tags/delete"), json!({"tag": "größe"})).await.ok();
        assert!(there.tags().list().await.expect("tags").is_empty());
    }
}

everywhere! {
    async fn a_table_is_described_at_a_tag(server: TestServer) {
        with_two_versions(&server).await;
        tag(&server, "first", 1).await;
        let create = table("ns$t", "branches/create");
        server.post(&create, json!({"name": "b", "from_version": 2})).await.ok();
        let on_branch = json!({"tag": "second", "version": 2, "branch": "b"});
        server.post(&table("ns$t", "tags/create"), on_branch).await.ok();
        let describe = table("ns$t", "describe?load_detailed_metadata=true");
        let first = server.post(&describe, json!({"tag": "first"})).await.ok();
        assert_eq!((&first["version"], &first["stats"]["num_fragments"]), (&json!(1), &json!(1)));
        let second = server.post(&describe, json!({"tag": "second"})).await.ok();
        assert_eq!((&second["version"], &second["stats"]["num_fragments"]), (&json!(2), &json!(2)));
        for body in [json!({"tag": "first", "version": 1}), json!({"tag": "first", "branch": "b"})] {
            assert_error(&server.post(&describe, body).await, 400, INVALID_INPUT);
        }
        let absent = server.post(&describe, json!({"tag": "absent"})).await;
        assert_error(&absent, 404, TABLE_TAG_NOT_FOUND);
    }
}
