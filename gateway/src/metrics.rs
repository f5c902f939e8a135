//! What the gateway counts. Labels take only values from the lists below, never anything that a client makes up.

use std::sync::OnceLock;
use std::time::Duration;

use berth_shared::telemetry::{self, Counter, Gauge, Histogram, LATENCY_SECONDS};
use http::StatusCode;

use crate::admission::{Admission, Full};
use crate::api::streams::Streams;

/// Requests refused for their credential or its roles, by port and reason.
pub(crate) const REFUSALS: &str = "berth_gateway_auth_refusals_total";

/// What kind of request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Command,
    Delete,
    State,
    Events,
    Listing,
    Kinds,
    /// The description of the API, and the page that shows it.
    Description,
    Other,
}

/// What came of one call to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallResult {
    Answered,
    Refused,
    WrongOwner,
    NoOwner,
    NodeBusy,
    NotExecuted,
    Unknown,
}

const ROUTES: [Route; 8] = [
    Route::Command,
    Route::Delete,
    Route::State,
    Route::Events,
    Route::Listing,
    Route::Kinds,
    Route::Description,
    Route::Other,
];
const CALL_RESULTS: [(CallResult, &str); 7] = [
    (CallResult::Answered, "answered"),
    (CallResult::Refused, "refused"),
    (CallResult::WrongOwner, "wrong-owner"),
    (CallResult::NoOwner, "no-owner"),
    (CallResult::NodeBusy, "node-busy"),
    (CallResult::NotExecuted, "not-executed"),
    (CallResult::Unknown, "unknown"),
];
const FULL: [(Full, &str); 2] = [(Full::Gateway, "gateway"), (Full::Entity, "entity")];
/// Every status that the gateway answers with. One that is missing here would be counted as the last.
const STATUSES: [u16; 21] =
    [200, 204, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 412, 413, 415, 422, 429, 431, 503, 504, 500];

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: telemetry::Metrics,
    /// By route and status. Registered when first used, so that the page has no lines for what never happens.
    requests: [[OnceLock<Counter>; STATUSES.len()]; ROUTES.len()],
    durations: [Histogram; ROUTES.len()],
    calls: [Counter; CALL_RESULTS.len()],
    /// Requests refused for a bound of this gateway, by which.
    full: [Counter; FULL.len()],
    pub(crate) map_changes: Counter,
    pub(crate) map_refusals: Counter,
    pub(crate) connections: Gauge,
    /// Live histories whose readers were too slow.
    pub(crate) streams_cut: Counter,
}

impl Route {
    /// The name of a request's span.
    pub(crate) fn span(self) -> &'static str {
        match self {
            Self::Command => "POST /v1/entities/{kind}/{id}/{command}",
            Self::Delete => "DELETE /v1/entities/{kind}/{id}",
            Self::State => "GET /v1/entities/{kind}/{id}",
            Self::Events => "GET /v1/entities/{kind}/{id}/events",
            Self::Listing => "GET /v1/entities/{kind}",
            Self::Kinds => "GET /v1/kinds",
            Self::Description => "GET /openapi.json",
            Self::Other => "other",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Delete => "delete",
            Self::State => "state",
            Self::Events => "events",
            Self::Listing => "listing",
            Self::Kinds => "kinds",
            Self::Description => "description",
            Self::Other => "other",
        }
    }
}

impl Metrics {
    pub(crate) fn new(registry: telemetry::Metrics, admission: &Admission, streams: &Streams) -> Self {
        let duration = |route: Route| {
            let help = "Time from a request's headers to its answer.";
            registry.histogram("berth_gateway_request_seconds", help, &LATENCY_SECONDS, &[("route", route.label())])
        };
        let call = |(_, label): (CallResult, &'static str)| {
            registry.counter("berth_gateway_node_calls_total", "Attempts at nodes, by result.", &[("result", label)])
        };
        let full = |(_, label): (Full, &'static str)| {
            let help = "Requests refused because too many others were being served, in all or of the same entity.";
            registry.counter("berth_gateway_full_total", help, &[("bound", label)])
        };
        let (taken, limit, least) = (admission.clone(), admission.clone(), admission.clone());
        let in_flight = move || taken.taken() as f64;
        registry.observed_gauge("berth_gateway_in_flight", "Requests being served.", &[], in_flight);
        let help = "Requests that may be served at once just now, by all nodes that are known together.";
        registry.observed_gauge("berth_gateway_in_flight_limit", help, &[], move || limit.limit() as f64);
        let help = "Requests that may be served at once just now by the node with the lowest limit.";
        let least = move || least.least_node_limit() as f64;
        registry.observed_gauge("berth_gateway_node_in_flight_limit_least", help, &[], least);
        let streams = streams.clone();
        let help = "Live histories and long polls.";
        registry.observed_gauge("berth_gateway_streams", help, &[], move || streams.taken() as f64);
        Self {
            requests: [const { [const { OnceLock::new() }; STATUSES.len()] }; ROUTES.len()],
            durations: ROUTES.map(duration),
            calls: CALL_RESULTS.map(call),
            full: FULL.map(full),
            map_changes: registry.counter("berth_gateway_map_changes_total", "News of the shard map.", &[]),
            map_refusals: registry.counter(
                "berth_gateway_map_refusals_total",
                "Messages of nodes that are not of this cluster or speak of another number of shards.",
                &[],
            ),
            connections: registry.gauge("berth_gateway_http_connections", "Connections of clients.", &[]),
            streams_cut: registry.counter(
                "berth_gateway_streams_cut_total",
                "Live histories that were cut off because nothing was read for too long.",
                &[],
            ),
            registry,
        }
    }

    pub(crate) fn registry(&self) -> &telemetry::Metrics {
        &self.registry
    }

    pub(crate) fn count_request(&self, route: Route, status: StatusCode, duration: Duration) {
        let position = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        let counter = self.requests[route as usize][position].get_or_init(|| {
            let labels = [("route", route.label()), ("status", status.as_str())];
            self.registry.counter("berth_gateway_requests_total", "Requests answered.", &labels)
        });
        counter.increment();
        self.durations[route as usize].record_duration(duration);
    }

    pub(crate) fn count_full(&self, full: Full) {
        self.full[full as usize].increment();
    }

    pub(crate) fn count_call(&self, result: CallResult) {
        self.calls[result as usize].increment();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_own_place() {
        assert!(ROUTES.iter().enumerate().all(|(place, route)| *route as usize == place));
        assert!(FULL.iter().enumerate().all(|(place, (full, _))| *full as usize == place));
        assert!(CALL_RESULTS.iter().enumerate().all(|(place, (result, _))| *result as usize == place));
    }
}
