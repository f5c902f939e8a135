//! The admin port: whether this process lives, whether it is ready, its metrics, and what the nodes report of the cluster; to
//! leave, and to recover what has lost its quorum, for operators.
//! HTTP statuses appear only here.

mod guard;
pub mod recovery;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_shared::auth::Guard;
use berth_shared::cluster_view::Gathered;
use berth_shared::http_port;
use berth_shared::key::EntityKey;
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::seam::network::Listener;
use berth_shared::telemetry::Gauge;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::metrics::Metrics;

/// Whether all replicas that the node hosts serve.
pub type Readiness = Arc<dyn Fn() -> bool + Send + Sync>;

/// Has the node leave its cluster, and says how many replicas it still has.
pub type Drain = Arc<dyn Fn() -> usize + Send + Sync>;

/// Asks all nodes for their reports, this one included. It bounds its own time; [`GATHER_MAX`] is a good bound.
pub type Gather = Arc<dyn Fn() -> BoxFuture<'static, Gathered> + Send + Sync>;

/// How long the other nodes have to send their reports.
pub const GATHER_MAX: Duration = Duration::from_secs(1);

/// What the port shows.
#[derive(Clone)]
pub struct Admin {
    pub ready: Readiness,
    pub metrics: Metrics,
    pub gather: Gather,
    pub drain: Drain,
    pub recovery: Arc<dyn recovery::Recovery>,
    /// Who is let in.
    pub guard: Arc<Guard>,
    /// Whether metrics need no credential.
    pub metrics_open: bool,
    /// Shards of the cluster.
    pub shards: u16,
    pub seams: Seams,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// Connections at once; one more waits to be accepted. Only operators and their tools come here.
const CONNECTIONS_MAX: usize = 256;
/// How long headers may take, how long a connection may stay idle, and how long an answer may stay unread.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// What the longest confirmation needs many times over.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long answers may go on after the end has begun.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Serves `listener` until `shutdown`.
pub fn start(listener: Box<dyn Listener>, admin: Admin, shutdown: CancellationToken) -> std::io::Result<()> {
    let seams = admin.seams.clone();
    let limits = http_port::Config {
        connections_max: CONNECTIONS_MAX,
        header_timeout: IDLE_MAX,
        stall_timeout: IDLE_MAX,
        drain_timeout: DRAIN_MAX,
        tls: None,
    };
    let router = router(admin);
    let answer = move |request: http::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move { router.oneshot(request).await.unwrap_or_else(|never| match never {}) }
    };
    let port = http_port::serve(listener, limits, &seams, Gauge::default(), answer)?;
    seams.spawner.spawn(async move {
        shutdown.cancelled().await;
        port.shutdown().await;
    });
    Ok(())
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .route("/drain", post(drain))
        .route("/v1/cluster/drain", post(drain))
        .route("/v1/recovery", get(recovery::survey))
        .route("/v1/recovery/{shard}", post(recovery::recover))
        .route("/v1/cluster", get(cluster))
        .route("/v1/cluster/shards", get(shards))
        .route("/v1/cluster/hashes", get(hashes))
        .route("/v1/cluster/explain/{kind}/{id}", get(explain))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(admin.clone(), guard::guard))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>, uri: Uri) -> Response {
    if (admin.ready)() {
        return "ready\n".into_response();
    }
    let refusal = (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable.as_str(), "Unavailable");
    admin.problem(refusal, "not ready: some shards that this node should serve are not served yet", &uri)
}

/// Answers at once; it is over when the process ends.
async fn drain(State(admin): State<Admin>) -> Response {
    let replicas = (admin.drain)();
    (StatusCode::ACCEPTED, self::json(json!({ "state": "leaving", "replicas": replicas }))).into_response()
}

async fn page(State(admin): State<Admin>, uri: Uri) -> Response {
    match admin.metrics.page.render() {
        Ok(page) => ([(header::CONTENT_TYPE, berth_shared::telemetry::Metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            let refusal = (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal.as_str(), "Internal error");
            admin.problem(refusal, "metrics cannot be shown", &uri)
        }
    }
}

async fn cluster(State(admin): State<Admin>) -> Response {
    json((admin.gather)().await.cluster())
}

async fn shards(State(admin): State<Admin>) -> Response {
    json((admin.gather)().await.shards(admin.shards))
}

async fn hashes(State(admin): State<Admin>) -> Response {
    json((admin.gather)().await.hashes(admin.shards))
}

/// `/v1/cluster/explain/{kind}/{id}`, or why it names no entity.
type Named = Result<Path<(String, String)>, PathRejection>;

async fn explain(State(admin): State<Admin>, path: Named, uri: Uri) -> Response {
    let key = match &path {
        Ok(Path((kind, id))) => EntityKey::new(kind, id).map_err(|error| error.to_string()),
        Err(_) => Err("kind and id are not UTF-8 once their percent-encoding is undone".to_owned()),
    };
    match key {
        Ok(key) => json((admin.gather)().await.explain(&key, admin.shards)),
        Err(why) => {
            let refusal = (StatusCode::BAD_REQUEST, Code::InvalidRequest.as_str(), "Invalid request");
            admin.problem(refusal, &why, &uri)
        }
    }
}

async fn unknown_path(State(admin): State<Admin>, uri: Uri) -> Response {
    let refusal = (StatusCode::NOT_FOUND, Code::NotFound.as_str(), "Not found");
    admin.problem(refusal, "nothing is served at this path", &uri)
}

async fn wrong_method(State(admin): State<Admin>, uri: Uri) -> Response {
    let refusal = (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed");
    let (why, allowed) = match uri.path() {
        "/drain" | "/v1/cluster/drain" => ("to leave is asked for with POST", "POST"),
        path if path.starts_with("/v1/recovery/") => ("a shard is recovered with POST", "POST"),
        _ => ("this is only for reading", "GET, HEAD"),
    };
    let mut response = admin.problem(refusal, why, &uri);
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

fn json(value: impl Serialize) -> Response {
    // Text, numbers and lists always serialize.
    let body = serde_json::to_vec(&value).unwrap_or_default();
    ([(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"))], body).into_response()
}

impl Admin {
    /// A problem document (RFC 9457) of this status, code and title.
    fn problem(&self, head: (StatusCode, &str, &str), detail: &str, uri: &Uri) -> Response {
        self.problem_with(head, detail, uri, None)
    }

    /// The same with one more member.
    fn problem_with(
        &self,
        (status, code, title): (StatusCode, &str, &str),
        detail: &str,
        uri: &Uri,
        more: Option<(&str, &str)>,
    ) -> Response {
        let mut problem = json!({
            "type": format!("urn:berth:problem:{code}"),
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
            "instance": uri.path(),
            "code": code,
            "traceId": format!("{:032x}", self.seams.random.next_u128()),
        });
        if let Some((name, text)) = more {
            problem[name] = text.into();
        }
        let mut response = json(problem);
        *response.status_mut() = status;
        let content_type = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}
