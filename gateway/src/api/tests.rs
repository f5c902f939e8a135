//! The contract of the public port, asked through requests, with a script in the place of the nodes.

mod admission;
mod bodies;
mod deleting;
mod description;
mod hostile;
mod listing;
mod live;
mod past;
mod reading;
mod refusing;
mod retrying;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::message::{
    Consistency, Event, Execute, Executed, KeyOrigin, Listed, Precondition, Refusal, Request as Question, Seen,
};
use berth_shared::peer;
use berth_shared::seam::BootInstant;
use berth_shared::session::{Requirement, Token};
use berth_shared::shard_map::ShardOwner;
use berth_shared::telemetry;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::admission::Config as Bounds;
use crate::nodes::CallError;
use crate::router::Table;

const CLUSTER: ClusterId = ClusterId(7);
const SEEN: Seen = Seen { incarnation: 1, index: 42 };
const ALICE: &str = "/v1/entities/counter/alice";
const ADD: &str = "/v1/entities/counter/alice/add";

/// What a node answers to the n-th question (from 1), in the place of all nodes.
type Script = Box<dyn Fn(&Question<'_>, usize) -> Result<Bytes, CallError> + Send + Sync>;
/// The same, with the address of the node that is asked.
type AddressedScript = Box<dyn Fn(&str, &Question<'_>, usize) -> Result<Bytes, CallError> + Send + Sync>;

struct Scripted {
    table: Mutex<Arc<Table>>,
    script: AddressedScript,
    /// Address and payload of every call.
    asked: Mutex<Vec<(String, Bytes)>>,
    /// Until when each was waited for.
    deadlines: Mutex<Vec<BootInstant>>,
    /// How often the map was doubted.
    doubts: AtomicUsize,
    /// How long every call takes, unless it is given up before.
    takes: Mutex<Duration>,
    /// The same at one address.
    takes_at: Mutex<Option<(&'static str, Duration)>>,
    seams: Seams,
    /// Addresses of those who have replicas that can be read.
    replicas: Vec<String>,
    /// How many of the calls were such as may wait.
    polled: AtomicUsize,
}

impl Scripted {
    fn asked(&self) -> usize {
        self.asked.lock().len()
    }

    /// Looks at the n-th question, from 1.
    fn question<T>(&self, n: usize, look: impl FnOnce(&str, Question<'_>) -> T) -> T {
        let (address, payload) = self.asked.lock()[n - 1].clone();
        look(&address, peer::decode(&payload).unwrap())
    }

    fn execute<T>(&self, n: usize, look: impl FnOnce(Execute<'_>) -> T) -> T {
        self.question(n, |_, question| match question {
            Question::Execute(execute) => look(execute),
            other => panic!("{other:?}"),
        })
    }
}

impl Nodes for Scripted {
    fn table(&self) -> Arc<Table> {
        self.table.lock().clone()
    }

    fn learn(&self, owner: ShardOwner) {
        Arc::make_mut(&mut self.table.lock()).learn_owner(owner);
    }

    fn anyone(&self, _turn: u32) -> Option<String> {
        Some("node-1:1".to_owned())
    }

    fn replica(&self, _shard: ShardId, _start: u64, attempt: u32) -> Option<String> {
        self.replicas.get(attempt as usize % self.replicas.len().max(1)).cloned()
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(CLUSTER)
    }

    async fn poll(
        &self,
        address: &str,
        payload: Bytes,
        deadline: BootInstant,
        given_up: impl Future<Output = ()> + Send,
    ) -> Result<Bytes, CallError> {
        self.polled.fetch_add(1, Ordering::Relaxed);
        self.call(address, payload, deadline, given_up).await
    }

    async fn until(&self, _key: &EntityKey, _reached: impl Fn(Option<&ShardOwner>) -> bool + Send + Sync) {
        std::future::pending::<()>().await;
    }

    fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    async fn call(
        &self,
        address: &str,
        payload: Bytes,
        deadline: BootInstant,
        _given_up: impl Future<Output = ()> + Send,
    ) -> Result<Bytes, CallError> {
        let n = {
            let mut asked = self.asked.lock();
            asked.push((address.to_owned(), payload.clone()));
            self.deadlines.lock().push(deadline);
            asked.len()
        };
        tokio::task::yield_now().await;
        let takes = match *self.takes_at.lock() {
            Some((slow, takes)) if slow == address => takes,
            _ => *self.takes.lock(),
        };
        let left = deadline.since(self.seams.clock.now());
        if !takes.is_zero() {
            self.seams.spawner.sleep(takes.min(left)).await;
        }
        if takes > left {
            return Err(CallError::MaybeExecuted);
        }
        (self.script)(address, &peer::decode(&payload).unwrap(), n)
    }
}

fn owner(shard: u16, node: u64, term: u64) -> ShardOwner {
    ShardOwner { shard: ShardId(shard), node: NodeId(node), address: format!("node-{node}:1"), term, index: 1 }
}

fn api_with(in_flight_max: usize, script: Script) -> Api<Scripted> {
    let owners = (0..64).map(|shard| owner(shard, 1, 1)).collect();
    api_of(in_flight_max, owners, Box::new(move |_, question, n| script(question, n)))
}

fn bounds(in_flight_max: usize) -> Bounds {
    Bounds {
        in_flight_max,
        in_flight_min: 1,
        in_flight_per_node_max: in_flight_max,
        in_flight_per_entity_max: in_flight_max,
        entity_share: in_flight_max,
        latency_target: Duration::from_millis(500),
    }
}

/// A gateway that knows these owners of 64 shards.
fn api_of(in_flight_max: usize, owners: Vec<ShardOwner>, script: AddressedScript) -> Api<Scripted> {
    api_within(bounds(in_flight_max), owners, script)
}

fn api_within(bounds: Bounds, owners: Vec<ShardOwner>, script: AddressedScript) -> Api<Scripted> {
    let mut table = Table::default();
    table.learn(64, owners).unwrap();
    let replicas = vec!["node-2:1".to_owned(), "node-3:1".to_owned()];
    let (asked, doubts, polled) = (Mutex::default(), AtomicUsize::default(), AtomicUsize::default());
    let (table, deadlines) = (Mutex::new(Arc::new(table)), Mutex::default());
    let seams = Seams::simulated(1);
    let nodes = Scripted {
        table,
        script,
        asked,
        deadlines,
        doubts,
        takes: Mutex::default(),
        takes_at: Mutex::default(),
        seams: seams.clone(),
        replicas,
        polled,
    };
    let admission = Admission::new(bounds);
    let streams = Streams::new(bounds.in_flight_max);
    let metrics = Arc::new(Metrics::new(telemetry::Metrics::new(&[]).unwrap(), &admission, &streams));
    let guard = Guard::open(metrics.registry(), crate::metrics::REFUSALS, "public", &seams);
    let (nodes, attempt_timeout) = (Arc::new(nodes), Duration::from_secs(2));
    Api {
        forward: Arc::new(Forward::new(nodes, seams.clone(), attempt_timeout, metrics.clone(), admission.clone())),
        admission,
        rates: None,
        guard,
        origins: Origins::new(&[]),
        streams,
        body_timeout: Duration::from_secs(10),
        seams,
        tracing: Tracing::OFF,
        metrics,
        openapi: OpenApi::default(),
    }
}

fn api(script: impl Fn(&Question<'_>, usize) -> Result<Bytes, CallError> + Send + Sync + 'static) -> Api<Scripted> {
    api_with(16, Box::new(script))
}

fn reply(reply: &Reply<'_>) -> Result<Bytes, CallError> {
    peer::encode(reply).map_err(|_| CallError::NotExecuted)
}

fn executed() -> Reply<'static> {
    let (reply, state) = (b"{\"value\":3}".as_slice(), Some(b"{\"value\":5}".as_slice()));
    Reply::Executed(Executed { version: 3, reply, state, replayed: false, seen: SEEN })
}

fn refused(code: Code) -> Refusal<'static> {
    Refusal {
        code,
        detail: "said the node",
        reason: None,
        current_version: None,
        replayed: false,
        seen: None,
        violations: Vec::new(),
    }
}

/// Method, path, headers and body, and the status and code they are answered with.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

/// A node on which everything goes well.
fn content(question: &Question<'_>, _n: usize) -> Result<Bytes, CallError> {
    match question {
        Question::Execute(execute) if execute.wants_state => reply(&executed()),
        Question::Execute(_) => match executed() {
            Reply::Executed(executed) => reply(&Reply::Executed(Executed { state: None, ..executed })),
            _ => unreachable!(),
        },
        Question::Read { .. } => reply(&Reply::State { version: 3, state: b"{\"value\":5}", seen: SEEN }),
        Question::Events { after, .. } => {
            let event = Event {
                version: after + 1,
                event_type: "added",
                time_micros: 1_767_225_600_000_000,
                data: b"{\"by\":1}",
            };
            reply(&Reply::Events { events: vec![event], next: Some(after + 1), seen: SEEN })
        }
        Question::Kinds => reply(&Reply::Kinds { json: br#"[{"kind":"cart"},{"kind":"counter","commands":{}}]"# }),
        Question::Delete(_) => {
            let seen = SEEN;
            reply(&Reply::Executed(Executed { version: 4, reply: b"null", state: None, replayed: false, seen }))
        }
        Question::Past { .. } => reply(&Reply::State { version: 2, state: b"{\"value\":4}", seen: SEEN }),
        Question::List(_) => reply(&Reply::Listed(Listed {
            entities: vec![],
            more_after: None,
            not_owned: vec![],
            owners: vec![],
            seen: vec![],
        })),
        Question::Report | Question::Owners => unreachable!("nobody asks for this here"),
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

async fn ask(api: &Api<Scripted>, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    finish(api.answer(request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()).await).await
}

async fn finish(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = match body {
        // It would have no end.
        Body::Live(_) => Bytes::new(),
        body => body.collect().await.unwrap().to_bytes(),
    };
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_passed_to_the_owner_and_answered_with_version_reply_and_state() {
    let api = api(content);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("idempotency-key", "k1"),
        ("if-match", "W/\"2-gzip\""),
        ("traceparent", traceparent),
        ("content-type", "application/json"),
    ];
    let answer = ask(&api, "POST", ADD, &headers, r#"{"by":3}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, r#"{"kind":"counter","id":"alice","version":3,"reply":{"value":3},"state":{"value":5}}"#);
    assert_eq!(answer.header("etag"), Some("\"3\""));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    for absent in ["idempotency-key", "idempotency-replayed", "preference-applied"] {
        assert_eq!(answer.header(absent), None);
    }
    let nodes = api.forward.nodes();
    assert_eq!(nodes.asked(), 1);
    nodes.execute(1, |execute| {
        let shard = EntityKey::new("counter", "alice").unwrap().shard(64);
        assert_eq!((execute.shard, execute.kind, execute.id, execute.command), (shard, "counter", "alice", "add"));
        assert_eq!((execute.body, execute.wants_state), (br#"{"by":3}"#.as_slice(), true));
        assert_eq!(execute.precondition, Precondition::Versions(vec![2]));
        assert_eq!((execute.idempotency_key, execute.key_origin), ("k1", KeyOrigin::Client));
        assert_eq!((execute.attempt, execute.traceparent), (2, traceparent), "a given key may have been sent before");
    });
}

#[tokio::test(start_paused = true)]
async fn a_minimal_answer_leaves_the_state_out() {
    let api = api(content);
    let answer = ask(&api, "POST", ADD, &[("prefer", "return=minimal")], "").await;
    assert_eq!(answer.json(), json!({"kind": "counter", "id": "alice", "version": 3, "reply": {"value": 3}}));
    assert_eq!(answer.header("preference-applied"), Some("return=minimal"));
    api.forward
        .nodes()
        .execute(1, |execute| assert_eq!((execute.body, execute.wants_state), (b"{}".as_slice(), false)));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_gateway_made_is_returned_and_known_again() {
    let api = api(content);
    let answer = ask(&api, "POST", ADD, &[], "{}").await;
    let key = answer.header("idempotency-key").unwrap();
    let created_micros = api.seams.clock.wall_micros();
    let origin = api.forward.nodes().execute(1, |execute| {
        assert_eq!(execute.idempotency_key, key);
        execute.key_origin
    });
    assert_eq!(origin, KeyOrigin::Gateway { created_micros });
    let again = ask(&api, "POST", ADD, &[("idempotency-key", key)], "{}").await;
    assert_eq!((again.status, again.header("idempotency-key")), (200, None));
    api.forward.nodes().execute(2, |execute| assert_eq!((execute.idempotency_key, execute.key_origin), (key, origin)));
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_marked() {
    let replayed = |question: &Question<'_>, n| match question {
        Question::Execute(execute) if execute.command == "add" => match executed() {
            Reply::Executed(executed) => reply(&Reply::Executed(Executed { replayed: true, ..executed })),
            _ => unreachable!(),
        },
        Question::Execute(_) => reply(&Reply::Refused(Refusal { replayed: true, ..refused(Code::Rejected) })),
        other => content(other, n),
    };
    let api = api(replayed);
    assert_eq!(ask(&api, "POST", ADD, &[], "").await.header("idempotency-replayed"), Some("true"));
    let rejected = ask(&api, "POST", "/v1/entities/counter/alice/other", &[], "").await;
    assert_eq!((rejected.status, rejected.header("idempotency-replayed")), (422, Some("true")));
}

#[tokio::test(start_paused = true)]
async fn reads_answer_what_the_node_says() {
    let api = api(content);
    let state = ask(&api, "GET", ALICE, &[], "").await;
    assert_eq!(
        (state.status, state.header("etag"), state.header("cache-control")),
        (200, Some("\"3\""), Some("no-cache"))
    );
    assert_eq!(state.body, r#"{"kind":"counter","id":"alice","version":3,"state":{"value":5}}"#);

    let page = ask(&api, "GET", &format!("{ALICE}/events?after=6&limit=1"), &[], "").await;
    let event = json!({"version": 7, "type": "added", "time": "2026-01-01T00:00:00Z", "data": {"by": 1}});
    assert_eq!(page.json(), json!({"kind": "counter", "id": "alice", "events": [event], "next": 7}));
    api.forward.nodes().question(2, |_, question| {
        assert!(matches!(question, Question::Events { after: 6, limit: 1, .. }), "{question:?}");
    });

    let kinds = ask(&api, "GET", "/v1/kinds", &[], "").await;
    assert_eq!(kinds.json(), json!({"kinds": [{"kind": "cart"}, {"kind": "counter", "commands": {}}]}));
    assert_eq!(ask(&api, "GET", "/v1/kinds/counter", &[], "").await.json(), json!({"kind": "counter", "commands": {}}));
    assert_eq!(ask(&api, "GET", "/v1/kinds/wallet", &[], "").await.code(), "unknown-kind");
}

#[tokio::test(start_paused = true)]
async fn a_read_is_as_consistent_as_it_asks_to_be() {
    let api = api(content);
    for (n, (query, asked)) in [
        ("", Consistency::Linearizable),
        ("?consistency=linearizable", Consistency::Linearizable),
        ("?consistency=strict", Consistency::Strict),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(ask(&api, "GET", &format!("{ALICE}{query}"), &[], "").await.status, 200);
        assert_eq!(ask(&api, "GET", &format!("{ALICE}/events{query}"), &[], "").await.status, 200);
        api.forward.nodes().question(2 * n + 1, |_, question| {
            assert!(matches!(question, Question::Read { consistency, .. } if consistency == asked), "{question:?}");
        });
        api.forward.nodes().question(2 * n + 2, |_, question| {
            assert!(matches!(question, Question::Events { consistency, .. } if consistency == asked), "{question:?}");
        });
    }
    for (query, allowed) in [("consistency=weak", "consistency must be linearizable, strict, session or stale")] {
        let answer = ask(&api, "GET", &format!("{ALICE}?{query}"), &[], "").await;
        assert_eq!(answer.code(), "invalid-request");
        assert!(answer.json()["detail"].as_str().unwrap().contains(allowed), "{query}");
    }
    // A command is always decided on the newest state.
    assert_eq!(ask(&api, "POST", &format!("{ADD}?consistency=strict"), &[], "").await.status, 400);
    assert_eq!(api.forward.nodes().asked(), 6);
}

#[tokio::test(start_paused = true)]
async fn conditions_on_a_read_compare_with_its_version() {
    let api = api(content);
    for tags in ["\"3\"", "W/\"3\"", "\"1\", \"3--gzip\"", "*"] {
        let answer = ask(&api, "GET", ALICE, &[("if-none-match", tags)], "").await;
        assert_eq!((answer.status, answer.header("etag"), answer.body.len()), (304, Some("\"3\""), 0), "{tags}");
        assert!(answer.header("berth-session").is_some());
        assert_eq!(ask(&api, "GET", ALICE, &[("if-match", tags)], "").await.status, 200, "{tags}");
    }
    assert_eq!(ask(&api, "GET", ALICE, &[("if-none-match", "\"2\"")], "").await.status, 200);
    let stale = ask(&api, "GET", ALICE, &[("if-match", "\"2\"")], "").await;
    assert_eq!((stale.status, &stale.json()["currentVersion"]), (412, &json!(3)));
    assert_eq!(ask(&api, "GET", ALICE, &[("if-match", "3")], "").await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn head_and_options_are_like_get_without_a_body() {
    let api = api(content);
    let (get, head) = (ask(&api, "GET", ALICE, &[], "").await, ask(&api, "HEAD", ALICE, &[], "").await);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
    assert_eq!(head.header("etag"), get.header("etag"));
    assert_eq!(ask(&api, "HEAD", "/nowhere", &[], "").await.status, 404);
    for (path, allow) in [
        (ALICE, "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/entities/counter", "GET, HEAD, OPTIONS"),
        (ADD, "OPTIONS, POST"),
        ("/v1/entities/counter/alice/events", "GET, HEAD, OPTIONS"),
        ("/v1/kinds", "GET, HEAD, OPTIONS"),
    ] {
        let options = ask(&api, "OPTIONS", path, &[], "").await;
        assert_eq!((options.status, options.header("allow"), options.body.len()), (204, Some(allow), 0), "{path}");
        let others = ["PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"].into_iter();
        for method in others.filter(|method| !allow.contains(method)) {
            let answer = ask(&api, method, path, &[], "").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
            assert_eq!(answer.code(), "method-not-allowed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_over_the_bounds_is_429_and_not_applied() {
    let busy = api(|_, _| Err(CallError::Busy));
    let answer = ask(&busy, "POST", ADD, &[], "").await;
    assert_eq!((answer.status, answer.header("retry-after"), answer.code().as_str()), (429, Some("1"), "overloaded"));

    let api =
        api_with(1, Box::new(|_, n| if n == 1 { Err(CallError::NotExecuted) } else { content(&Question::Kinds, n) }));
    let (first, second) = tokio::join!(ask(&api, "GET", "/v1/kinds", &[], ""), ask(&api, "POST", ADD, &[], ""));
    assert_eq!((first.status, second.status, second.code().as_str()), (200, 429, "overloaded"));
    assert_eq!(api.admission.taken(), 0);
}
