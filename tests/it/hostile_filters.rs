//! Expressions that mean harm, or only went wrong: each is refused, and the server lives on.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::batches::{batch, batch_vectors, ints, row_count, texts};
use crate::support::code::*;
use crate::support::{TestServer, assert_error, assert_error_in, enc, table};

/// What fits in the head of a request, as the filter of a fragment has to.
const MAX_URL: usize = 30_000;

/// Ten rows of `id` and `name`.
async fn with_names(server: &TestServer) {
    server.create_namespace("ns").await;
    server.create("ns$t", &batch(&[("id", ints(0..10)), ("name", texts(0..10))])).await;
}

/// A query, a count and a reading of a fragment all refuse the expression.
async fn assert_refused_everywhere(server: &TestServer, expression: &str) {
    let body = json!({"k": 10, "filter": expression});
    let queried = server.post(&table("ns$t", "query"), body).await;
    let body = json!({"predicate": expression});
    let counted = server.post(&table("ns$t", "count_rows"), body).await;
    let mut replies = vec![queried, counted];
    if enc(expression).len() < MAX_URL {
        let path = format!("fragments/0/rows?filter={}", enc(expression));
        replies.push(server.get(&table("ns$t", &path)).await);
    }
    for reply in replies {
        let shown: String = expression.chars().take(80).collect();
        let status = if reply.status == 404 { 404 } else { 400 };
        assert_eq!(reply.status, status, "{shown}: {}", reply.text());
        assert_error_in(&reply, status, &[INVALID_INPUT, TABLE_COLUMN_NOT_FOUND]);
        assert!(reply.raw.len() < 4_000, "{shown}: the answer repeats the expression");
    }
    assert_eq!(server.count("ns$t").await, 10, "the server lives on");
}

