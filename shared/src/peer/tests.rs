//! Client and server together over a network in memory, with time paused.

mod bounds;
mod ending;
mod liveness;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ids::ShardId;
use crate::message;
use crate::seam::network::{Listener, Stream};
use crate::seam::random::SystemRandom;
use crate::seam::{BootInstant, Network, Seams};

const ADDRESS: &str = "node:1";

pub(super) fn identity() -> Identity {
    Identity { role: Role::Node, node: Some(NodeId(1)), cluster: None, software: "test".to_owned(), credential: None }
}

/// Answers every request with its own payload, at once.
struct Echo;

impl Handler for Echo {
    fn handle(&self, incoming: Incoming) {
        incoming.reply.send(incoming.payload);
    }
}

/// Hands requests and new peers to the test.
struct Desk {
    incoming: mpsc::UnboundedSender<Incoming>,
    peers: mpsc::UnboundedSender<(Arc<Identity>, Class, PushSender)>,
}

struct Desks {
    incoming: mpsc::UnboundedReceiver<Incoming>,
    peers: mpsc::UnboundedReceiver<(Arc<Identity>, Class, PushSender)>,
}

impl Handler for Desk {
    fn handle(&self, incoming: Incoming) {
        let _ = self.incoming.send(incoming);
    }

    fn connected(&self, peer: &Arc<Identity>, class: Class, pushes: PushSender) {
        let _ = self.peers.send((peer.clone(), class, pushes));
    }
}

fn desk() -> (Arc<Desk>, Desks) {
    let (incoming_sender, incoming) = mpsc::unbounded_channel();
    let (peers_sender, peers) = mpsc::unbounded_channel();
    (Arc::new(Desk { incoming: incoming_sender, peers: peers_sender }), Desks { incoming, peers })
}

impl Desks {
    async fn next(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap()
    }
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(seams: &Seams, config: server::Config, ours: Identity, handler: Arc<dyn Handler>) -> Running {
    let listener = seams.network.listen(ADDRESS).await.unwrap();
    let shutdown = CancellationToken::new();
    let task = seams.spawner.spawn(serve(seams.clone(), config, listener, ours, handler, shutdown.clone()));
    Running { shutdown, task }
}

async fn start_plain(seams: &Seams, handler: Arc<dyn Handler>) -> Running {
    start(seams, server::Config::default(), identity(), handler).await
}

fn connect(seams: &Seams, config: client::Config) -> Client {
    Client::new(seams.clone(), config, ADDRESS.to_owned(), Class::Data, identity(), None)
}

fn connect_plain(seams: &Seams) -> Client {
    connect(seams, client::Config::default())
}

fn in_seconds(seams: &Seams, seconds: u64) -> BootInstant {
    seams.clock.now() + Duration::from_secs(seconds)
}

/// Starts a call and leaves it running.
fn call(seams: &Seams, client: &Client, payload: impl Into<Bytes>) -> JoinHandle<Result<Bytes, CallError>> {
    let (client, payload, deadline) = (client.clone(), payload.into(), in_seconds(seams, 5));
    seams.spawner.spawn(async move { client.call(payload, deadline).await })
}

/// A server made by hand: accepts and greets, and leaves the stream to the test.
struct ByHand(Box<dyn Listener>);

impl ByHand {
    async fn listen(seams: &Seams) -> Self {
        Self(seams.network.listen(ADDRESS).await.unwrap())
    }

    async fn accept(&mut self) -> Stream {
        let (mut stream, _) = self.0.accept().await.unwrap();
        handshake::server(&mut stream, &identity(), 1 << 20, &SystemRandom).await.unwrap();
        stream
    }
}

/// A client made by hand, greeted.
async fn connect_by_hand(seams: &Seams) -> Stream {
    let mut stream = seams.network.connect(ADDRESS).await.unwrap();
    handshake::client(&mut stream, &identity(), Class::Data, 1 << 20, &SystemRandom).await.unwrap();
    stream
}

fn request_bytes(id: u64, payload: &[u8]) -> Vec<u8> {
    let header = frame::Header::request(frame::CorrelationId(id), Duration::from_secs(5), payload.len());
    [header.as_slice(), payload].concat()
}

#[tokio::test(start_paused = true)]
async fn many_calls_at_once_get_their_own_answers() {
    let seams = Seams::simulated(1);
    let _server = start_plain(&seams, Arc::new(Echo)).await;
    let client = connect_plain(&seams);
    let payload = |n: usize| Bytes::from(format!("{n}-").repeat(if n.is_multiple_of(50) { 10_000 } else { n % 40 }));
    let calls = (0..1000).map(|n| client.call(payload(n), in_seconds(&seams, 5)));
    for (n, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer, Ok(payload(n)), "call {n}");
    }
    assert_eq!(client.in_flight(), 0);
    assert_eq!(client.peer().unwrap().node, Some(NodeId(1)));
}

