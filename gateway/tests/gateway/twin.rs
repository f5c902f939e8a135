//! A node of the tests' making that speaks the real peer protocol, and an HTTP client on the same network in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use berth_gateway::{Config, Handle};
use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::message::{Event, Execute, Executed, Listed, Push, Refusal, Request, Response, Seen};
use berth_shared::peer::{self, Class, Handler, Identity, Incoming, PushSender, Role};
use berth_shared::problem::Code;
use berth_shared::report::{Member, NodeReport, NodeState, ReplicaReport};
use berth_shared::seam::{Clock, Seams};
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
/// Data of one event of those that tell.
const EVENT_BYTES: usize = 4096;

/// What the node does with a question.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Answers well.
    Answer,
    /// Says that it does not own the shard.
    Redirect(Option<ShardOwner>),
    /// Says that it cannot do it now.
    Refuse(Code),
    /// Has histories of so many large events.
    Tell(u64),
    /// Gives up without an answer: the outcome is unknown.
    Abandon,
    /// Never answers, and has done nothing.
    Hang,
    /// Does not answer what it may wait with, and everything else well.
    HangWaits,
    /// Has a part in a replicated cluster, and executes if it is the owner there.
    Serve(Arc<Replicated>),
    /// The same, but never answers.
    ServeAndHang(Arc<Replicated>),
    /// Answers as it is told to.
    Say(Saying),
}

/// What is answered to a question.
#[derive(Clone)]
pub(crate) struct Saying(pub(crate) Arc<dyn Fn(&Request<'_>) -> Bytes + Send + Sync>);

impl std::fmt::Debug for Saying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Saying")
    }
}

/// What all replicas of a cluster agree on: who owns it, and what was executed.
#[derive(Debug, Default)]
pub(crate) struct Replicated {
    state: Mutex<ReplicatedState>,
}

#[derive(Debug, Default)]
struct ReplicatedState {
    owner: Option<ShardOwner>,
    /// Versions by idempotency key: one per effect.
    window: BTreeMap<String, u64>,
    /// Commands that were executed.
    executed: u64,
}

/// One node. It stops when dropped.
pub(crate) struct Twin {
    pub(crate) handler: Arc<Script>,
    shutdown: CancellationToken,
}

pub(crate) struct Script {
    node: NodeId,
    address: String,
    pub(crate) does: Mutex<Does>,
    /// Questions of clients, which those about owners and reports are not.
    pub(crate) asked: AtomicUsize,
    inquiries: AtomicUsize,
    /// Whose commands came, one by one.
    pub(crate) principals: Mutex<Vec<String>>,
    /// How much time each question of a client had left.
    time_left: Mutex<Vec<Duration>>,
    clock: Arc<dyn Clock>,
    /// What every gateway is told when it connects, and whoever asks for owners.
    shards: u16,
    owners: Mutex<Vec<ShardOwner>>,
    members: Mutex<Vec<Member>>,
    pushes: Mutex<Vec<PushSender>>,
    hanging: Mutex<Vec<Incoming>>,
    /// Reports are not answered.
    hides: AtomicBool,
}

impl Replicated {
    /// The node at `address` owns everything since `term`.
    pub(crate) fn elect(&self, address: &str, term: u64) -> Vec<ShardOwner> {
        let owners = owners(address, term);
        self.state.lock().owner = owners.first().cloned();
        owners
    }

    pub(crate) fn elect_nobody(&self) {
        self.state.lock().owner = None;
    }

    pub(crate) fn executed(&self) -> u64 {
        self.state.lock().executed
    }

    /// As the executor of the owner does: a known key is replayed.
    fn execute(&self, address: &str, execute: &Execute<'_>) -> Bytes {
        let mut state = self.state.lock();
        let owner = state.owner.clone();
        if owner.as_ref().is_none_or(|owner| owner.address != address) {
            return peer::encode(&Response::WrongOwner { owner }).unwrap();
        }
        let known = state.window.get(execute.idempotency_key).copied();
        let version = known.unwrap_or_else(|| {
            state.executed += 1;
            let version = state.executed;
            state.window.insert(execute.idempotency_key.to_owned(), version);
            version
        });
        let seen = Seen { incarnation: 1, index: version };
        let (reply, replayed) = (execute.body, known.is_some());
        peer::encode(&Response::Executed(Executed { version, reply, state: None, replayed, seen })).unwrap()
    }
}

