//! Jobs whose catalog or storage is away for a while.

use serde_json::json;

use crate::support::{Backend, TestServer, sql, table, text};

/// What a database that is being restarted says, of the first step of every job.
const AWAY: &str = "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN RAISE EXCEPTION 'restarting' USING ERRCODE = '57P03'; END $$; \
    CREATE TRIGGER away BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.state = 'Running') \
    EXECUTE FUNCTION away()";
const BACK: &str = "DROP TRIGGER away ON jobs";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_outlasts_a_restart_of_the_database() {
    let Some(server) = TestServer::spawn(Backend::Postgres).await else { return };
    server.with_table("ns$t", 3).await;
    sql::run(server.database(), AWAY).await;
    let index = json!({"column": "a", "index_type": "BTREE", "name": "later"});
    let begun = server.post(&table("ns$t", "create_scalar_index"), index).await.ok();
    let job = text(&begun, "transaction_id");
    let described = server.post(&format!("/v1/transaction/{job}/describe"), json!({})).await.ok();
    assert_eq!(described["status"], "Queued", "{described}");
    sql::run(server.database(), BACK).await;
    // Whoever starts looks for jobs that were left.
    let other = server.beside().await;
    other.succeeded(&job).await;
    let listed = server.post(&table("ns$t", "index/list"), json!({})).await.ok();
    assert_eq!(listed["indexes"].as_array().map(Vec::len), Some(1), "{listed}");
}
