//! The admin port: whether the process lives, whether it is ready, and its metrics. Not for clients.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{self, Traceparent};

use crate::api::problem::Problem;
use crate::readiness::Readiness;

#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: telemetry::Metrics,
    pub(crate) seams: Seams,
}

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::new(admin))
}

/// Ready when requests for every entity can be routed, and until a shutdown begins.
async fn ready(State(admin): State<Arc<Admin>>, uri: Uri) -> Response {
    if admin.readiness.is_ready() {
        return "ready\n".into_response();
    }
    admin.problem(Problem::new(Code::Unavailable, "not ready: no owner is known of some shard, or of any"), &uri)
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
    fn problem(&self, problem: Problem, uri: &Uri) -> Response {
        let trace_id = Traceparent::start(&*self.seams.random).trace_id();
        problem.into_response(uri.path(), trace_id).map(axum::body::Body::new)
    }
}
