//! A real server for each test, and the words in which the tests speak to it.
//!
//! A test is a client: it speaks HTTP, and at most looks at the files of the lake or opens a table
//! with Lance itself, as any other program with access to the storage could.

pub mod bad_arrow;
pub mod batches;
pub mod code;
mod database;
pub mod faults;
pub mod foreign;
pub mod fuzz;
pub mod gate;
pub mod issuer;
pub mod listener;
pub mod overwriting;
pub mod parts;
pub mod process;
mod proxy;
pub mod raw;
mod reply;
pub mod rows;
pub mod script;
pub mod secrets;
mod server;
pub mod sql;
pub mod staging;
mod steps;
pub mod upkeep;
pub mod upstream;
pub mod writes;

pub use database::Database;
pub use reply::{Reply, assert_error, assert_error_in, assert_refused};
pub use server::{Backend, TestServer, files_under};
pub use steps::{enc, namespace, strings, table, text};

/// What a variable of the environment names for the tests. A missing one fails in CI, which must do
/// `what`, and is said elsewhere.
pub fn needed(variable: &str, what: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Some(value),
        _ if std::env::var_os("CI").is_some() => {
            panic!("{variable} is not set, and CI must {what}")
        }
        _ => {
            println!("skipped: {variable} is not set");
            None
        }
    }
}

/// Expands one body into a module with two tests: `name::sqlite` and `name::postgres`.
///
/// Without a PostgreSQL server the second fails where `CI` is set, and elsewhere prints that it was
/// skipped.
macro_rules! both {
    ($(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { $crate::support::TestServer::spawn; sqlite: Sqlite, postgres: Postgres;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

/// As [`both`], and `name::s3`: PostgreSQL with the lake in an object store. For tests that do not
/// look at the files of the lake.
macro_rules! everywhere {
    ($(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        on! { $crate::support::TestServer::spawn; sqlite: Sqlite, postgres: Postgres, s3: S3;
            $(#[$meta])* async fn $name($server: TestServer) $body }
    };
}

/// One test of the same body for each backend, on a server that `spawn` makes of it.
macro_rules! on {
    ($spawn:expr; $($test:ident: $backend:ident),*;
        $(#[$meta:meta])* async fn $name:ident($server:ident: TestServer) $body:block) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn body($server: $crate::support::TestServer) $body

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let backend = $crate::support::Backend::$backend;
                    if let Some(server) = $spawn(backend).await {
                        body(server).await;
                    }
                }
            )*
        }
    };
}
