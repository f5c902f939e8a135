//! The answering side: takes connections, greets them, and hands every request to a [`Handler`], which answers now or
//! later from anywhere. It knows nothing of what it carries and holds no request of its own.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connection::{Connection, Ended, Patience, Side};
use super::frame::{CorrelationId, Decline, Frame, Header, OVERHEAD_BYTES_MAX};
use super::handshake::{self, Peer, Refusal, RefusalCode};
use super::outbox::Outbox;
use super::{Class, Identity};
use crate::seam::network::{Listener, Stream};
use crate::seam::{BootInstant, Seams};

/// Limits of one server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Longest frame read; the peer says what it reads itself.
    pub frame_bytes_max: usize,
    /// Connections at once, those in their handshake included. One more is refused.
    pub connections_max: usize,
    /// Requests without an answer, per connection. One more is declined.
    pub in_flight_max: usize,
    /// Bytes that wait to be written, per connection. A connection whose peer lets more pile up is closed.
    pub queued_bytes_max: usize,
    /// From the first byte, that of TLS included, to a welcome.
    pub handshake_timeout: Duration,
    /// The peer is pinged after this long without a byte from it …
    pub ping_after: Duration,
    /// … and given up after this long, which is more.
    pub silence_max: Duration,
    /// How long running requests may go on answering after a shutdown has begun.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frame_bytes_max: 4 * 1024 * 1024,
            connections_max: 1024,
            in_flight_max: 8192,
            queued_bytes_max: 32 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(2),
            ping_after: Duration::from_secs(2),
            silence_max: Duration::from_secs(6),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Pause after the system refused to accept, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the last words to a peer may take.
const FAREWELL_MAX: Duration = Duration::from_millis(500);
/// A peer that is refused tries again and again: the same refusal of the same machine is a warning once in this time …
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);
/// … and this many are remembered; of more, the oldest is forgotten, and may be a warning again.
const REFUSALS_MAX: usize = 64;
/// Pushes are dropped while this part of the room for queued bytes is taken: answers go first.
const PUSH_PART: usize = 4;

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Called on the connection's task, so it must not block. Answers through `incoming.reply`, now or later.
    fn handle(&self, incoming: Incoming);

    /// A peer finished its handshake; `pushes` sends it unasked messages until it is gone.
    fn connected(&self, peer: &Arc<Identity>, class: Class, pushes: PushSender) {
        let _ = (peer, class, pushes);
    }
}

/// A request, and how to answer it.
#[derive(Debug)]
pub struct Incoming {
    /// Shares the memory it was read into.
    pub payload: Bytes,
    /// When the caller stops waiting, on this process's clock; never earlier than on the caller's own. It may have passed.
    pub deadline: BootInstant,
    pub peer: Arc<Identity>,
    pub reply: Reply,
}

/// The way back to a caller. Dropped unsent it tells the caller that nobody will answer.
pub struct Reply {
    link: Arc<Link>,
    id: CorrelationId,
    sent: bool,
}

/// Sends unasked messages to one connected peer. Cheap to clone.
#[derive(Clone)]
pub struct PushSender {
    link: Arc<Link>,
}

/// What a connection shares with its replies and pushes.
struct Link {
    state: Mutex<LinkState>,
    queued_bytes_max: usize,
    /// Longest payload that the peer reads.
    payload_bytes_max: usize,
}

struct LinkState {
    outbox: Outbox,
    /// Requests without an answer.
    in_flight: usize,
    /// Those of them whose handler wants to know when nobody waits for the answer any more. Bounded by them.
    watched: BTreeMap<u64, CancellationToken>,
    /// Set by a shutdown: no further request is begun.
    draining: bool,
}

impl Reply {
    /// Answers. An answer longer than the peer reads is not sent; the caller hears that nobody will answer.
    pub fn send(mut self, payload: Bytes) {
        self.sent = true;
        if payload.len() <= self.link.payload_bytes_max {
            self.link.answer(self.id, &Header::reply(self.id, payload.len()), payload);
        } else {
            tracing::error!(bytes = payload.len(), "an answer is longer than its caller reads");
            self.link.answer(self.id, &Header::abandoned(self.id), Bytes::new());
        }
    }