impl Twin {
    /// Starts a node that greets gateways with `shards` and `owners`. One at `node-2:1` has the id 2.
    pub(crate) async fn start(
        seams: &Seams,
        address: &str,
        cluster: ClusterId,
        shards: u16,
        owners: Vec<ShardOwner>,
    ) -> Self {
        let handler = Arc::new(Script {
            node: node_at(address),
            address: address.to_owned(),
            does: Mutex::new(Does::Answer),
            asked: AtomicUsize::new(0),
            inquiries: AtomicUsize::new(0),
            principals: Mutex::default(),
            time_left: Mutex::default(),
            clock: seams.clock.clone(),
            shards,
            owners: Mutex::new(owners),
            members: Mutex::default(),
            pushes: Mutex::default(),
            hanging: Mutex::default(),
            hides: AtomicBool::new(false),
        });
        let listener = seams.network.listen(address).await.unwrap();
        let shutdown = CancellationToken::new();
        let identity = Identity {
            role: Role::Node,
            node: Some(handler.node),
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

    /// How often it was asked who owns what.
    pub(crate) fn inquiries(&self) -> usize {
        self.handler.inquiries.load(Ordering::Relaxed)
    }

    /// How much time each question had left when it arrived, and none is forgotten.
    pub(crate) fn time_left(&self) -> Vec<Duration> {
        self.handler.time_left.lock().clone()
    }

    /// How many gateways are connected.
    pub(crate) fn gateways(&self) -> usize {
        self.handler.pushes.lock().iter().filter(|pushes| !pushes.is_closed()).count()
    }

    pub(crate) fn does(&self, does: Does) {
        *self.handler.does.lock() = does;
    }

    /// From now on it does not answer when it is asked for a report.
    pub(crate) fn hide(&self) {
        self.handler.hides.store(true, Ordering::Relaxed);
    }

    /// Answers what has been hanging.
    pub(crate) fn answer_hanging(&self) {
        for incoming in self.handler.hanging.lock().drain(..) {
            answer(incoming);
        }
    }

    /// Knows these owners from now on, and tells nobody who does not ask.
    pub(crate) fn learn(&self, owners: Vec<ShardOwner>) {
        *self.handler.owners.lock() = owners;
    }

    /// Tells all connected gateways.
    pub(crate) fn push(&self, shards: u16, owners: Vec<ShardOwner>) {
        self.push_to_all(&Push::Owners { shards, owners });
    }

    /// Tells all connected gateways, and those that connect later, that these are the members.
    pub(crate) fn push_members(&self, addresses: &[&str]) {
        let member = |address: &&str| Member { node: node_at(address), address: (*address).to_owned() };
        let members: Vec<Member> = addresses.iter().map(member).collect();
        self.handler.members.lock().clone_from(&members);
        self.push_to_all(&Push::Members { members });
    }

    /// Tells all connected gateways that all shards can be read here, and where this is.
    pub(crate) fn push_replicas(&self, zone: Option<&str>) {
        let readable = (0..SHARDS).map(ShardId).collect();
        self.push_to_all(&Push::Replicas { shards: SHARDS, readable, zone: zone.map(str::to_owned) });
    }

    fn push_to_all(&self, push: &Push) {
        let payload = peer::encode(push).unwrap();
        for pushes in self.handler.pushes.lock().iter().filter(|pushes| !pushes.is_closed()) {
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
        match peer::decode(&incoming.payload).unwrap() {
            Request::Owners => {
                self.inquiries.fetch_add(1, Ordering::Relaxed);
                let known = Response::Owners { shards: self.shards, owners: self.owners.lock().clone() };
                return incoming.reply.send(peer::encode(&known).unwrap());
            }
            Request::Report if self.hides.load(Ordering::Relaxed) => return self.hanging.lock().push(incoming),
            Request::Report => {
                let report = Response::Report(Box::new(self.report()));
                return incoming.reply.send(peer::encode(&report).unwrap());
            }
            _ => {}
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Ok(Request::Execute(execute)) = peer::decode(&incoming.payload) {
            self.principals.lock().push(execute.principal.to_owned());
        }
        self.time_left.lock().push(incoming.deadline.since(self.clock.now()));
        match self.does.lock().clone() {
            Does::Answer => answer(incoming),
            Does::Redirect(owner) => {
                let response = peer::encode(&Response::WrongOwner { owner }).unwrap();
                incoming.reply.send(response);
            }
            Does::Refuse(code) => {
                let detail = "said the twin";
                let refusal = Refusal {
                    code,
                    detail,
                    reason: None,
                    current_version: None,
                    replayed: false,
                    seen: None,
                    violations: vec![],
                };
                incoming.reply.send(peer::encode(&Response::Refused(refusal)).unwrap());
            }
            Does::Tell(last) => tell(incoming, last),
            Does::Abandon => drop(incoming),
            Does::Say(Saying(answer)) => {
                let answer = answer(&peer::decode(&incoming.payload).unwrap());
                incoming.reply.send(answer);
            }
            Does::Hang => self.hanging.lock().push(incoming),
            Does::HangWaits => match peer::decode(&incoming.payload).unwrap() {
                Request::Events { wait_millis: 1.., .. } => self.hanging.lock().push(incoming),
                _ => answer(incoming),
            },
            Does::Serve(replicated) => match peer::decode(&incoming.payload).unwrap() {
                Request::Execute(execute) | Request::Delete(execute) => {
                    incoming.reply.send(replicated.execute(&self.address, &execute));
                }
                _ => answer(incoming),
            },
            Does::ServeAndHang(replicated) => {
                if let Request::Execute(execute) | Request::Delete(execute) = peer::decode(&incoming.payload).unwrap() {
                    replicated.execute(&self.address, &execute);
                }
                self.hanging.lock().push(incoming);
            }
        }
    }

    fn connected(&self, _peer: &Arc<Identity>, class: Class, pushes: PushSender) {
        if class != Class::Data {
            return;
        }
        let members = self.members.lock().clone();
        if !members.is_empty() {
            pushes.send(peer::encode(&Push::Members { members }).unwrap());
        }
        let owners = self.owners.lock().clone();
        pushes.send(peer::encode(&Push::Owners { shards: self.shards, owners }).unwrap());
        self.pushes.lock().push(pushes);
    }
}

impl Script {
    /// As if it had a replica of shard 0.
    fn report(&self) -> NodeReport {
        let owner = self.owners.lock().first().cloned();
        let replica = ReplicaReport {
            shard: ShardId(0),
            owns: owner.as_ref().is_some_and(|owner| owner.address == self.address),
            leader: owner.as_ref().map(|owner| node_at(&owner.address)),
            term: owner.map_or(0, |owner| owner.term),
            voters: self.members.lock().iter().map(|member| member.node).collect(),
            learners: vec![],
            applied: 5,
            incarnation: 0,
            content_hash: 17,
            marks: vec![],
            queued: 3,
            is_joint: false,
            planned: None,
            movement: None,
            last_movement: None,
        };
        NodeReport {
            node: self.node,
            cluster: CLUSTER,
            address: self.address.clone(),
            state: NodeState::Ready,
            software: "twin".to_owned(),
            plan_epoch: 1,
            members: self.members.lock().clone(),
            sightings: vec![],
            replicas: vec![replica],
        }
    }
}

fn node_at(address: &str) -> NodeId {
    let number = address.strip_prefix("node-").and_then(|rest| rest.split(':').next());
    NodeId(number.and_then(|number| number.parse().ok()).unwrap_or(99))
}

fn answer(incoming: Incoming) {
    let seen = Seen { incarnation: 1, index: 1 };
    let request: Request<'_> = peer::decode(&incoming.payload).unwrap();
    let response = match request {
        Request::Execute(execute) | Request::Delete(execute) => {
            let state = execute.wants_state.then_some(b"{}".as_slice());
            Response::Executed(Executed { version: 1, reply: execute.body, state, replayed: false, seen })
        }
        Request::Read { .. } | Request::Past { .. } => Response::State { version: 1, state: b"{}", seen },
        Request::List(_) => Response::Listed(Listed {
            entities: vec![],
            more_after: None,
            not_owned: vec![],
            owners: vec![],
            seen: vec![],
        }),
        Request::Events { .. } => Response::Events { events: vec![], next: None, seen },
        Request::Kinds => Response::Kinds { json: br#"[{"kind":"counter"}]"# },
        Request::Report | Request::Owners => panic!("these are answered before"),
    };
    let response = peer::encode(&response).unwrap();
    incoming.reply.send(response);
}

/// The part of a history that is asked for, where it is there; other questions are not answered.
fn tell(incoming: Incoming, last: u64) {
    let request: Request<'_> = peer::decode(&incoming.payload).unwrap();
    let Request::Events { after, limit, bytes_max, .. } = request else { return };
    let data = format!("\"{}\"", "x".repeat(EVENT_BYTES));
    let page = u64::from(limit).min(u64::from(bytes_max) / EVENT_BYTES as u64).max(1);
    let upto = last.min(after + page);
    let event = |version| Event { version, event_type: "told", time_micros: 1, data: data.as_bytes() };
    let events = (after + 1..=upto).map(event).collect();
    let seen = Seen { incarnation: 1, index: 1 };
    let response = Response::Events { events, next: (upto < last).then_some(upto), seen };
    let response = peer::encode(&response).unwrap();
    incoming.reply.send(response);
}

/// The node at `address` as owner of every shard since `term`.
pub(crate) fn owners(address: &str, term: u64) -> Vec<ShardOwner> {
    let node = node_at(address);
    let owner = |shard| ShardOwner { shard: ShardId(shard), node, address: address.to_owned(), term, index: 1 };
    (0..SHARDS).map(owner).collect()
}

pub(crate) async fn gateway(seams: &Seams, config: Config) -> Handle {
    gateway_at(seams, "gateway", config).await
}

/// A gateway at the ports 80 and 90 of `host`.
pub(crate) async fn gateway_at(seams: &Seams, host: &str, config: Config) -> Handle {
    let config = Config { listen: format!("{host}:80"), admin_listen: format!("{host}:90"), ..config };
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
