//! `tiltyard serve`.

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, settings};
use crate::auth::FIRST_ADMIN;
use crate::config::Overrides;
use crate::error::{Error, Result};
use crate::server;

#[derive(clap::Args)]
pub(super) struct Serve {
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(serve: &Serve) -> Result<()> {
    let settings = settings(&serve.overrides)?;
    block_on(async move {
        let listener = TcpListener::bind(&settings.listen).await.map_err(|error| {
            Error::invalid_input(format!("cannot listen on {}: {error}", settings.listen))
        })?;
        let address =
            listener.local_addr().map_err(|error| Error::internal("reading the address", error))?;
        let stop = stop_signal()?;
        let scheme = if settings.tls_key.is_some() { "https" } else { "http" };
        let line = format!(
            "tiltyard listening on {scheme}://{address} (catalog {}, storage {})",
            without_password(&settings.database),
            settings.storage_root
        );
        let ready = |first_key: Option<&str>| {
            if let Some(key) = first_key {
                println!("the first API key, for '{FIRST_ADMIN}', is shown this once: {key}");
            }
            println!("{line}");
        };
        server::run_announced(settings, listener, stop, ready).await
    })
}

/// Resolves at SIGTERM, and at Ctrl-C. A second one ends the process at once.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    let listen = |kind| signal(kind).map_err(|error| Error::internal("waiting for signals", error));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        next().await;
        tokio::spawn(async move {
            next().await;
            tracing::warn!("a second signal: stopping at once");
            std::process::exit(130);
        });
    })
}

/// The URL of the database as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    if scheme == "sqlite" {
        return url.into();
    }
    // A password may stand before the host, and in the query.
    let rest = rest.split('?').next().unwrap_or(rest);
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            format!("{scheme}://{}@{host}", user.split(':').next().unwrap_or_default())
        }
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn the_start_up_line_holds_no_password() {
        let url = "postgres://me:secret@db:5432/tiltyard?sslmode=require";
        assert_eq!(without_password(url), "postgres://me@db:5432/tiltyard");
        let url = "postgres://db/tiltyard?user=me&password=secret";
        assert_eq!(without_password(url), "postgres://db/tiltyard");
        assert_eq!(without_password("sqlite://a/b.db"), "sqlite://a/b.db");
    }
}
