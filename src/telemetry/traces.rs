//! Traces for OpenTelemetry, sent to a collector by OTLP over HTTP: requests, the statements and the
//! calls of storage that they cause.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Error, Result};

/// Where a collector takes traces, by OTLP.
const PATH: &str = "/v1/traces";

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// What sends spans to a collector, named as `http://host:port`. To be called outside of a runtime.
/// The variables of OpenTelemetry that have no setting of ours count: `OTEL_EXPORTER_OTLP_HEADERS`,
/// `OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`.
///
/// # Errors
/// `InvalidInput` for what is not such a URL.
pub(super) fn layer<S>(endpoint: &str) -> Result<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}{PATH}", endpoint.trim_end_matches('/').trim_end_matches(PATH)))
        .build()
        .map_err(|error| Error::invalid_input(format!("otlp_endpoint: {error}")))?;
    let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).build();
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
    let _ = PROVIDER.set(provider);
    let shown = Targets::new()
        .with_target("tiltyard", LevelFilter::DEBUG)
        .with_target("sqlx::query", LevelFilter::DEBUG)
        .with_target("lance_io::object_store", LevelFilter::DEBUG);
    Ok(tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_filter(shown.and(super::asked_each_time())))
}

/// For how long the last traces are waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sends what was not sent yet. To be called outside of a runtime.
pub(super) fn finish() {
    let sent = PROVIDER.get().map(|provider| provider.shutdown_with_timeout(PATIENCE));
    if let Some(Err(error)) = sent {
        tracing::warn!(%error, "the last traces could not be sent");
    }
}

/// Whether traces are sent.
pub fn is_on() -> bool {
    PROVIDER.get().is_some()
}

/// Makes a span a part of the trace that a caller told of in its headers (`traceparent`, of W3C's
/// Trace Context).
pub fn continue_trace<'h>(span: &Span, header: impl Fn(&str) -> Option<&'h str>) {
    struct Headers(HashMap<&'static str, String>);

    impl Extractor for Headers {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key).map(String::as_str)
        }

        fn keys(&self) -> Vec<&str> {
            Vec::new()
        }
    }

    if is_on() {
        let told = ["traceparent", "tracestate"];
        let told = told.into_iter().filter_map(|name| Some((name, header(name)?.to_owned())));
        let context = TraceContextPropagator::new().extract(&Headers(told.collect()));
        // Fails for a span that nobody takes.
        let _ = span.set_parent(context);
    }
}
