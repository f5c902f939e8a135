//! Logs and spans through `tracing`: lines for people or JSON, and spans to an OTLP collector where one is configured.
//! Without a collector a request makes no span at all; its trace context is still carried from client to owner.

use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::KeyValue;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::{Error, TraceContext, Traceparent};
use crate::config::{self, Validate};
use crate::seam::{Random, Spawner};

/// The table `telemetry` of a program's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which log lines are written: a level, or levels by module, such as `info,berth_node::journal=debug`. By default
    /// openraft's warnings are left out, which accompany every vote, and the errors of its heartbeats, which accompany every stop.
    pub filter: String,
    pub format: LogFormat,
    /// The gRPC address of an OTLP collector, such as `http://127.0.0.1:4317`. Absent: no spans are made.
    pub otlp_endpoint: Option<String>,
    /// The share of traces started here that are exported, 0 to 1. A caller's own decision in `traceparent` is kept.
    pub sample_ratio: f64,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, in colours on a terminal.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        let filter = "info,openraft=error,openraft::core::heartbeat=off".to_owned();
        Self { filter, format: LogFormat::Pretty, otlp_endpoint: None, sample_ratio: 1.0 }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), config::Error> {
        let is_filter = EnvFilter::try_new(&self.filter).is_ok();
        let filters = "log filters such as \"info\" or \"info,berth_node=debug\"";
        config::allow(is_filter, "filter", format!("{:?}", self.filter), filters)?;
        if let Some(endpoint) = &self.otlp_endpoint {
            let addresses = "addresses such as \"http://127.0.0.1:4317\"";
            config::allow(endpoint.starts_with("http://"), "otlp_endpoint", format!("{endpoint:?}"), addresses)?;
        }
        config::within("sample_ratio", self.sample_ratio, 0.0..=1.0)
    }
}

/// What keeps the export of spans going. Hold it until the process ends, then [`Telemetry::shutdown`].
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Whether requests make spans. Handed to every part that serves requests; a copy costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracing {
    exports: bool,
}

/// Which side of a call a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers a request.
    Server,
    /// Sends one on.
    Client,
}

/// The span of one request, and the trace context to pass on to whoever works for it.
#[derive(Clone, Debug)]
pub struct RequestSpan {
    /// Disabled where nothing is exported. Enter it around the work, or instrument the work's future with it.
    pub span: Span,
    pub traceparent: Traceparent,
}

/// How long [`Telemetry::shutdown`] waits for a collector.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sets up logs, and the export of spans where an endpoint is configured, for this process. `service_name` and `instance`
/// tell its spans from others'. With an endpoint it must be called within a tokio runtime.
pub fn init(config: &Config, service_name: &str, instance: &str) -> Result<Telemetry, Error> {
    let (subscriber, telemetry) = build(config, service_name, instance)?;
    subscriber.try_init().map_err(|error| Error::AlreadySet(error.to_string()))?;
    Ok(telemetry)
}

fn build(
    config: &Config,
    service_name: &str,
    instance: &str,
) -> Result<(impl Subscriber + Send + Sync + 'static, Telemetry), Error> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| Error::Filter { filter: config.filter.clone(), detail: error.to_string() })?;
    let provider = match &config.otlp_endpoint {
        Some(endpoint) => Some(provider(endpoint, config.sample_ratio, service_name, instance)?),
        None => None,
    };
    let spans = provider.as_ref().map(|provider| {
        // Only our own spans: those of the exporter's connection would beget more spans with every export.
        let ours = Targets::new().with_target("berth", LevelFilter::INFO);
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("berth")).with_location(false);
        layer.with_threads(false).with_tracked_inactivity(false).with_filter(ours)
    });
    let subscriber = tracing_subscriber::registry().with(log_layer(config.format).with_filter(filter)).with(spans);
    Ok((subscriber, Telemetry { provider }))
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // Logs go to standard error, so that standard output stays for what a program says to its user.
    match format {
        LogFormat::Pretty => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            fmt::layer().with_writer(std::io::stderr).with_ansi(colours).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    }
}

fn provider(endpoint: &str, sample_ratio: f64, service_name: &str, instance: &str) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| Error::Endpoint { endpoint: endpoint.to_owned(), detail: error.to_string() })?;
    let resource = Resource::builder()
        .with_service_name(service_name.to_owned())
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio)));
    // The batch exporter queues at most 2,048 spans and drops beyond, on a thread of its own.
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).with_sampler(sampler).build())
}

impl Telemetry {
    pub fn tracing(&self) -> Tracing {
        Tracing { exports: self.provider.is_some() }
    }

    /// Exports what is left, for at most five seconds.
    pub async fn shutdown(self, spawner: Spawner) -> Result<(), Error> {
        let Some(provider) = self.provider else { return Ok(()) };
        let flushed = spawner.blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
        flushed.map_err(|error| Error::Flush(error.to_string()))
    }
}

impl Tracing {
    /// No request makes a span.
    pub const OFF: Self = Self { exports: false };

    pub fn exports(self) -> bool {
        self.exports
    }

    /// The span of one request that came with `received`, or starts a trace. `name` is one of few, such as
    /// `POST /v1/entities/{kind}/{id}/{command}`: no ids in it.
    ///
    /// Without export this makes no span, and passes on what was received.
    pub fn request(
        self,
        name: &'static str,
        role: Role,
        received: Option<TraceContext<'_>>,
        random: &dyn Random,
    ) -> RequestSpan {
        if !self.exports {
            let traceparent = received.map_or_else(|| Traceparent::start(random), |received| received.parent);
            return RequestSpan { span: Span::none(), traceparent };
        }
        let kind = match role {
            Role::Server => "server",
            Role::Client => "client",
        };
        let span = tracing::info_span!(target: "berth", "request", otel.name = name, otel.kind = kind);
        if let Some(received) = received {
            // Fails only where the span is disabled or no collector listens, and then there is no trace to hold together.
            let _ = span.set_parent(Context::new().with_remote_span_context(remote(received)));
        }
        let made = traceparent_of(&span);
        let traceparent =
            made.or(received.map(|received| received.parent)).unwrap_or_else(|| Traceparent::start(random));
        RequestSpan { span, traceparent }
    }
}

