//! Logs, traces and metrics of one process. Nothing here is global but the subscriber of `tracing`, so that several nodes
//! and a gateway can run in one process and still be told apart. No entity id is ever a label of a metric.

mod metrics;
mod trace_context;
mod tracing_setup;

pub use metrics::{Counter, Gauge, Histogram, LATENCY_SECONDS, Metrics, SIZE_COUNTS};
pub use trace_context::{TraceContext, Traceparent, TraceparentText};
pub use tracing_setup::{Config, LogFormat, RequestSpan, Role, Telemetry, Tracing, init};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("telemetry.filter: {filter:?} is not a log filter such as \"info,berth_node=debug\": {detail}")]
    Filter { filter: String, detail: String },
    #[error("telemetry.otlp_endpoint: {endpoint:?} cannot be used: {detail}")]
    Endpoint { endpoint: String, detail: String },
    #[error("logs are already set up in this process: {0}")]
    AlreadySet(String),
    #[error("the exporter of spans did not finish: {0}")]
    Flush(String),
    #[error("metrics cannot be registered: {0}")]
    Metrics(String),
}
