//! `tiltyard health`, for what looks after containers: an image needs no HTTP client then.

use std::net::SocketAddr;
use std::time::Duration;

use super::{block_on, say, settings};
use crate::config::{Overrides, Settings};
use crate::error::{Error, Result};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(super) struct Health {
    /// Where the server is [default: where the same settings let it listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Ask whether database and storage answer, too
    #[arg(long)]
    ready: bool,

    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(health: &Health) -> Result<()> {
    let settings = settings(&health.overrides)?;
    let url = health.url.clone().map_or_else(|| listens_at(&settings), Ok)?;
    let page = if health.ready { "readyz" } else { "healthz" };
    block_on(ask(&format!("{}/{page}", url.trim_end_matches('/'))))?;
    say("ok");
    Ok(())
}

/// # Errors
/// `ServiceUnavailable` when it does not answer, or says that something does not.
async fn ask(url: &str) -> Result<()> {
    let unwell = |what: &dyn std::fmt::Display| {
        Error::ServiceUnavailable(format!("the server at {url} is not well: {what}"))
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        // It is asked whether it is up, at an address that need not be in its certificate.
        .tls_danger_accept_invalid_certs(true)
        .build()
        .map_err(|error| Error::internal("making a client", error))?;
    let answer = client.get(url).send().await.map_err(|error| unwell(&error))?;
    let status = answer.status();
    let told = answer.text().await.map_err(|error| unwell(&error))?;
    if status.is_success() { Ok(()) } else { Err(unwell(&told)) }
}

fn listens_at(settings: &Settings) -> Result<String> {
    let listen = &settings.listen;
    let scheme = if settings.tls_key.is_some() { "https" } else { "http" };
    // Of all addresses of the machine, this one is its own.
    let address = match listen.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(at)) if at.ip().is_unspecified() => format!("127.0.0.1:{}", at.port()),
        Ok(SocketAddr::V6(at)) if at.ip().is_unspecified() => format!("[::1]:{}", at.port()),
        Ok(_) | Err(_) => listen.clone(),
    };
    if address.ends_with(":0") {
        return Err(Error::invalid_input("with a port of 0, --url has to say where the server is"));
    }
    Ok(format!("{scheme}://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_where_the_server_listens() {
        let at = |listen: &str| {
            listens_at(&Settings { listen: listen.into(), ..Settings::default() }).ok()
        };
        assert_eq!(at("0.0.0.0:80").as_deref(), Some("http://127.0.0.1:80"));
        assert_eq!(at("[::]:80").as_deref(), Some("http://[::1]:80"));
        assert_eq!(at("localhost:2333").as_deref(), Some("http://localhost:2333"));
        assert_eq!(at("127.0.0.1:0"), None);
        let tls_key = Some("key.pem".into());
        let settings = Settings { tls_key, ..Settings::default() };
        assert_eq!(listens_at(&settings).unwrap(), "https://127.0.0.1:2333");
    }
}