    /// Cancelled when nobody waits for the answer any more: the caller has given up, or its connection has ended. For answers
    /// that are long in coming. To be asked for before the handler returns, so that no word of the caller is missed.
    pub fn given_up(&self) -> CancellationToken {
        let token = CancellationToken::new();
        let mut state = self.link.state.lock();
        if state.outbox.is_closed() {
            token.cancel();
        } else {
            state.watched.insert(self.id.0, token.clone());
        }
        token
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            self.link.answer(self.id, &Header::abandoned(self.id), Bytes::new());
        }
    }
}

impl PushSender {
    /// False when the message was dropped, because the peer is gone, has much to read already, or reads no message as
    /// long as this.
    pub fn send(&self, payload: Bytes) -> bool {
        let waker = {
            let mut state = self.link.state.lock();
            let has_room = state.outbox.has_room(payload.len(), self.link.queued_bytes_max / PUSH_PART);
            if state.outbox.is_closed() || !has_room || payload.len() > self.link.payload_bytes_max {
                return false;
            }
            state.outbox.append(&Header::push(payload.len()), payload);
            state.outbox.take_waker()
        };
        wake(waker);
        true
    }

    pub fn is_closed(&self) -> bool {
        self.link.state.lock().outbox.is_closed()
    }
}

impl Link {
    fn answer(&self, id: CorrelationId, header: &Header, payload: Bytes) {
        let waker = {
            let mut state = self.state.lock();
            state.in_flight -= 1;
            state.watched.remove(&id.0);
            state.append_bounded(header, payload, self.queued_bytes_max)
        };
        wake(waker);
    }
}

