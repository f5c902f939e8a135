//! The asking side: one connection to one address, kept up by a task of its own, shared by any number of callers. It
//! knows nothing of what it carries, and repeats nothing: whether to ask again is the caller's decision.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::calls::Calls;
use super::frame::{CorrelationId, Header};
use super::handshake::{self, Refusal};
use super::keeper::Keeper;
use super::outbox::Outbox;
use super::{Class, Identity};
use crate::ids::ClusterId;
use crate::seam::{BootInstant, Seams};

/// Limits of one client.
#[derive(Clone, Debug)]
pub struct Config {
    /// Longest frame read; the peer says what it reads itself. A payload may be 13 bytes shorter.
    pub frame_bytes_max: usize,
    /// Calls at once, with those that wait for a connection.
    pub in_flight_max: usize,
    /// Bytes that wait to be written. One payload may go over it when nothing else waits.
    pub queued_bytes_max: usize,
    /// How long to wait for the stream, and again for the peer's greeting.
    pub connect_timeout: Duration,
    pub handshake_timeout: Duration,
    /// How long a call waits for a first connection, or for the first attempt after one broke. In all other times
    /// without a connection a call fails at once.
    pub connection_wait: Duration,
    /// Pause after the first failed attempt. It doubles up to `backoff_max`; each pause is cut at random to between half
    /// and all of it, so that the clients of a restarted server do not all come at once.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// The peer is pinged after this long without a byte from it …
    pub ping_after: Duration,
    /// … and given up after this long, which is more.
    pub silence_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frame_bytes_max: 4 * 1024 * 1024,
            in_flight_max: 4096,
            queued_bytes_max: 16 * 1024 * 1024,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(2),
            connection_wait: Duration::from_millis(250),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            ping_after: Duration::from_secs(2),
            silence_max: Duration::from_secs(6),
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Surely not executed.
    #[error("not sent: {0}")]
    NotSent(NotSent),
    /// This client, or the peer, has as much to do as it allows. Surely not executed.
    #[error("too many requests are in flight")]
    Overloaded,
    /// The connection broke after the request was sent: the outcome is unknown.
    #[error("the connection broke before the answer came")]
    Lost,
    /// `sent`: the request was on its way, so the outcome is unknown.
    #[error("the deadline passed{}", if *sent { " before the answer came" } else { " before the request was sent" })]
    DeadlinePassed { sent: bool },
    /// The peer gave up without an answer: the outcome is unknown.
    #[error("the peer gave up without an answer")]
    Abandoned,
    /// The caller gave up. `sent`: the request was on its way, so the outcome is unknown.
    #[error("given up{}", if *sent { " before the answer came" } else { " before the request was sent" })]
    GivenUp { sent: bool },
}

/// Why a request did not reach the peer, or was declined by it before it began.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    #[error("still connecting")]
    Connecting,
    #[error("not connected: {0}")]
    Unreachable(Arc<str>),
    #[error("not connected: {0}")]
    Refused(Arc<Refusal>),
    #[error("the connection broke first")]
    Disconnected,
    #[error("the peer is shutting down")]
    ShuttingDown,
    #[error("the payload is longer than the peer takes")]
    TooLong,
}

impl CallError {
    /// False only when the request was surely not executed.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Overloaded => false,
            Self::Lost | Self::Abandoned => true,
            Self::DeadlinePassed { sent } | Self::GivenUp { sent } => *sent,
        }
    }
}

/// What a peer said unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The address of the client that heard it.
    pub from: String,
    pub payload: Bytes,
}

/// A connection to one address, made and made again in the background. Cheap to clone; it closes with its last clone.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    closing: CancellationToken,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// What callers and the client's task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) seams: Seams,
    pub(super) config: Config,
    pub(super) address: String,
    /// Where this side belongs, which it may learn while there is a connection.
    pub(super) cluster: OnceLock<ClusterId>,
    pub(super) state: Mutex<State>,
    /// Told of every change of `State::link`.
    pub(super) changed: Notify,
    /// Whether `State::link` is `Connected`, for those who wait for that to change.
    pub(super) connected: watch::Sender<bool>,
    pub(super) pushes_dropped: AtomicU64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) link: Link,
    pub(super) outbox: Outbox,
    pub(super) calls: Calls,
    /// Calls that wait for a connection.
    waiting: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Link {
    /// Calls wait a moment.
    Connecting,
    Connected {
        peer: Arc<Identity>,
        payload_bytes_max: usize,
    },
    /// Calls fail at once.
    Down(NotSent),
}

