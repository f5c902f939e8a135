//! A node of the tests' making that speaks the real peer protocol, and an HTTP client on the same network in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_gateway::{Config, Handle};
use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::message::{Executed, Push, Request, Response, Seen};
use berth_shared::peer::{self, Class, Handler, Identity, Incoming, PushSender, Role};
use berth_shared::seam::Seams;
use berth_shared::shard_map::ShardOwner;
use berth_shared::telemetry::{Metrics, Tracing};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) const CLUSTER: ClusterId = ClusterId(7);
pub(crate) const SHARDS: u16 = 4;

/// What the node does with a question.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Answers well.
    Answer,
    /// Says that it does not own the shard.
    Redirect(Option<ShardOwner>),
    /// Gives up without an answer: the outcome is unknown.
    Abandon,
    /// Never answers.
    Hang,
}

/// One node. It stops when dropped.
pub(crate) struct Twin {
    pub(crate) handler: Arc<Script>,
    shutdown: CancellationToken,
}

pub(crate) struct Script {
    pub(crate) does: Mutex<Does>,
    pub(crate) asked: AtomicUsize,
    /// What every gateway is told when it connects.
    greeting: Mutex<Push>,
    pushes: Mutex<Vec<PushSender>>,
    hanging: Mutex<Vec<Incoming>>,
}

impl Twin {
    /// Starts a node that greets gateways with `shards` and `owners`.
    pub(crate) async fn start(
        seams: &Seams,
        address: &str,
        cluster: ClusterId,
        shards: u16,
        owners: Vec<ShardOwner>,
    ) -> Self {
        let handler = Arc::new(Script {
            does: Mutex::new(Does::Answer),
            asked: AtomicUsize::new(0),
            greeting: Mutex::new(Push::Owners { shards, owners }),
            pushes: Mutex::default(),
            hanging: Mutex::default(),
        });
        let listener = seams.network.listen(address).await.unwrap();
        let shutdown = CancellationToken::new();
        let identity = Identity {
            role: Role::Node,
            node: Some(NodeId(1)),
            cluster: Some(cluster),
            software: "twin".to_owned(),
            credential: None,
        };
        let config = peer::server::Config::default();
        let serving = peer::serve(seams.clone(), config, listener, identity, handler.clone(), shutdown.clone());
        // Cut off at once, as by a crash.
        seams.spawner.spawn(shutdown.clone().run_until_cancelled_owned(serving));
        Self { handler, shutdown }
    }

    pub(crate) fn asked(&self) -> usize {
        self.handler.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn does(&self, does: Does) {
        *self.handler.does.lock() = does;
    }

    /// Answers what has been hanging.
    pub(crate) fn answer_hanging(&self) {
        for incoming in self.handler.hanging.lock().drain(..) {
            answer(incoming);
        }
    }

    /// Tells all connected gateways.
    pub(crate) fn push(&self, shards: u16, owners: Vec<ShardOwner>) {
        let payload = peer::encode(&Push::Owners { shards, owners }).unwrap();
        for pushes in self.handler.pushes.lock().iter() {
            assert!(pushes.send(payload.clone()));
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Handler for Script {
    fn handle(&self, incoming: Incoming) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.does.lock().clone() {
            Does::Answer => answer(incoming),
            Does::Redirect(owner) => {
                let response = peer::encode(&Response::WrongOwner { owner }).unwrap();
                incoming.reply.send(response);
            }
            Does::Abandon => drop(incoming),
            Does::Hang => self.hanging.lock().push(incoming),
        }
    }

    fn connected(&self, _peer: &Arc<Identity>, class: Class, pushes: PushSender) {
        assert_eq!(class, Class::Data);
        pushes.send(peer::encode(&*self.greeting.lock()).unwrap());
        self.pushes.lock().push(pushes);
    }
}

fn answer(incoming: Incoming) {
    let seen = Seen { incarnation: 1, index: 1 };
    let request: Request<'_> = peer::decode(&incoming.payload).unwrap();
    let response = match request {
        Request::Execute(execute) => {
            let state = execute.wants_state.then_some(b"{}".as_slice());
            Response::Executed(Executed { version: 1, reply: execute.body, state, replayed: false, seen })
        }
        Request::Read { .. } => Response::State { version: 1, state: b"{}", seen },
        Request::Events { .. } => Response::Events { events: vec![], next: None, seen },
        Request::Kinds => Response::Kinds { json: br#"[{"kind":"counter"}]"# },
        Request::Report | Request::Owners => panic!("nobody asks for this here"),
    };
    let response = peer::encode(&response).unwrap();
    incoming.reply.send(response);
}

/// The node at `address` as owner of every shard since `term`.
pub(crate) fn owners(address: &str, term: u64) -> Vec<ShardOwner> {
    let owner =
        |shard| ShardOwner { shard: ShardId(shard), node: NodeId(1), address: address.to_owned(), term, index: 1 };
    (0..SHARDS).map(owner).collect()
}

pub(crate) async fn gateway(seams: &Seams, config: Config) -> Handle {
    let config = Config { listen: "gateway:80".to_owned(), admin_listen: "gateway:90".to_owned(), ..config };
    let metrics = Metrics::new(&[("role", "gateway")]).unwrap();
    berth_gateway::start(config, seams.clone(), Tracing::OFF, metrics).await.unwrap()
}

/// One node that owns every shard, and a gateway that knows it.
pub(crate) async fn node_and_gateway(seams: &Seams, config: Config) -> (Twin, Handle) {
    let node = Twin::start(seams, "node-1:1", CLUSTER, SHARDS, owners("node-1:1", 1)).await;
    let gateway = gateway(seams, Config { nodes: vec!["node-1:1".to_owned()], ..config }).await;
    gateway.ready().await;
    (node, gateway)
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// One request on a connection of its own.
pub(crate) async fn ask(
    seams: &Seams,
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let stream = seams.network.connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    seams.spawner.spawn(connection);
    let request = request(method, path, headers, body);
    finish(sender.send_request(request).await.unwrap()).await
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

pub(crate) async fn finish(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}