impl LinkState {
    /// Appends what must not be left out; a peer that has let too much pile up loses its connection instead.
    #[must_use]
    fn append_bounded(&mut self, header: &Header, payload: Bytes, queued_bytes_max: usize) -> Option<Waker> {
        if !self.outbox.is_empty() && !self.outbox.has_room(payload.len(), queued_bytes_max) {
            return self.outbox.close();
        }
        self.outbox.append(header, payload);
        self.outbox.take_waker()
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Serves until `shutdown`; then stops accepting, declines new requests, and returns when every running request is
/// answered and written, or `drain_timeout` has passed. Dropping the future shuts down too, without waiting.
pub async fn serve(
    seams: Seams,
    config: Config,
    mut listener: Box<dyn Listener>,
    identity: Identity,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) {
    let serving = Serving::new(seams, config, identity, handler, &shutdown);
    serving.accept(&mut *listener).await;
    // Who connects while the last requests are answered should try elsewhere at once.
    drop(listener);
    serving.drain().await;
}

/// [`serve`] on a listener that its holder needs again: who connects after `shutdown` waits until it is served once more.
/// Every connection of this server is closed when the future ends, so that peers greet the next server anew.
pub async fn serve_on(
    seams: Seams,
    config: Config,
    listener: &mut dyn Listener,
    identity: Identity,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) {
    let serving = Serving::new(seams, config, identity, handler, &shutdown);
    serving.accept(listener).await;
    serving.drain().await;
}

/// A server and its connections.
struct Serving {
    server: Arc<Server>,
    connections: TaskTracker,
    _ends_with_this: DropGuard,
}

impl Serving {
    fn new(
        seams: Seams,
        config: Config,
        identity: Identity,
        handler: Arc<dyn Handler>,
        shutdown: &CancellationToken,
    ) -> Self {
        let shutdown = shutdown.child_token();
        let guard = shutdown.clone().drop_guard();
        let refusals = Mutex::default();
        let server = Arc::new(Server { seams, config, identity, handler, shutdown, refusals });
        Self { server, connections: TaskTracker::new(), _ends_with_this: guard }
    }

    /// Takes connections until the shutdown.
    async fn accept(&self, listener: &mut dyn Listener) {
        let server = &self.server;
        while let Some(accepted) = server.shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, address)) if self.connections.len() < server.config.connections_max => {
                    let connection = server.clone().connection(stream, address);
                    server.seams.spawner.spawn(self.connections.track_future(connection));
                }
                Ok((stream, address)) => server.turn_away(stream, &address).await,
                Err(error) => {
                    tracing::warn!("no connection could be accepted: {error}");
                    server.seams.spawner.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn drain(self) {
        self.connections.close();
        self.connections.wait().await;
    }
}

struct Server {
    seams: Seams,
    config: Config,
    identity: Identity,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
    /// The refusals that were warned of lately, and when; the oldest first.
    refusals: Mutex<VecDeque<(String, BootInstant)>>,
}

impl Server {
    async fn turn_away(&self, mut stream: Stream, address: &str) {
        let line = format!("there are {} connections already", self.config.connections_max);
        let refusal = Refusal::ours(RefusalCode::TooManyConnections, line);
        self.tell(address, &refusal);
        // A fresh socket takes these bytes at once; one that does not is not worth waiting for.
        let _ = self.seams.spawner.timeout(FAREWELL_MAX / 10, handshake::refuse(&mut stream, &refusal)).await;
    }

    async fn connection(self: Arc<Self>, mut stream: Stream, address: String) {
        let greeting = handshake::server(&mut stream, &self.identity, self.config.frame_bytes_max, &*self.seams.random);
        let greeting = self.seams.spawner.timeout(self.config.handshake_timeout, greeting);
        match self.shutdown.run_until_cancelled(greeting).await {
            Some(Some(Ok(peer))) => self.answer(stream, &address, peer).await,
            // TLS below found the peer's certificate, or that it shows none, or that it does not speak TLS.
            Some(Some(Err(handshake::Error::Stream(error)))) if error.kind() == io::ErrorKind::InvalidData => {
                self.tell(&address, &Refusal::ours(RefusalCode::Credential, error.to_string()));
            }
            // A peer that ends, or a probe of the port.
            Some(Some(Err(error @ handshake::Error::Stream(_)))) => tracing::info!(address, "{error}"),
            Some(Some(Err(handshake::Error::Refused(refusal)))) => self.tell(&address, &refusal),
            Some(Some(Err(error))) => tracing::warn!(address, "{error}"),
            Some(None) => tracing::warn!(address, "the peer's greeting did not come in time"),
            None => {}
        }
    }

    /// One line for a peer that is refused, and not one for each of its attempts.
    fn tell(&self, address: &str, refusal: &Refusal) {
        // Every attempt comes from a port of its own.
        let machine = address.rsplit_once(':').map_or(address, |(machine, _)| machine);
        if self.is_news(format!("{machine} {refusal}")) {
            tracing::warn!(address, "{refusal}");
        } else {
            tracing::debug!(address, "{refusal}");
        }
    }

    fn is_news(&self, refusal: String) -> bool {
        let now = self.seams.clock.now();
        let mut refusals = self.refusals.lock();
        refusals.retain(|(_, at)| now.since(*at) < REFUSAL_PAUSE);
        if refusals.iter().any(|(known, _)| *known == refusal) {
            return false;
        }
        refusals.push_back((refusal, now));
        if refusals.len() > REFUSALS_MAX {
            refusals.pop_front();
        }
        true
    }

    async fn answer(&self, stream: Stream, address: &str, peer: Peer) {
        let Config { frame_bytes_max, in_flight_max, queued_bytes_max, .. } = self.config;
        let state = LinkState { outbox: Outbox::default(), in_flight: 0, watched: BTreeMap::new(), draining: false };
        let payload_bytes_max = peer.frame_bytes_max.min(u32::MAX as usize).saturating_sub(OVERHEAD_BYTES_MAX);
        let link = Arc::new(Link { state: Mutex::new(state), queued_bytes_max, payload_bytes_max });
        let _closes_in_any_case = Closing(&link);
        tracing::info!(address, peer = ?peer.identity, class = ?peer.class, "a peer connected");
        self.handler.connected(&peer.identity, peer.class, PushSender { link: link.clone() });
        let patience = Patience { ping_after: self.config.ping_after, silence_max: self.config.silence_max };
        let side = Answering { link: &link, peer: peer.identity, handler: &*self.handler, in_flight_max };
        let mut connection = Connection::new(side, stream, &self.seams, patience, frame_bytes_max);
        let ended = match self.shutdown.run_until_cancelled(connection.run()).await {
            Some(ended) => Some(ended),
            None => {
                link.state.lock().draining = true;
                self.seams.spawner.timeout(self.config.drain_timeout, connection.run()).await
            }
        };
        match &ended {
            Some(ended) => tracing::info!(address, "a connection ended: {ended}"),
            None => tracing::warn!(address, "requests were still running when the time for a shutdown was up"),
        }
        wake(link.state.lock().outbox.close());
        if matches!(ended, Some(Ended::Drained)) {
            let _ = self.seams.spawner.timeout(FAREWELL_MAX, connection.finish()).await;
        }
    }
}

/// Closes a link when its connection's task ends, in whatever way.
struct Closing<'a>(&'a Link);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let (waker, watched) = {
            let mut state = self.0.state.lock();
            (state.outbox.close(), std::mem::take(&mut state.watched))
        };
        wake(waker);
        watched.into_values().for_each(|token| token.cancel());
    }
}

