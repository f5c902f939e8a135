//! The health service (`grpc.health.v1`): for the whole gateway, and for each service by name, whether requests can be routed.
//! It says what the admin port's `/readyz` says, and to everybody: so its streams have places of their own, and take none of those
//! that callers with a credential need. They end after a while, because nobody who is not known may keep a place for ever.

use std::pin::Pin;

use berth_shared::problem::Code;
use berth_shared::seam::Spawner;
use berth_shared::telemetry::Traceparent;
use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::{FutureExt, Stream};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::call::Call;
use super::protobuf::entities_server;
use super::status::Refusal;
use crate::api::live::LIFE_MAX;
use crate::api::problem::Problem;
use crate::api::streams::{Place, Streams};
use crate::readiness::Readiness;

/// Most streams of changes at once.
const WATCHES_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Health {
    readiness: Readiness,
    watches: Streams,
    spawner: Spawner,
}

/// A stream of changes.
struct Watching {
    readiness: Readiness,
    is_known: bool,
    told: Option<HealthCheckResponse>,
    /// Until it has lasted as long as one may.
    old: BoxFuture<'static, ()>,
    traceparent: Traceparent,
    _place: Place,
}

impl Health {
    pub(super) fn new(readiness: Readiness, spawner: Spawner) -> Self {
        Self { readiness, watches: Streams::new(WATCHES_MAX), spawner }
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
        let watching = Watching {
            readiness: self.readiness.clone(),
            is_known,
            told: None,
            old: self.spawner.sleep(LIFE_MAX).boxed(),
            traceparent: call.traceparent,
            _place: place,
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(watching), next))))
    }
}

/// What is to be told next, once there is something; none when the gateway has ended, or after the last word.
async fn next(watching: Option<Watching>) -> Option<(Result<HealthCheckResponse, Status>, Option<Watching>)> {
    let mut watching = watching?;
    loop {
        let now = if watching.is_known {
            answer(&watching.readiness)
        } else {
            let unknown = tonic_health::pb::health_check_response::ServingStatus::ServiceUnknown;
            HealthCheckResponse { status: unknown.into() }
        };
        if watching.told.as_ref() != Some(&now) {
            watching.told = Some(now);
            return Some((Ok(now), Some(watching)));
        }
        let changed = tokio::select! {
            biased;
            () = &mut watching.old => {
                let problem = Problem::new(Code::Unavailable, "this watch lasted as long as one may; watch again");
                return Some((Err(Refusal::from(problem).into_status(watching.traceparent)), None));
            }
            changed = watching.readiness.changed() => changed,
        };
        if !changed {
            return None;
        }
    }
}
