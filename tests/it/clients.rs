//! Real clients: the scripts of `tests/clients`, each against a server of its own.

use crate::support::script::{interpreter, run};
use crate::support::{Backend, TestServer};

async fn check(script: &str, backend: Backend) {
    check_on(script, TestServer::spawn(backend).await);
}

fn check_on(script: &str, server: Option<TestServer>) {
    let (Some(interpreter), Some(server)) = (interpreter(script), server) else { return };
    let arguments: Vec<&str> = [server.base()].into_iter().chain(server.key()).collect();
    let script = format!("clients/{script}");
    let run = || run(&interpreter, &script, &arguments, server.home());
    tokio::task::block_in_place(run);
}

/// One script, run against both kinds of catalog.
macro_rules! on_both {
    ($name:ident) => {
        on_both!($name, concat!(stringify!($name), ".py"));
    };
    ($name:ident, $script:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                check($script, Backend::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                check($script, Backend::Postgres).await;
            }
        }
    };
}

on_both!(distributed_http);
on_both!(lancedb_namespace);
on_both!(lancedb_node, "lancedb_node/smoke.mjs");
on_both!(lancedb_remote);
on_both!(managed_versioning);
on_both!(namespace_python);
on_both!(namespace_rest);
on_both!(write_lance);

/// On servers to which clients say who they are.
mod logging_in {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        check_on("logging_in.py", TestServer::guarded(Backend::Sqlite).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        check_on("logging_in.py", TestServer::guarded(Backend::Postgres).await);
    }
}

/// Some of them on two servers behind a proxy.
mod on_replicas {
    use super::*;

    async fn check(script: &str) {
        check_on(script, TestServer::replicas(Backend::Postgres).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn distributed_http() {
        check("distributed_http.py").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lancedb_remote() {
        check("lancedb_remote.py").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn write_lance() {
        check("write_lance.py").await;
    }
}

/// Two minutes of requests made from our own document. The catalog's kind makes no difference to
/// what it finds, so it runs on one.
mod schemathesis_run {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        check("schemathesis_run.py", Backend::Sqlite).await;
    }
}