/// The server's half of a connection.
struct Answering<'a> {
    link: &'a Arc<Link>,
    peer: Arc<Identity>,
    handler: &'a dyn Handler,
    in_flight_max: usize,
}

impl Side for Answering<'_> {
    fn with_outbox<R>(&self, look: impl FnOnce(&mut Outbox) -> R) -> R {
        look(&mut self.link.state.lock().outbox)
    }

    fn receive(&mut self, frames: &mut Vec<Frame>, now: BootInstant) -> Result<(), Ended> {
        let mut given_up = Vec::new();
        frames.retain(|frame| match frame {
            Frame::GivenUp { id } => {
                given_up.push(*id);
                false
            }
            _ => true,
        });
        self.begin(frames, now)?;
        // Each after its request, which may have come with the same read.
        self.give_up(&given_up);
        Ok(())
    }

    fn earliest_deadline(&self) -> Option<BootInstant> {
        None
    }

    fn expire(&mut self, _now: BootInstant) {}

    fn is_drained(&self) -> bool {
        let state = self.link.state.lock();
        state.draining && state.in_flight == 0 && state.outbox.is_empty()
    }
}

impl Answering<'_> {
    fn give_up(&self, given_up: &[CorrelationId]) {
        if given_up.is_empty() {
            return;
        }
        let tokens: Vec<CancellationToken> = {
            let mut state = self.link.state.lock();
            given_up.iter().filter_map(|id| state.watched.remove(&id.0)).collect()
        };
        tokens.iter().for_each(CancellationToken::cancel);
    }

    fn begin(&self, frames: &mut Vec<Frame>, now: BootInstant) -> Result<(), Ended> {
        let admitted = {
            let mut state = self.link.state.lock();
            let room = if state.draining { 0 } else { self.in_flight_max.saturating_sub(state.in_flight) };
            let admitted = room.min(frames.len());
            state.in_flight += admitted;
            let why = if state.draining { Decline::ShuttingDown } else { Decline::TooManyInFlight };
            for frame in &frames[admitted..] {
                let Frame::Request { id, .. } = frame else { return Err(Ended::Misplaced) };
                // This is the connection's own task, which needs no waking.
                let _ = state.append_bounded(&Header::declined(*id, why), Bytes::new(), self.link.queued_bytes_max);
            }
            admitted
        };
        for frame in frames.drain(..).take(admitted) {
            let Frame::Request { id, remaining, payload } = frame else { return Err(Ended::Misplaced) };
            let reply = Reply { link: self.link.clone(), id, sent: false };
            self.handler.handle(Incoming { payload, deadline: now + remaining, peer: self.peer.clone(), reply });
        }
        Ok(())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for PushSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PushSender")
    }
}
