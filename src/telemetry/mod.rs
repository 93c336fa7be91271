//! What a server tells of itself: the log, one line an event, as text for people or as JSON for
//! machines; traces; and what it counts.

pub mod meters;
pub mod traces;

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt, dynamic_filter_fn};
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::error::Result;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Installs the process-wide subscriber. `filter` is in `tracing`'s syntax, such as
/// `info,tiltyard=debug`; `collector` is where traces are sent by OTLP, if anywhere. A second call
/// keeps the first subscriber. To be called outside of a runtime.
///
/// # Errors
/// `InvalidInput` for a collector that is not a URL.
pub fn install(format: LogFormat, filter: &str, collector: Option<&str>) -> Result<()> {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines =
        fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(filter.and(asked_each_time()));
    let traces = collector.map(traces::layer).transpose()?;
    // Failing means that a subscriber is installed already, which is what was asked for.
    let _ = tracing_subscriber::registry().with(lines).with(traces).try_init();
    Ok(())
}

/// Beside a filter of a layer, makes that it is asked of every span and event that it may let through.
/// One that it always lets through is not asked about, and is lost when the one before on its thread was
/// asked about and then not made, as sqlx does (<https://github.com/tokio-rs/tracing/issues/2519>).
fn asked_each_time<S>() -> impl Filter<S> {
    dynamic_filter_fn(|_, _| true).with_max_level_hint(LevelFilter::TRACE)
}

/// Sends what was not sent yet. To be called outside of a runtime, at the end of the process.
pub fn finish() {
    traces::finish();
}