impl Client {
    /// Starts a task that connects and reconnects. `pushes` gets what the peer says unasked; when it is full the newest
    /// are dropped and counted, because a push is a hint.
    pub fn new(
        seams: Seams,
        config: Config,
        address: String,
        class: Class,
        identity: Identity,
        pushes: Option<mpsc::Sender<Pushed>>,
    ) -> Self {
        let state = State {
            link: Link::Connecting,
            outbox: Outbox::default(),
            calls: Calls::new(config.in_flight_max),
            waiting: 0,
        };
        let shared = Arc::new(Shared {
            seams: seams.clone(),
            config,
            address,
            cluster: identity.cluster.map(OnceLock::from).unwrap_or_default(),
            state: Mutex::new(state),
            changed: Notify::new(),
            connected: watch::Sender::new(false),
            pushes_dropped: AtomicU64::new(0),
        });
        let closing = CancellationToken::new();
        let keeper = Keeper { shared: shared.clone(), class, identity, pushes };
        seams.spawner.spawn(closing.clone().run_until_cancelled_owned(keeper.run()));
        Self { handle: Arc::new(Handle { shared, closing }) }
    }

    /// Sends a request and waits for its answer, until `deadline` at most (enforced up to 10 ms late). The answer shares
    /// the memory it was read into. A call that is dropped frees its place; its request may be executed all the same.
    pub async fn call(&self, payload: Bytes, deadline: BootInstant) -> Result<Bytes, CallError> {
        self.call_unless(payload, deadline, std::future::pending()).await
    }

    /// [`Client::call`] for a caller that gives up when `given_up` completes, and wants to know whether the request was
    /// sent by then. An answer that is there already is returned all the same.
    pub async fn call_unless(
        &self,
        payload: Bytes,
        deadline: BootInstant,
        given_up: impl Future<Output = ()>,
    ) -> Result<Bytes, CallError> {
        let shared = &*self.handle.shared;
        let mut given_up = std::pin::pin!(given_up);
        let mut call = Call { shared, deadline, state: CallState::Begin(payload) };
        let mut answer = call.unless(given_up.as_mut()).await;
        if answer == Err(CallError::NotSent(NotSent::Connecting)) {
            let waited = tokio::select! {
                biased;
                waited = shared.wait_for_connection(deadline) => waited,
                () = given_up.as_mut() => Err(CallError::GivenUp { sent: false }),
            };
            answer = match waited {
                Ok(()) => call.unless(given_up).await,
                Err(error) => Err(error),
            };
        }
        if answer.is_err() {
            // A caller that asks again at once would otherwise never let go of its thread.
            tokio::task::consume_budget().await;
        }
        answer
    }

    /// Says where this side belongs, if it was made without that: from now on a peer of another cluster is asked for nothing, also
    /// one that is connected already or has the address later.
    pub fn belong(&self, cluster: ClusterId) {
        let _known = self.handle.shared.cluster.set(cluster);
    }

    pub fn address(&self) -> &str {
        &self.handle.shared.address
    }

    /// Who is at the other end, while connected.
    pub fn peer(&self) -> Option<Arc<Identity>> {
        match &self.handle.shared.state.lock().link {
            Link::Connected { peer, .. } => Some(peer.clone()),
            Link::Connecting | Link::Down(_) => None,
        }
    }

