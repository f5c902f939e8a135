//! The admin port: whether this process lives, whether it is ready, and its metrics. HTTP statuses appear only here.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_shared::seam::Spawner;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether the node owns all shards that it should.
pub type Readiness = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Clone)]
struct Admin {
    ready: Readiness,
    metrics: Metrics,
}

/// A running admin port.
#[derive(Debug)]
pub struct Handle {
    pub address: String,
}

/// Serves until `shutdown`.
pub async fn start(
    listen: &str,
    ready: Readiness,
    metrics: Metrics,
    spawner: Spawner,
    shutdown: CancellationToken,
) -> io::Result<Handle> {
    #[expect(clippy::disallowed_methods, reason = "HTTP comes from outside the cluster, which is not simulated")]
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let address = listener.local_addr()?.to_string();
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .with_state(Admin { ready, metrics });
    spawner.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the admin port stopped");
        }
    });
    Ok(Handle { address })
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if (admin.ready)() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: some shards have no owner yet\n").into_response()
    }
}

async fn page(State(admin): State<Admin>) -> Response {
    match admin.metrics.page.render() {
        Ok(page) => ([(header::CONTENT_TYPE, berth_shared::telemetry::Metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
