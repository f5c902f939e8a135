//! What the gateway counts of gRPC. Labels take only values from lists, never anything that a client makes up.

use std::sync::OnceLock;
use std::time::Duration;

use berth_shared::telemetry::{Counter, Histogram, LATENCY_SECONDS, Metrics};
use http::Response;
use tonic::{Code, Status};

use super::method::{METHODS, Method};

/// The codes of gRPC are the numbers below this one.
const CODES: usize = 17;

#[derive(Debug)]
pub(super) struct Counts {
    registry: Metrics,
    /// By method and code. Registered when first used, so that the page has no lines for what never happens.
    calls: [[OnceLock<Counter>; CODES]; METHODS.len()],
    durations: [Histogram; METHODS.len()],
}

impl Counts {
    pub(super) fn new(registry: Metrics) -> Self {
        let help = "Time from a call's metadata to its answer, or to the beginning of a stream.";
        let duration = |method: Method| {
            let labels = [("method", method.span())];
            registry.histogram("berth_gateway_grpc_call_seconds", help, &LATENCY_SECONDS, &labels)
        };
        Self {
            calls: [const { [const { OnceLock::new() }; CODES] }; METHODS.len()],
            durations: METHODS.map(duration),
            registry,
        }
    }

    /// A call that fails is answered with headers alone, which have the code.
    pub(super) fn count<B>(&self, method: Method, response: &Response<B>, duration: Duration) {
        let code =
            response.headers().get(Status::GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
        let place = (code as usize).min(CODES - 1);
        let counter = self.calls[method as usize][place].get_or_init(|| {
            let code = format!("{code:?}");
            let labels = [("method", method.span()), ("code", code.as_str())];
            self.registry.counter("berth_gateway_grpc_calls_total", "Calls of gRPC answered.", &labels)
        });
        counter.increment();
        self.durations[method as usize].record_duration(duration);
    }
}
