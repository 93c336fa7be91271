//! `tiltyard serve`.

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, settings};
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
        let line = format!(
            "tiltyard listening on http://{address} (catalog {}, storage {})",
            without_password(&settings.database),
            settings.storage_root
        );
        server::run_announced(settings, listener, stop, || println!("{line}")).await
    })
}

/// Resolves at SIGTERM, and at Ctrl-C.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    let listen = |kind| signal(kind).map_err(|error| Error::internal("waiting for signals", error));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The URL of the database as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.into();
    };
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{}", host.split('?').next().unwrap_or(host))
        }
        None => url.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn the_start_up_line_holds_no_password() {
        let url = "postgres://me:secret@db:5432/tiltyard?sslmode=require";
        assert_eq!(without_password(url), "postgres://me@db:5432/tiltyard");
        assert_eq!(without_password("sqlite://a/b.db"), "sqlite://a/b.db");
    }
}