#[tokio::test(start_paused = true)]
async fn answers_in_any_order_find_their_callers() {
    let seams = Seams::simulated(2);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let calls: Vec<_> = (0..10_u8).map(|n| call(&seams, &client, vec![n])).collect();
    let mut incoming = Vec::new();
    for _ in 0..10 {
        incoming.push(desk.next().await);
    }
    assert_eq!(client.in_flight(), 10);
    incoming.reverse();
    for one in incoming {
        let answer = vec![one.payload[0] + 100];
        one.reply.send(answer.into());
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), Ok(Bytes::from(vec![n as u8 + 100])));
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_learns_the_deadline_and_who_asks() {
    let seams = Seams::simulated(3);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let _call = call(&seams, &client, "x");
    let incoming = desk.next().await;
    assert_eq!(incoming.deadline, in_seconds(&seams, 5), "no time has passed");
    assert_eq!(*incoming.peer, identity());
    assert_eq!(desk.peers.recv().await.unwrap().1, Class::Data);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_loses_what_was_sent_and_is_made_again() {
    let seams = Seams::simulated(4);
    let mut server = ByHand::listen(&seams).await;
    let client = connect_plain(&seams);
    let lost = call(&seams, &client, "sent");
    let mut stream = server.accept().await;
    let mut request = vec![0; request_bytes(0, b"sent").len()];
    stream.read_exact(&mut request).await.unwrap();
    drop(stream);
    assert_eq!(lost.await.unwrap(), Err(CallError::Lost));
    assert!(CallError::Lost.may_have_been_executed());
    drop(server);

    let _server = start_plain(&seams, Arc::new(Echo)).await;
    seams.spawner.sleep(Duration::from_secs(3)).await;
    assert_eq!(client.call("again".into(), in_seconds(&seams, 5)).await, Ok("again".into()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_written_whole_is_known_not_to_be_executed() {
    let seams = Seams::simulated(5);
    let mut server = ByHand::listen(&seams).await;
    let client = connect_plain(&seams);
    let small = call(&seams, &client, "small");
    // More than a connection in memory takes before somebody reads.
    let cut = call(&seams, &client, vec![1; 500_000]);
    let stream = server.accept().await;
    seams.spawner.sleep(Duration::from_millis(10)).await;
    drop(stream);
    assert_eq!(small.await.unwrap(), Err(CallError::Lost));
    assert_eq!(cut.await.unwrap(), Err(CallError::NotSent(NotSent::Disconnected)));
    assert!(!CallError::NotSent(NotSent::Disconnected).may_have_been_executed());
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_and_a_late_answer_finds_nobody() {
    let seams = Seams::simulated(6);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let began = seams.clock.now();
    // The longer one is there first, so the timer must come forward for the shorter one.
    let longer = call(&seams, &client, "longer");
    let late = desk.next().await;
    let shorter = client.call("shorter".into(), began + Duration::from_millis(100)).await;
    let took = seams.clock.now().since(began);
    assert_eq!(shorter, Err(CallError::DeadlinePassed { sent: true }));
    assert!(took >= Duration::from_millis(100) && took <= Duration::from_millis(115), "{took:?}");
    assert_eq!(longer.await.unwrap(), Err(CallError::DeadlinePassed { sent: true }));
    assert_eq!(client.in_flight(), 0);
    late.reply.send("too late".into());
    let next = call(&seams, &client, "next");
    drop(desk.next().await);
    let incoming = desk.next().await;
    assert_eq!(incoming.payload, "next");
    incoming.reply.send("in time".into());
    assert_eq!(next.await.unwrap(), Ok("in time".into()));
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_peer_that_never_greets_is_surely_not_sent() {
    let seams = Seams::simulated(7);
    let _nobody_accepts = seams.network.listen(ADDRESS).await.unwrap();
    let client = connect_plain(&seams);
    let deadline = seams.clock.now() + Duration::from_millis(50);
    assert_eq!(client.call("x".into(), deadline).await, Err(CallError::DeadlinePassed { sent: false }));
    assert_eq!(client.call("x".into(), deadline).await, Err(CallError::DeadlinePassed { sent: false }), "already past");
    let patient = client.call("x".into(), in_seconds(&seams, 5)).await;
    assert_eq!(patient, Err(CallError::NotSent(NotSent::Connecting)));
    seams.spawner.sleep(Duration::from_secs(3)).await;
    let began = seams.clock.now();
    let down = client.call("x".into(), in_seconds(&seams, 5)).await;
    assert!(matches!(down, Err(CallError::NotSent(NotSent::Unreachable(_)))), "{down:?}");
    assert_eq!(seams.clock.now(), began, "it fails at once");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reply_is_an_abandoned_call() {
    let seams = Seams::simulated(8);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let client = connect_plain(&seams);
    let running = call(&seams, &client, "x");
    drop(desk.next().await);
    assert_eq!(running.await.unwrap(), Err(CallError::Abandoned));
    assert!(CallError::Abandoned.may_have_been_executed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_frees_its_place() {
    let seams = Seams::simulated(9);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let client = connect(&seams, client::Config { in_flight_max: 1, ..Default::default() });
    let running = call(&seams, &client, "x");
    let first = desk.next().await;
    assert_eq!(client.call("y".into(), in_seconds(&seams, 5)).await, Err(CallError::Overloaded));
    running.abort();
    assert!(running.await.is_err());
    assert_eq!(client.in_flight(), 0);
    let next = call(&seams, &client, "z");
    let second = desk.next().await;
    first.reply.send("for x".into());
    second.reply.send("for z".into());
    assert_eq!(next.await.unwrap(), Ok("for z".into()));
}

/// Hands requests to the test, each with what says that nobody waits for its answer any more.
struct Watchful(mpsc::UnboundedSender<(Incoming, CancellationToken)>);

impl Handler for Watchful {
    fn handle(&self, incoming: Incoming) {
        let given_up = incoming.reply.given_up();
        let _ = self.0.send((incoming, given_up));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_hears_when_nobody_waits_for_its_answer_any_more() {
    let seams = Seams::simulated(1);
    let (sender, mut requests) = mpsc::unbounded_channel();
    let _server = start_plain(&seams, Arc::new(Watchful(sender))).await;
    let client = connect_plain(&seams);
    let calls: Vec<_> = ["a", "b", "c"].iter().map(|payload| call(&seams, &client, *payload)).collect();
    let mut watched = Vec::new();
    for _ in &calls {
        watched.push(requests.recv().await.unwrap());
    }
    let given_up = |watched: &[(Incoming, CancellationToken)]| -> Vec<bool> {
        watched.iter().map(|(_, given_up)| given_up.is_cancelled()).collect()
    };
    calls[1].abort();
    seams.spawner.sleep(Duration::from_millis(1)).await;
    assert_eq!(given_up(&watched), [false, true, false], "one of them, and at once");
    // Who is answered is none that gives up.
    let (first, token) = watched.remove(0);
    first.reply.send("for a".into());
    for (number, call) in calls.into_iter().enumerate() {
        match number {
            0 => assert_eq!(call.await.unwrap(), Ok("for a".into())),
            1 => assert!(call.await.is_err()),
            _ => drop(client.clone()),
        }
    }
    assert!(!token.is_cancelled());
    drop(client);
    seams.spawner.sleep(Duration::from_secs(10)).await;
    assert_eq!(given_up(&watched), [true, true], "its connection has ended");
}

#[tokio::test(start_paused = true)]
async fn a_word_that_comes_with_its_request_is_heard_and_one_about_nothing_is_harmless() {
    let seams = Seams::simulated(2);
    let (sender, mut requests) = mpsc::unbounded_channel();
    let _server = start_plain(&seams, Arc::new(Watchful(sender))).await;
    let mut stream = connect_by_hand(&seams).await;
    let word = |id| frame::Header::given_up(frame::CorrelationId(id)).as_slice().to_vec();
    let bytes = [word(7), request_bytes(8, b"x"), word(8), word(8), request_bytes(9, b"y")].concat();
    stream.write_all(&bytes).await.unwrap();
    let (_first, given_up) = requests.recv().await.unwrap();
    let (second, waits) = requests.recv().await.unwrap();
    assert!(given_up.is_cancelled() && !waits.is_cancelled());
    second.reply.send("for y".into());
    let mut answer = vec![0; frame::Header::reply(frame::CorrelationId(9), 5).as_slice().len() + 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"for y"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_learns_whether_its_request_was_sent() {
    let seams = Seams::simulated(1);
    let nobody_accepts = seams.network.listen(ADDRESS).await.unwrap();
    let unheard = connect_plain(&seams);
    let soon = || seams.spawner.sleep(Duration::from_millis(1));
    let unsent = unheard.call_unless("a".into(), in_seconds(&seams, 5), soon()).await;
    assert_eq!(unsent, Err(CallError::GivenUp { sent: false }));
    assert!(!unsent.unwrap_err().may_have_been_executed());
    assert_eq!(unheard.in_flight(), 0);
    drop((unheard, nobody_accepts));

    let (desk, mut desks) = desk();
    let _server = start_plain(&seams, desk).await;
    let client = connect_plain(&seams);
    let sent = client.call_unless("b".into(), in_seconds(&seams, 5), soon()).await;
    assert_eq!(sent, Err(CallError::GivenUp { sent: true }));
    assert!(sent.unwrap_err().may_have_been_executed());
    assert_eq!(client.in_flight(), 0);
    desks.next().await.reply.send("late".into());

    // An answer that is there already counts, although the caller would give up now.
    let answered = Arc::new(tokio::sync::Notify::new());
    let told = answered.clone();
    let asking = client.call_unless("c".into(), in_seconds(&seams, 5), async move { told.notified().await });
    let answering = async {
        desks.next().await.reply.send("in time".into());
        seams.spawner.sleep(Duration::from_millis(1)).await;
        answered.notify_one();
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer, Ok("in time".into()));
}

#[tokio::test(start_paused = true)]
async fn pushes_arrive_and_a_full_channel_drops_the_newest() {
    let seams = Seams::simulated(17);
    let (handler, mut desk) = desk();
    let _server = start_plain(&seams, handler).await;
    let (sender, mut heard) = mpsc::channel(2);
    let config = client::Config::default();
    let client = Client::new(seams.clone(), config, ADDRESS.to_owned(), Class::Control, identity(), Some(sender));
    let (peer, class, pushes) = desk.peers.recv().await.unwrap();
    assert_eq!((peer.role, class), (Role::Node, Class::Control));
    for n in 0..3_u8 {
        assert!(pushes.send(vec![n].into()));
    }
    seams.spawner.sleep(Duration::from_millis(10)).await;
    for n in 0..2_u8 {
        let pushed = heard.recv().await.unwrap();
        assert_eq!(pushed, Pushed { from: ADDRESS.to_owned(), payload: vec![n].into() });
    }
    assert!(heard.try_recv().is_err());
    assert_eq!(client.pushes_dropped(), 1);
    drop(client);
    seams.spawner.sleep(Duration::from_millis(10)).await;
    assert!(pushes.is_closed() && !pushes.send("x".into()));
}

#[test]
fn messages_borrow_from_their_payload() {
    let request = message::Request::Read {
        shard: ShardId(3),
        kind: "cart",
        id: "alice",
        consistency: message::Consistency::Strict,
        traceparent: "",
    };
    let payload = encode(&request).unwrap();
    let decoded: message::Request<'_> = decode(&payload).unwrap();
    assert_eq!(decoded, request);
    let message::Request::Read { id, .. } = decoded else { panic!("a read") };
    let kept = payload.slice_ref(id.as_bytes());
    drop(payload);
    assert_eq!(kept, "alice");
    let mut longer = encode(&request).unwrap().to_vec();
    longer.push(0);
    assert!(decode::<message::Request<'_>>(&longer).is_err(), "nothing may follow a message");
    assert!(decode::<message::Request<'_>>(&longer[..longer.len() - 3]).is_err());
}

fn in_paused_time<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a stranger sends, greeted or not, the server goes on answering others.
    #[test]
    fn a_server_survives_hostile_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), greeted in any::<bool>()) {
        in_paused_time(async {
            let seams = Seams::simulated(28);
            let _server = start_plain(&seams, Arc::new(Echo)).await;
            let mut stream = if greeted {
                connect_by_hand(&seams).await
            } else {
                seams.network.connect(ADDRESS).await.unwrap()
            };
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            let client = connect_plain(&seams);
            assert_eq!(client.call("x".into(), in_seconds(&seams, 5)).await, Ok("x".into()));
        });
    }

    /// Whatever a server sends, a client's call ends, and its next connection works.
    #[test]
    fn a_client_survives_hostile_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), greeted in any::<bool>()) {
        in_paused_time(async {
            let seams = Seams::simulated(29);
            let mut by_hand = ByHand::listen(&seams).await;
            let client = connect_plain(&seams);
            let running = call(&seams, &client, "x");
            let mut stream = if greeted { by_hand.accept().await } else { by_hand.0.accept().await.unwrap().0 };
            let _ = stream.write_all(&bytes).await;
            seams.spawner.sleep(Duration::from_millis(1)).await;
            drop((stream, by_hand));
            assert!(running.await.unwrap().is_err());
            let _server = start_plain(&seams, Arc::new(Echo)).await;
            seams.spawner.sleep(Duration::from_secs(3)).await;
            assert_eq!(client.call("y".into(), in_seconds(&seams, 5)).await, Ok("y".into()));
        });
    }
}
