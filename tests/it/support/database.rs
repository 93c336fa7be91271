//! A fresh database for each server.

use std::path::Path;
use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, QueryBuilder};

use super::{Backend, needed, secrets};

/// Names the PostgreSQL server of the tests, as `postgres://user@host:port/postgres`.
const POSTGRES_VARIABLE: &str = "TILTYARD_TEST_POSTGRES";

/// Where one test's catalog lives.
pub enum Database {
    Sqlite { url: String },
    Postgres { admin_url: String, name: String, url: String },
}

impl Database {
    /// `None` when there is no PostgreSQL server to use.
    pub async fn create(backend: Backend, home: &Path) -> Option<Self> {
        match backend {
            Backend::Sqlite => {
                let url = format!("sqlite://{}", home.join("catalog.db").display());
                Some(Self::Sqlite { url })
            }
            Backend::Postgres | Backend::S3 => {
                let admin_url = admin_url()?;
                let name = format!("tiltyard_test_{}", uuid::Uuid::new_v4().simple());
                create_database(&admin_url, &name).await;
                let url = with_database(&admin_url, &name);
                Some(Self::Postgres { admin_url, name, url })
            }
        }
    }

    /// Whether PostgreSQL is there to be tested with.
    pub fn has_postgres() -> bool {
        admin_url().is_some()
    }

    pub fn url(&self) -> &str {
        match self {
            Self::Sqlite { url } | Self::Postgres { url, .. } => url,
        }
    }

    /// Takes the database away, cutting whoever is connected to it.
    pub async fn remove(&self) {
        if let Self::Postgres { admin_url, name, .. } = self
            && let Err(error) =
                run(admin_url, "DROP DATABASE IF EXISTS ", name, " WITH (FORCE)").await
        {
            eprintln!("the database {name} was not dropped: {error}");
        }
    }

    /// As [`Self::remove`], where nothing can be awaited.
    pub fn remove_blocking(&self) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(self.remove());
                }
            });
        });
    }
}

/// The URL of the tests' PostgreSQL server. A missing one fails in CI and is said elsewhere.
pub fn admin_url() -> Option<String> {
    let url = needed(POSTGRES_VARIABLE, "test PostgreSQL too")?;
    let user = url.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    if let Some((_, password)) = user.and_then(|(user, _)| user.split_once(':')) {
        secrets::register(password);
    }
    Some(url)
}

async fn create_database(admin_url: &str, name: &str) {
    for attempt in 1.. {
        match run(admin_url, "CREATE DATABASE ", name, "").await {
            Ok(()) => return,
            // Two sessions that copy the template at once can get in each other's way.
            Err(_) if attempt < 10 => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(error) => panic!("could not create the database {name}: {error}"),
        }
    }
}

/// Names of databases cannot be bound, so the statement is put together; `name` is ours.
async fn run(admin_url: &str, before: &str, name: &str, after: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(admin_url).await?;
    let mut statement = QueryBuilder::<Postgres>::new(before);
    statement.push(name).push(after);
    let outcome = statement.build().persistent(false).execute(&mut connection).await;
    connection.close().await?;
    outcome.map(|_| ())
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> String {
    let (address, query) = match url.split_once('?') {
        Some((address, query)) => (address, format!("?{query}")),
        None => (url, String::new()),
    };
    let host_at = address.find("://").map_or(0, |at| at + 3);
    let host_ends = address[host_at..].find('/').map_or(address.len(), |at| host_at + at);
    format!("{}/{name}{query}", &address[..host_ends])
}
