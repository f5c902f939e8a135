//! Puts the rooms together: the only place where they meet.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::auth::{self, Guard};
use berth_shared::http_port;
use berth_shared::peer::{self, security};
use berth_shared::seam::Seams;
use berth_shared::telemetry::{self, Tracing};
use berth_shared::tls::PortTls;
use berth_shared::watched;
use http::Request;
use http_body_util::Either;
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::admin::{self, Admin};
use crate::admission::{self, Admission};
use crate::api::Api;
use crate::api::openapi::OpenApi;
use crate::api::origin::Origins;
use crate::api::streams::Streams;
use crate::config::Config;
use crate::edge::Edge;
use crate::forward::Forward;
use crate::grpc::{self, Grpc};
use crate::metrics::{Metrics, REFUSALS};
use crate::nodes::{self, Connections};
use crate::readiness::Readiness;

/// Connections of the admin port, which only operators and their tools use.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// A client that reads nothing of its answer for so long is cut off.
const STALL_MAX: Duration = Duration::from_secs(30);

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
    #[error("{table}: {source}")]
    Auth { table: &'static str, source: auth::Error },
    #[error(transparent)]
    Peer(#[from] security::Error),
    #[error("tls: {0}")]
    Tls(#[from] watched::Error),
}

/// A running gateway. Dropped, it ends without waiting for requests in flight.
#[derive(Debug)]
pub struct Handle {
    public: http_port::Handle,
    admin: http_port::Handle,
    readiness: Readiness,
    streams: Streams,
}

/// Starts a gateway, which serves from now on. `metrics` takes in its numbers, and its admin port shows all that is in there.
pub async fn start(
    mut config: Config,
    seams: Seams,
    tracing: Tracing,
    metrics: telemetry::Metrics,
) -> Result<Handle, Error> {
    // What there is to read comes first, so that a gateway which cannot have it begins nothing.
    let (peer, peer_seams) = std::mem::take(&mut config.peer).start(&seams).await?;
    config.peer = peer;
    let guards = Guards::start(&config, &metrics, &seams).await?;
    let tls = PortTls::start(&config.tls, &seams).await?;
    let public = listen(&config.listen, &seams).await?;
    let admin = listen(&config.admin_listen, &seams).await?;

    let admission = Admission::new(admission_config(&config));
    let streams = Streams::new(config.streams_max);
    let metrics = Arc::new(Metrics::new(metrics, &admission, &streams));
    let connections = Connections::start(nodes_config(&config), peer_seams, metrics.clone());
    let readiness = Readiness::new(connections.routable());
    observe(&connections, &metrics);

    let attempt_timeout = config.attempt_timeout.0;
    let api = Arc::new(Api {
        forward: Arc::new(Forward::new(
            connections.clone(),
            seams.clone(),
            attempt_timeout,
            metrics.clone(),
            admission.clone(),
        )),
        admission,
        rates: config.rate_limit.rates(),
        guard: guards.public,
        origins: Origins::new(&config.cors_origins),
        streams: streams.clone(),
        body_timeout: config.body_timeout.0,
        seams: seams.clone(),
        tracing,
        metrics: metrics.clone(),
        openapi: OpenApi::default(),
    });
    let edge = Arc::new(Edge::new(&config.cors_origins));
    let grpc = Arc::new(Grpc::new(api.clone(), readiness.clone())?);
    let answer = move |request: Request<Incoming>| {
        let (edge, api, grpc) = (edge.clone(), api.clone(), grpc.clone());
        async move {
            if grpc::is_asked(&request) {
                grpc.answer(request).await.map(Either::Right)
            } else {
                edge.answer(request, |request| api.answer(request)).await.map(Either::Left)
            }
        }
    };
    let admin_registry = metrics.registry().clone();
    let router = admin::router(Admin {
        readiness: readiness.clone(),
        metrics: admin_registry,
        connections,
        guard: guards.admin,
        metrics_open: config.admin_metrics_open,
        seams: seams.clone(),
    });
    let answer_admin = move |request: Request<Incoming>| {
        let router = router.clone();
        async move { router.oneshot(request).await.unwrap_or_else(|never| match never {}) }
    };

    let listen_error = |address: String| move |source| Error::Listen { address, source };
    let limits = port_config(&config, tls);
    let admin_limits = http_port::Config { connections_max: ADMIN_CONNECTIONS_MAX, tls: None, ..limits.clone() };
    let public = http_port::serve(public, limits, &seams, metrics.connections.clone(), answer)
        .map_err(listen_error(config.listen))?;
    let admin = http_port::serve(admin, admin_limits, &seams, telemetry::Gauge::default(), answer_admin)
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

/// Who is let in, by port.
struct Guards {
    public: Guard,
    admin: Guard,
}

impl Guards {
    async fn start(config: &Config, metrics: &telemetry::Metrics, seams: &Seams) -> Result<Self, Error> {
        let start = async |table, port, config: &auth::Config| {
            let guard = Guard::start(config, metrics, REFUSALS, port, seams).await;
            guard.map_err(|source| Error::Auth { table, source })
        };
        Ok(Self {
            public: start("auth", "public", &config.auth).await?,
            admin: start("admin_auth", "admin", &config.admin_auth).await?,
        })
    }
}

async fn listen(address: &str, seams: &Seams) -> Result<Box<dyn berth_shared::seam::network::Listener>, Error> {
    let listener = seams.network.listen(address).await;
    listener.map_err(|source| Error::Listen { address: address.to_owned(), source })
}

fn port_config(config: &Config, tls: Option<PortTls>) -> http_port::Config {
    http_port::Config {
        connections_max: config.connections_max,
        header_timeout: config.header_timeout.0,
        stall_timeout: STALL_MAX,
        drain_timeout: config.drain_timeout.0,
        tls,
    }
}

fn admission_config(config: &Config) -> admission::Config {
    admission::Config {
        in_flight_max: config.in_flight_max,
        in_flight_min: config.in_flight_min,
        in_flight_per_node_max: config.in_flight_per_node_max,
        in_flight_per_entity_max: config.in_flight_per_entity_max,
        entity_share: config.entity_share,
        latency_target: config.latency_target.0,
    }
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
        credential: config.peer.credential(),
        zone: config.zone.clone(),
        polls_max: config.streams_max,
        client,
    }
}

fn observe(connections: &Arc<Connections>, metrics: &Metrics) {
    let connections = Arc::downgrade(connections);
    let connected = move || connections.upgrade().map_or(0, |connections| connections.connected()) as f64;
    metrics.registry().observed_gauge("berth_gateway_nodes_connected", "Nodes connected just now.", &[], connected);
}