fn remote(TraceContext { parent, state }: TraceContext<'_>) -> SpanContext {
    let flags = if parent.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let trace_id = TraceId::from(parent.trace_id());
    // A malformed one is dropped, as the standard demands.
    let state = TraceState::from_str(state).unwrap_or_default();
    SpanContext::new(trace_id, SpanId::from(parent.parent_id()), flags, true, state)
}

fn traceparent_of(span: &Span) -> Option<Traceparent> {
    let context = span.context();
    let context = context.span().span_context().clone();
    let (trace_id, span_id) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
    Traceparent::new(u128::from_be_bytes(trace_id), u64::from_be_bytes(span_id), context.is_sampled())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::seam::Seams;
    use crate::seam::random::SeededRandom;

    const RECEIVED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn exporting_to(endpoint: &str) -> Config {
        Config { otlp_endpoint: Some(endpoint.to_owned()), ..Config::default() }
    }

    #[test]
    fn without_a_collector_a_request_makes_no_span_and_passes_the_trace_on() {
        let random = SeededRandom::new(1);
        let (subscriber, telemetry) = build(&Config::default(), "berth-node", "a").unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let received = TraceContext::parse(RECEIVED);
            let request = telemetry.tracing().request("GET", Role::Server, received, &random);
            assert!(request.span.is_disabled());
            assert_eq!(Some(request.traceparent), received.map(|received| received.parent));
            let started = telemetry.tracing().request("GET", Role::Server, None, &random);
            assert_ne!(started.traceparent.trace_id(), 0);
        });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_a_collector_a_request_continues_the_trace_it_came_with() {
        // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let random = SeededRandom::new(1);
        let (subscriber, telemetry) = build(&exporting_to("http://127.0.0.1:1"), "berth-node", "a").unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let received = Traceparent::parse(RECEIVED).unwrap();
            let context = TraceContext { parent: received, state: "rojo=1,congo=2" };
            let request = telemetry.tracing().request("GET", Role::Server, Some(context), &random);
            assert!(!request.span.is_disabled());
            assert_eq!(request.traceparent.trace_id(), received.trace_id());
            assert_ne!(request.traceparent.parent_id(), received.parent_id());
            assert!(request.traceparent.is_sampled());
            let context = request.span.context();
            assert_eq!(context.span().span_context().trace_state().header(), "rojo=1,congo=2");
            // What the caller does not record is not recorded here.
            let parent = Traceparent::new(7, 7, false).unwrap();
            let unsampled = TraceContext { parent, state: "=malformed" };
            let request = telemetry.tracing().request("GET", Role::Server, Some(unsampled), &random);
            assert!(!request.traceparent.is_sampled());
            assert_eq!(request.traceparent.trace_id(), 7);
        });
    }

    /// A listener in place of a collector: enough of HTTP/2 to receive one call, whose bytes show what was exported.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shutdown_sends_what_is_left_to_the_collector() {
        // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let seams = Seams::system();
        let mut listener = seams.network.listen("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_address().unwrap());
        let collector = seams.spawner.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An empty SETTINGS frame is all the client needs to hear before it sends.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut received = Vec::new();
            let mut chunk = [0; 4096];
            while !received.windows(11).any(|w| w == b"berth-probe") || !received.windows(9).any(|w| w == b"GET /test")
            {
                match stream.read(&mut chunk).await {
                    Ok(length) if length > 0 => received.extend_from_slice(&chunk[..length]),
                    _ => break,
                }
            }
            received
        });
        let (subscriber, telemetry) = build(&exporting_to(&endpoint), "berth-probe", "instance-7").unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let received = TraceContext::parse(RECEIVED);
            drop(telemetry.tracing().request("GET /test", Role::Server, received, &SeededRandom::new(1)));
        });
        // The listener never answers the call, so that the exporter reports a failure; what counts is what it sent.
        let _ = telemetry.shutdown(seams.spawner).await;
        let received = collector.await.unwrap();
        let contains = |needle: &[u8]| received.windows(needle.len()).any(|window| window == needle);
        assert!(contains(b"PRI * HTTP/2.0"));
        assert!(contains(b"berth-probe") && contains(b"instance-7") && contains(b"GET /test"));
        let trace_id = Traceparent::parse(RECEIVED).unwrap().trace_id().to_be_bytes();
        assert!(contains(&trace_id), "the exported span is in the caller's trace");
    }

    #[test]
    fn bad_values_are_refused_with_what_is_allowed() {
        let refused = |config: Config| config.validate().unwrap_err().to_string();
        let error = refused(Config { filter: "info,=".into(), ..Config::default() });
        assert!(error.starts_with("filter: \"info,=\" is not allowed"), "{error}");
        let error = refused(exporting_to("collector:4317"));
        assert!(error.starts_with("otlp_endpoint: \"collector:4317\" is not allowed"), "{error}");
        let error = refused(Config { sample_ratio: 1.5, ..Config::default() });
        assert_eq!(error, "sample_ratio: 1.5 is not allowed; allowed are 0 to 1");
        assert!(Config::default().validate().is_ok());
    }
}
