//! Puts the rooms together: the only place where they meet.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::peer;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{self, Tracing};
use http::Request;
use http_body_util::Either;
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::admin::{self, Admin};
use crate::admission::Admission;
use crate::api::Api;
use crate::api::streams::Streams;
use crate::config::Config;
use crate::forward::Forward;
use crate::grpc::{self, Grpc};
use crate::metrics::Metrics;
use crate::nodes::{self, Connections};
use crate::readiness::Readiness;
use crate::server;

/// Connections of the admin port, which only operators and their tools use.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Longest pause between two attempts to connect to a node, for which its clients wait.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// A node that was stopped or cut off leaves its connection up and silent. It is pinged after a short silence, and given up
/// soon enough that what was in flight can be asked again of the next owner well within a request's default deadline.
const PING_AFTER: Duration = Duration::from_millis(500);
const SILENCE_MAX: Duration = Duration::from_millis(1500);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: std::io::Error },
    #[error("the description of the gRPC services is broken: {0}")]
    Grpc(#[from] grpc::Error),
}

/// A running gateway. Dropped, it ends without waiting for requests in flight.
#[derive(Debug)]
pub struct Handle {
    public: server::Handle,
    admin: server::Handle,
    readiness: Readiness,
    streams: Streams,
}

/// Starts a gateway, which serves from now on. `metrics` takes in its numbers, and its admin port shows all that is in there.
pub async fn start(
    config: Config,
    seams: Seams,
    tracing: Tracing,
    metrics: telemetry::Metrics,
) -> Result<Handle, Error> {
    let public = listen(&config.listen, &seams).await?;
    let admin = listen(&config.admin_listen, &seams).await?;

    let admission = Admission::new(config.in_flight_max);
    let streams = Streams::new(config.streams_max);
    let metrics = Arc::new(Metrics::new(metrics, &admission, &streams));
    let connections = Connections::start(nodes_config(&config), seams.clone(), metrics.clone());
    let readiness = Readiness::new(connections.routable());
    observe(&connections, &metrics);

    let attempt_timeout = config.attempt_timeout.0;
    let api = Arc::new(Api {
        forward: Forward::new(connections.clone(), seams.clone(), attempt_timeout, metrics.clone()),
        admission,
        streams: streams.clone(),
        body_timeout: config.body_timeout.0,
        seams: seams.clone(),
        tracing,
        metrics: metrics.clone(),
    });
    let grpc = Arc::new(Grpc::new(api.clone(), readiness.clone())?);
    let answer = move |request: Request<Incoming>| {
        let (api, grpc) = (api.clone(), grpc.clone());
        async move {
            if grpc::is_asked(&request) {
                grpc.answer(request).await.map(Either::Right)
            } else {
                api.answer(request).await.map(Either::Left)
            }
        }
    };
    let admin_registry = metrics.registry().clone();
    let router = admin::router(Admin {
        readiness: readiness.clone(),
        metrics: admin_registry,
        connections,
        seams: seams.clone(),
    });
    let answer_admin = move |request: Request<Incoming>| {
        let router = router.clone();
        async move { router.oneshot(request).await.unwrap_or_else(|never| match never {}) }
    };

    let listen_error = |address: String| move |source| Error::Listen { address, source };
    let limits = server::Config {
        connections_max: config.connections_max,
        header_timeout: config.header_timeout.0,
        drain_timeout: config.drain_timeout.0,
    };
    let admin_limits = server::Config { connections_max: ADMIN_CONNECTIONS_MAX, ..limits.clone() };
    let public = server::serve(public, limits, &seams, metrics.connections.clone(), answer)
        .map_err(listen_error(config.listen))?;
    let admin = server::serve(admin, admin_limits, &seams, telemetry::Gauge::default(), answer_admin)
        .map_err(listen_error(config.admin_listen))?;
    tracing::info!(public = public.address(), admin = admin.address(), "the gateway is serving");
    Ok(Handle { public, admin, readiness, streams })
}

impl Handle {
    /// `host:port` of the public port.
    pub fn public_address(&self) -> &str {
        self.public.address()
    }

    /// `host:port` of the admin port.
    pub fn admin_address(&self) -> &str {
        self.admin.address()
    }

    /// Whether requests can be routed: an owner of every shard is known, and not all nodes are lost.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Waits until requests can be routed.
    pub async fn ready(&self) {
        // It ends early only with the gateway itself, which this handle keeps up.
        self.readiness.ready().await;
    }

    /// Stops accepting, ends what waits for what is yet to happen, lets the other requests in flight finish within the drain
    /// time-out, and ends.
    pub async fn shutdown(self) {
        self.readiness.leave();
        self.streams.end();
        self.public.shutdown().await;
        self.admin.shutdown().await;
        tracing::info!("the gateway has ended");
    }
}

async fn listen(address: &str, seams: &Seams) -> Result<Box<dyn berth_shared::seam::network::Listener>, Error> {
    let listener = seams.network.listen(address).await;
    listener.map_err(|source| Error::Listen { address: address.to_owned(), source })
}

fn nodes_config(config: &Config) -> nodes::Config {
    let client = peer::client::Config {
        in_flight_max: config.in_flight_per_node_max,
        backoff_max: RECONNECT_PAUSE_MAX,
        ping_after: PING_AFTER,
        silence_max: SILENCE_MAX,
        ..Default::default()
    };
    nodes::Config {
        seeds: config.nodes.clone(),
        nodes_max: config.nodes_max,
        credential: config.credential.clone(),
        client,
    }
}

fn observe(connections: &Arc<Connections>, metrics: &Metrics) {
    let connections = Arc::downgrade(connections);
    let connected = move || connections.upgrade().map_or(0, |connections| connections.connected()) as f64;
    metrics.registry().observed_gauge("berth_gateway_nodes_connected", "Nodes connected just now.", &[], connected);
}
