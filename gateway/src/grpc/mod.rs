//! gRPC beside REST, on the same port: calls are read and answered here, and what they ask goes the way that REST's requests go
//! (`api::asked`). This file is the door: which requests are gRPC's, what bounds them before anything is decoded, and what is
//! counted of them.

mod arriving;
mod call;
mod counts;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod method;
pub mod protobuf;
mod service;
mod status;
mod watch;

use std::sync::Arc;

use berth_shared::auth::{self, Principal};
use berth_shared::seam::BootInstant;
use berth_shared::telemetry::{Role, TraceContext};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, Version, header as names};
use http_body_util::Full;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;
use tracing::Instrument;

use self::arriving::Arriving;
use self::call::Call;
use self::counts::Counts;
use self::health::Health;
use self::method::Method;
use self::protobuf::entities_server::EntitiesServer;
use self::service::Service;
use crate::admission::rate::Quota;
use crate::api::body::{self, BODY_BYTES_MAX};
use crate::api::problem::Problem;
use crate::api::{Api, guard, header};
use crate::nodes::Nodes;
use crate::readiness::Readiness;

/// The descriptions of the services are broken, which only a broken build can bring about.
pub use tonic_reflection::server::Error;

/// What a message has besides the arguments of a command: names, keys and tokens, all of which are short.
const ENVELOPE_BYTES_MAX: usize = 16 * 1024;
/// Longest message of a call of ours.
const MESSAGE_BYTES_MAX: usize = BODY_BYTES_MAX + ENVELOPE_BYTES_MAX;
/// Longest message to the services beside ours, which name services and symbols, and of a call to follow a history.
const SMALL_MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// How messages are compressed.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// What stands before a message.
const PREFIX_BYTES: usize = 5;

/// Answers the gRPC requests of the public port.
#[derive(Debug)]
pub(crate) struct Grpc<N> {
    api: Arc<Api<N>>,
    routes: Routes,
    counts: Counts,
}

/// Whether a request is one of gRPC: it says so, and comes by HTTP/2, without which there are no trailers.
pub(crate) fn is_asked<B>(request: &Request<B>) -> bool {
    let Some(content_type) = request.headers().get(names::CONTENT_TYPE) else { return false };
    let media_type = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_grpc =
        [&b"application/grpc"[..], b"application/grpc+proto"].iter().any(|t| media_type.eq_ignore_ascii_case(t));
    is_grpc && request.version() == Version::HTTP_2
}

impl<N: Nodes> Grpc<N> {
    pub(crate) fn new(api: Arc<Api<N>>, readiness: Readiness) -> Result<Self, Error> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(protobuf::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let health = tonic_health::pb::health_server::HealthServer::new(Health::new(readiness, api.seams.spawner));
        let entities = EntitiesServer::new(Service::new(api.clone()));
        let routes = Routes::new(entities.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(health.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
            .add_service(reflection().build_v1()?.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
            // Which older tools ask for.
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX));
        let counts = Counts::new(api.metrics.registry().clone());
        Ok(Self { api, routes: routes.prepare(), counts })
    }

    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (seams, started) = (&self.api.seams, self.api.seams.clock.now());
        let method = Method::of(request.uri().path());
        let (parts, body) = request.into_parts();
        let state = header::tracestate(&parts.headers).into_owned();
        let received = header::trace_context(&parts.headers, &state);
        let trace = self.api.tracing.request(method.span(), Role::Server, received, &*seams.random);
        let traceparent = trace.traceparent.text();
        let passed_on = TraceContext::text_with(&traceparent, received.map_or("", |received| received.state));
        let mut quota = None;
        let served = async {
            let (principal, spent) = self.let_in(method, &parts, started);
            quota = spent;
            let call = Call::parse(&parts.headers, trace.traceparent, &passed_on, principal?, started)?;
            self.serve(method, Request::from_parts(parts, body), call).await
        };
        let mut response = match served.instrument(trace.span).await {
            Ok(response) => response,
            Err(problem) => status::of(problem, None, trace.traceparent).into_http(),
        };
        if let (Some(rates), Some(quota)) = (&self.api.rates, quota) {
            rates.show(quota, response.headers_mut());
        }
        self.counts.count(method, &response, seams.clock.now().since(started));
        response
    }

    /// Who may go on with this call, and what is left of their quota after it. Health is free, as OPTIONS is in REST.
    fn let_in(&self, method: Method, parts: &Parts, now: BootInstant) -> (Result<Principal, Problem>, Option<Quota>) {
        let asked = header::check_size(&parts.uri, &parts.headers)
            .and_then(|()| guard::check_host(parts))
            .and_then(|()| self.authenticate(method, &parts.headers));
        if method.is_health() { (asked, None) } else { self.api.spend(asked, now) }
    }

    async fn serve<B>(&self, method: Method, request: Request<B>, call: Call) -> Result<Response<Body>, Problem>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if method == Method::Other {
            return Err(Problem::method_not_allowed("", "there is no such method"));
        }
        let (mut parts, mut body) = request.into_parts();
        check_encoding(&parts.headers)?;
        let time = self.api.body_timeout.min(call.time_left(self.api.seams.clock.now()));
        parts.extensions.insert(call);
        if !method.is_ours() {
            return self.ask_beside(method, Request::from_parts(parts, body)).await;
        }
        // Until there is an answer, and before the message is read. A live history takes none, as in REST.
        let _permit = (method != Method::Watch).then(|| self.api.admit()).transpose()?;
        let most = if method == Method::Watch { SMALL_MESSAGE_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        let arriving = body::collect(&mut body, PREFIX_BYTES + most);
        let arrived = self.api.seams.spawner.timeout(time, arriving).await;
        let arrived = arrived.ok_or_else(Problem::request_timeout)??;
        status::check_read(self.ask(Request::from_parts(parts, Body::new(Full::new(arrived)))).await)
    }

    /// Who asks. Whether they may, is said by who knows what is asked for, but for what the gateway tells of itself: its health is
    /// for everybody, because probes have no credentials, and its services are for whoever may read anything.
    fn authenticate(&self, method: Method, headers: &HeaderMap) -> Result<Principal, Problem> {
        if method.is_health() {
            return Ok(Principal::nobody());
        }
        let principal = guard::authenticate(&self.api.guard, headers)?;
        if method == Method::Reflect {
            guard::authorize(&self.api.guard, &principal, auth::Role::Read, None)?;
        }
        Ok(principal)
    }

    /// Calls of the services beside ours. They touch no node, and what they stream has a place and an end.
    async fn ask_beside<B>(&self, method: Method, request: Request<B>) -> Result<Response<Body>, Problem>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let place = (method == Method::Reflect).then(|| self.api.enter_stream()).transpose()?;
        let request = request.map(|body| Body::new(Arriving::new(body, &self.api.seams, self.api.body_timeout, place)));
        Ok(self.ask(request).await)
    }

    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        self.routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

/// Messages are bounded as they arrive, so none may grow afterwards.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get_all(ENCODING).iter().all(|encoding| encoding == "identity") {
        Ok(())
    } else {
        Err(Problem::unsupported_media_type("messages must not be compressed"))
    }
}
