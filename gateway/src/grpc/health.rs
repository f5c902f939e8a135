//! The health service (`grpc.health.v1`): for the whole gateway, and for each service by name, whether requests can be routed.
//! It says what the admin port's `/readyz` says.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::call::Call;
use super::protobuf::entities_server;
use super::status::Refusal;
use crate::api::Api;
use crate::api::streams::Place;
use crate::nodes::Nodes;
use crate::readiness::Readiness;

#[derive(Debug)]
pub(super) struct Health<N> {
    api: Arc<Api<N>>,
    readiness: Readiness,
}

/// A stream of changes.
struct Watching {
    readiness: Readiness,
    is_known: bool,
    told: Option<HealthCheckResponse>,
    place: Place,
}

impl<N: Nodes> Health<N> {
    pub(super) fn new(api: Arc<Api<N>>, readiness: Readiness) -> Self {
        Self { api, readiness }
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
impl<N: Nodes> health_server::Health for Health<N> {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("no such service"));
        }
        Ok(Response::new(answer(&self.readiness)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::of(&request)?;
        let refused = |problem| Refusal::from(problem).into_status(call.traceparent);
        let place = self.api.enter_stream().map_err(refused)?;
        let is_known = is_known(&request.get_ref().service);
        let watching = Watching { readiness: self.readiness.clone(), is_known, told: None, place };
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
        let ending = watching.place.ending().clone();
        if ending.is_cancelled() || !watching.readiness.changed().await {
            return None;
        }
    }
}
