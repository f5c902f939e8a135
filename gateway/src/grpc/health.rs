//! The health service (`grpc.health.v1`): for the whole gateway, and for each service by name, whether requests can be routed.
//! It says what the admin port's `/readyz` says, and to everybody: so its streams have places of their own, and take none of those
//! that callers with a credential need.

use std::pin::Pin;

use berth_shared::problem::Code;
use futures_util::Stream;
use futures_util::stream;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::call::Call;
use super::protobuf::entities_server;
use super::status::Refusal;
use crate::api::problem::Problem;
use crate::api::streams::{Place, Streams};
use crate::readiness::Readiness;

/// Most streams of changes at once.
const WATCHES_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Health {
    readiness: Readiness,
    watches: Streams,
}

/// A stream of changes.
struct Watching {
    readiness: Readiness,
    is_known: bool,
    told: Option<HealthCheckResponse>,
    _place: Place,
}

impl Health {
    pub(super) fn new(readiness: Readiness) -> Self {
        Self { readiness, watches: Streams::new(WATCHES_MAX) }
    }
}

/// The whole gateway, or what is served here.
fn is_known(service: &str) -> bool {
    service.is_empty() || service == entities_server::SERVICE_NAME || service == health_server::SERVICE_NAME
}

fn answer(readiness: &Readiness) -> HealthCheckResponse {
    let status = if readiness.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: tonic_health::pb::health_check_response::ServingStatus::from(status).into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("no such service"));
        }
        Ok(Response::new(answer(&self.readiness)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::of(&request)?;
        let overloaded = || Problem::new(Code::Overloaded, "this gateway's health has as many watchers as it may");
        let place = self.watches.enter().ok_or_else(overloaded);
        let place = place.map_err(|problem| Refusal::from(problem).into_status(call.traceparent))?;
        let is_known = is_known(&request.get_ref().service);
        let watching = Watching { readiness: self.readiness.clone(), is_known, told: None, _place: place };
        Ok(Response::new(Box::pin(stream::unfold(watching, next))))
    }
}

/// What is to be told next, once there is something; none when the gateway has ended.
async fn next(mut watching: Watching) -> Option<(Result<HealthCheckResponse, Status>, Watching)> {
    loop {
        let now = if watching.is_known {
            answer(&watching.readiness)
        } else {
            let unknown = tonic_health::pb::health_check_response::ServingStatus::ServiceUnknown;
            HealthCheckResponse { status: unknown.into() }
        };
        if watching.told.as_ref() != Some(&now) {
            watching.told = Some(now);
            return Some((Ok(now), watching));
        }
        if !watching.readiness.changed().await {
            return None;
        }
    }
}
