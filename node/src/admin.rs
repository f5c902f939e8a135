//! The admin port: whether this process lives, whether it is ready, and its metrics. HTTP statuses appear only here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_shared::seam::Spawner;
use berth_shared::seam::network::{Listener, Stream};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether the node owns all shards that it should.
pub type Readiness = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Clone)]
struct Admin {
    ready: Readiness,
    metrics: Metrics,
}

/// Serves `listener`, whose address is `address`, until `shutdown`.
pub fn start(
    listener: Box<dyn Listener>,
    address: String,
    ready: Readiness,
    metrics: Metrics,
    spawner: Spawner,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .with_state(Admin { ready, metrics });
    let connections = Connections { listener, address, spawner };
    spawner.spawn(async move {
        let served = axum::serve(connections, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the admin port stopped");
        }
    });
}

/// The network seam's listener in the shape that axum serves.
struct Connections {
    listener: Box<dyn Listener>,
    address: String,
    spawner: Spawner,
}

/// Pause after the system refused to accept, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl axum::serve::Listener for Connections {
    type Io = Stream;
    type Addr = String;

    async fn accept(&mut self) -> (Stream, String) {
        loop {
            match self.listener.accept().await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    self.spawner.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
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
