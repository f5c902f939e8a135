//! The admin port: whether the process lives, whether it is ready, its metrics, and what the nodes report of the cluster.
//! Not for clients.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_shared::auth::{Guard, Role};
use berth_shared::key::EntityKey;
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{self, Traceparent};
use serde::Serialize;

use crate::api::problem::Problem;
use crate::nodes::Connections;
use crate::readiness::Readiness;

#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: telemetry::Metrics,
    pub(crate) connections: Arc<Connections>,
    pub(crate) guard: Guard,
    /// Whether metrics need no credential.
    pub(crate) metrics_open: bool,
    pub(crate) seams: Seams,
}

pub(crate) fn router(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/cluster", get(cluster))
        .route("/v1/cluster/shards", get(shards))
        .route("/v1/cluster/hashes", get(hashes))
        .route("/v1/cluster/explain/{kind}/{id}", get(explain))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), guard))
        .with_state(admin)
}

/// Lets everybody ask whether the process lives and is ready, and asks all others who they are.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if matches!(path, "/livez" | "/readyz") || (path == "/metrics" && admin.metrics_open) {
        return next.run(request).await;
    }
    let headers = request.headers().get_all(header::AUTHORIZATION).iter().map(header::HeaderValue::as_bytes);
    // Nothing here changes anything.
    let allowed = admin.guard.authenticate(headers).and_then(|who| admin.guard.authorize_all(&who, Role::Read));
    match allowed {
        Ok(()) => next.run(request).await,
        Err(refusal) => admin.problem(Problem::of_guard(refusal), request.uri()),
    }
}

/// Ready when requests for every entity can be routed, until all nodes are lost or a shutdown begins.
async fn ready(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    if admin.readiness.is_ready() {
        return "ready\n".into_response();
    }
    let detail = "not ready: no owner is known of some shard, or no node is connected";
    admin.problem(Problem::new(Code::Unavailable, detail), &uri)
}

async fn metrics(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    match admin.metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, telemetry::Metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!("metrics cannot be shown: {error}");
            admin.problem(Problem::new(Code::Unavailable, "metrics cannot be shown"), &uri)
        }
    }
}

async fn cluster(State(admin): State<Arc<Admin>>) -> Response {
    json(&admin.connections.gather().await.cluster())
}

async fn shards(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    let Some(shards) = admin.connections.shards() else { return admin.unmapped(&uri) };
    json(&admin.connections.gather().await.shards(shards))
}

async fn hashes(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    let Some(shards) = admin.connections.shards() else { return admin.unmapped(&uri) };
    json(&admin.connections.gather().await.hashes(shards))
}

/// `/v1/cluster/explain/{kind}/{id}`, or why it names no entity.
type Named = Result<Path<(String, String)>, PathRejection>;

async fn explain(State(admin): State<Arc<Admin>>, path: Named, uri: Uri) -> Response {
    let key = match &path {
        Ok(Path((kind, id))) => EntityKey::new(kind, id).map_err(|error| error.to_string()),
        Err(_) => Err("kind and id are not UTF-8 once their percent-encoding is undone".to_owned()),
    };
    let key = match key {
        Ok(key) => key,
        Err(why) => return admin.problem(Problem::invalid(why), &uri),
    };
    let Some(shards) = admin.connections.shards() else { return admin.unmapped(&uri) };
    json(&admin.connections.gather().await.explain(&key, shards))
}

fn json(view: &impl Serialize) -> Response {
    // Text, numbers and lists always serialize.
    let body = serde_json::to_vec(view).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn unknown_path(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    admin.problem(Problem::new(Code::NotFound, "nothing is served at this path"), &uri)
}

async fn wrong_method(State(admin): State<Arc<Admin>>, method: Method, uri: Uri) -> Response {
    let mut response = admin.problem(Problem::method_not_allowed("GET, HEAD", "this is only for reading"), &uri);
    if method == Method::OPTIONS {
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().remove(header::CONTENT_TYPE);
        *response.body_mut() = axum::body::Body::empty();
    }
    response
}

impl Admin {
    fn unmapped(&self, uri: &Uri) -> Response {
        self.problem(Problem::new(Code::Unavailable, "no node has said yet how many shards there are"), uri)
    }

    fn problem(&self, problem: Problem, uri: &Uri) -> Response {
        let trace_id = Traceparent::start(&*self.seams.random).trace_id();
        problem.into_response(uri.path(), trace_id).map(axum::body::Body::new)
    }
}
