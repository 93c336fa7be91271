//! `tiltyard serve`.

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{block_on, settings};
use crate::auth::FIRST_ADMIN;
use crate::config::{Overrides, without_secrets};
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
            without_secrets(&settings.database),
            without_secrets(&settings.storage_root)
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