    /// Whether there is a connection, as it changes. It ends, as `false`, with the client.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.handle.shared.connected.subscribe()
    }

    pub fn in_flight(&self) -> usize {
        let state = self.handle.shared.state.lock();
        state.calls.len() + state.waiting
    }

    /// Pushes that found their channel full, since the client was made.
    pub fn pushes_dropped(&self) -> u64 {
        self.handle.shared.pushes_dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn wait_for_connection(&self, deadline: BootInstant) -> Result<(), CallError> {
        let left = deadline.since(self.seams.clock.now());
        if left.is_zero() {
            return Err(CallError::DeadlinePassed { sent: false });
        }
        let _waiting = Waiting::begin(self)?;
        let changed = async {
            loop {
                let change = self.changed.notified();
                if !matches!(self.state.lock().link, Link::Connecting) {
                    return;
                }
                change.await;
            }
        };
        match self.seams.spawner.timeout(left.min(self.config.connection_wait), changed).await {
            Some(()) => Ok(()),
            None if left <= self.config.connection_wait => Err(CallError::DeadlinePassed { sent: false }),
            None => Err(CallError::NotSent(NotSent::Connecting)),
        }
    }

    /// Takes a slot and appends the request, all under one lock. Leaves `payload` in its place when that fails.
    fn begin(&self, payload: &mut Bytes, deadline: BootInstant, waker: &Waker) -> Result<CorrelationId, CallError> {
        let remaining = deadline.since(self.seams.clock.now());
        if remaining.is_zero() {
            return Err(CallError::DeadlinePassed { sent: false });
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let payload_bytes_max = match &state.link {
            Link::Connected { peer, payload_bytes_max } => {
                let one = handshake::of_one_cluster(self.cluster.get().copied(), peer.cluster);
                one.map_err(|refusal| CallError::NotSent(NotSent::Refused(Arc::new(refusal))))?;
                *payload_bytes_max
            }
            Link::Connecting => return Err(CallError::NotSent(NotSent::Connecting)),
            Link::Down(reason) => return Err(CallError::NotSent(reason.clone())),
        };
        if payload.len() > payload_bytes_max {
            return Err(CallError::NotSent(NotSent::TooLong));
        }
        let has_room = state.outbox.is_empty() || state.outbox.has_room(payload.len(), self.config.queued_bytes_max);
        if !has_room || !state.calls.has_room() {
            return Err(CallError::Overloaded);
        }
        let id = state.calls.begin(deadline, waker.clone());
        let header = Header::request(id, remaining, payload.len());
        let end = state.outbox.append(&header, std::mem::take(payload));
        state.calls.set_frame_end(id, end);
        let writer = state.outbox.take_waker();
        drop(guard);
        if let Some(writer) = writer {
            writer.wake();
        }
        Ok(id)
    }

    pub(super) fn set_link(&self, link: Link) {
        let connected = matches!(link, Link::Connected { .. });
        self.state.lock().link = link;
        self.connected.send_if_modified(|current| std::mem::replace(current, connected) != connected);
        self.changed.notify_waiters();
    }
}

/// A call that waits for a connection, counted as long as this lives.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Result<Self, CallError> {
        let mut state = shared.state.lock();
        if state.waiting + state.calls.len() >= shared.config.in_flight_max {
            return Err(CallError::Overloaded);
        }
        state.waiting += 1;
        Ok(Self(shared))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

/// One call on a connection.
struct Call<'a> {
    shared: &'a Shared,
    deadline: BootInstant,
    state: CallState,
}

enum CallState {
    /// Not sent; a call that failed to begin stays here, and may be polled again.
    Begin(Bytes),
    Sent(CorrelationId),
    Ended,
}

impl Call<'_> {
    async fn unless(&mut self, given_up: Pin<&mut impl Future<Output = ()>>) -> Result<Bytes, CallError> {
        tokio::select! {
            biased;
            answer = &mut *self => return answer,
            () = given_up => {}
        }
        Err(CallError::GivenUp { sent: !matches!(self.state, CallState::Begin(_)) })
    }
}

impl Future for Call<'_> {
    type Output = Result<Bytes, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (shared, deadline) = (self.shared, self.deadline);
        match &mut self.state {
            CallState::Begin(payload) => match shared.begin(payload, deadline, context.waker()) {
                Ok(id) => {
                    self.state = CallState::Sent(id);
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            },
            CallState::Sent(id) => {
                let polled = shared.state.lock().calls.poll(*id, context.waker());
                let Some(answer) = polled else { return Poll::Pending };
                self.state = CallState::Ended;
                Poll::Ready(answer)
            }
            CallState::Ended => Poll::Pending,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let CallState::Sent(id) = self.state else { return };
        let writer = {
            let mut guard = self.shared.state.lock();
            let state = &mut *guard;
            let is_awaited = state.calls.give_up(id) && matches!(state.link, Link::Connected { .. });
            // Where there is much to say already, the peer finds out by its answer.
            if is_awaited && state.outbox.has_room(0, self.shared.config.queued_bytes_max) {
                state.outbox.append(&Header::given_up(id), Bytes::new());
                state.outbox.take_waker()
            } else {
                None
            }
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}