/// A query, a count and a reading of a fragment all find this many rows.
async fn assert_found_everywhere(server: &TestServer, expression: &str, rows: usize) {
    let found = server.query("ns$t", json!({"k": 100, "filter": expression})).await;
    assert_eq!(row_count(&found), rows);
    let body = json!({"predicate": expression});
    let counted = server.post(&table("ns$t", "count_rows"), body).await.ok();
    assert_eq!(counted, rows);
    if enc(expression).len() < MAX_URL {
        let path = format!("fragments/0/rows?filter={}", enc(expression));
        let reply = server.get(&table("ns$t", &path)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let found = crate::support::batches::read_stream(&reply.raw);
        assert_eq!(row_count(&found), rows);
    }
}

fn chain(term: &str, joint: &str, times: usize) -> String {
    vec![term; times].join(joint)
}

both! {
    async fn deep_expressions_are_refused(server: TestServer) {
        with_names(&server).await;
        for expression in [
            chain("id=1", " OR ", 25_000),
            format!("id{}=5", "+1".repeat(20_000)),
            format!("{}true", "NOT ".repeat(5_000)),
            format!("{}true", "NOT ".repeat(900)),
            format!("{}id=1{}", "(".repeat(5_000), ")".repeat(5_000)),
            format!("{}1{}=1", "CASE WHEN id=1 THEN ".repeat(300), " ELSE 0 END".repeat(300)),
            format!("{}id{}=1", "abs(".repeat(300), ")".repeat(300)),
            // The parser would read what follows each of these twice, again and again.
            format!("id = {}1{}", "CASE - ".repeat(31), " END".repeat(31)),
            format!("id = {}*", "NOT - ".repeat(40)),
            format!("{}id{}=1", "CAST(".repeat(31), ")".repeat(31)),
            format!("id{}=true", " BETWEEN 0 AND 1".repeat(40)),
            format!("{}id{}=1", "coalesce(".repeat(30), ",1)".repeat(30)),
            format!("id{}=1", "::bigint".repeat(10_000)),
            format!("id{}=1", ".x".repeat(10_000)),
            format!("id{}=1", "[1]".repeat(10_000)),
            format!("arrow_cast(id, '{}Int8{}')=1", "List(".repeat(5_000), ")".repeat(5_000)),
            format!("CAST('{}' AS JSONB)=1", "[".repeat(100_000)),
            format!("id=1{}", " ".repeat(2 << 20)),
        ] {
            assert_refused_everywhere(&server, &expression).await;
        }
    }
}

both! {
    async fn the_deepest_expressions_are_served(server: TestServer) {
        with_names(&server).await;
        for (expression, rows) in [
            (format!("id{}=100", "+1".repeat(99)), 1),
            (format!("id{}=id", "::bigint".repeat(99)), 10),
            (chain("id=1", " OR ", 300), 1),
            (chain("id=id", " AND ", 500), 10),
            (chain("id BETWEEN 1 AND 2", " OR ", 300), 2),
            (format!("{}id=1{}", "(".repeat(20), ")".repeat(20)), 1),
            (format!("abs({}1{})=1", "CASE WHEN id=1 THEN ".repeat(8), " ELSE 0 END".repeat(8)), 1),
        ] {
            assert_found_everywhere(&server, &expression, rows).await;
        }
    }
}

both! {
    async fn a_long_list_is_served(server: TestServer) {
        with_names(&server).await;
        let numbers: Vec<String> = (-10_000..10_000).map(|number| number.to_string()).collect();
        assert_found_everywhere(&server, &format!("id IN ({})", numbers.join(",")), 10).await;
        let names: Vec<String> = (5..20_005).map(|number| format!("'s{number}'")).collect();
        assert_found_everywhere(&server, &format!("name IN ({})", names.join(", ")), 5).await;
    }
}

both! {
    async fn what_lance_cannot_read_is_refused(server: TestServer) {
        with_names(&server).await;
        for expression in [
            "id = $1", "id = ?", "id = :id", "id = @id", "id = 1; DROP TABLE t",
            "id = 1) OR (id = 2", "name = E'a'", "name = N'a'", "name = $$a$$", "name = U&'a'",
            "is_valid()", "id = 1 UNION SELECT 1", "abs((SELECT 1)) = 1",
        ] {
            assert_refused_everywhere(&server, expression).await;
        }
    }
}

both! {
    async fn what_asks_for_memory_is_refused(server: TestServer) {
        with_names(&server).await;
        for expression in [
            "repeat('a', 2000000000) = name",
            "`repeat`('a', 2000000000) = name",
            "REPEAT('a', 2000000000) = name",
            "lpad('a', 2000000000) = name",
            "rpad(name, 2000000000) = 'x'",
            "array_length(array_repeat(1, 2000000000)) = 1",
            "array_length(list_repeat(1, 2000000000)) = 1",
            "array_length(array_resize([1], 2000000000)) = 1",
            "array_length(range(0, 2000000000)) = 1",
            "array_length(generate_series(0, 2000000000)) = 1",
            "arrow_cast(NULL, 'FixedSizeBinary(2000000000)') IS NULL",
        ] {
            assert_refused_everywhere(&server, expression).await;
        }
        let long = "a".repeat(1_000);
        let expression = format!("replace(replace(name, 's', '{long}'), 'a', '{long}') = 'x'");
        assert_refused_everywhere(&server, &expression).await;
    }
}

both! {
    async fn what_cannot_be_evaluated_is_refused(server: TestServer) {
        with_names(&server).await;
        for expression in [
            "id/0=1",
            "id%0=1",
            "1/0=id",
            "CAST(name AS INT)=1",
            "CAST('x' AS INT)=id",
            "regexp_match(name,'(')",
            "regexp_like(name,'(')",
            "regexp_like(name,'a{1000}{1000}')",
            "chr(-1)='a'",
            "chr(id-20)='a'",
            "arrow_cast(id,'Foo')=1",
            "to_timestamp('zzz')=now()",
            "to_timestamp(name)=now()",
            "date_trunc('eon',now())=now()",
            "encode(name,'rot13')='x'",
            "digest(name,'rot13')=X'00'",
            "nosuch(id)=1",
            "abs(name)=1",
            "id='x'",
            "name+1=2",
            "sum(id)=1",
            "row_number() OVER ()=1",
            "id IN (SELECT 1)",
            "id",
            "name",
            "st_area(name, name)",
            "CAST(id AS DECIMAL(39,2))=1",
            "arrow_cast(id,'Decimal128(76,2)')=1",
        ] {
            assert_refused_everywhere(&server, expression).await;
        }
    }
}

both! {
    async fn a_row_column_is_no_vector(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$v", &batch_vectors(10, 2)).await;
        for column in ["_rowid", "_rowaddr"] {
            let vector = json!({"single_vector": [1.0, 2.0]});
            let body = json!({"vector": vector, "k": 2, "vector_column": column});
            let reply = server.post(&table("ns$v", "query"), body).await;
            assert_error(&reply, 400, INVALID_INPUT);
        }
    }
}

both! {
    /// Evaluating runs beside the threads that answer.
    async fn a_heavy_expression_does_not_stop_the_others(server: TestServer) {
        server.create_namespace("ns").await;
        server.create("ns$t", &batch(&[("id", ints(0..200_000)), ("name", texts(0..200_000))])).await;
        let heavy = chain("regexp_like(name, '(s|1|2)*(3|4)*(5|6)*x')", " OR ", 400);
        let path = table("ns$t", "count_rows");
        let heavy = || server.post(&path, json!({"predicate": heavy}));
        let others = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut slowest = Duration::ZERO;
            for _ in 0..20 {
                let asked = Instant::now();
                assert_eq!(server.get("/healthz").await.status, 200);
                slowest = slowest.max(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            slowest
        };
        let (.., slowest) = tokio::join!(heavy(), heavy(), heavy(), heavy(), others);
        assert!(slowest < Duration::from_secs(2), "/healthz took {slowest:?}");
    }
}

both! {
    /// Whether this overflows is the database's word, not ours: it is never a failure.
    async fn what_overflows_is_no_failure(server: TestServer) {
        with_names(&server).await;
        for expression in
            ["power(id,1000000)=1", "factorial(id+100)=1", "id+9223372036854775807=1"]
        {
            let body = json!({"predicate": expression});
            let reply = server.post(&table("ns$t", "count_rows"), body).await;
            assert!([200, 400].contains(&reply.status), "{expression}: {}", reply.text());
        }
    }
}
