//! The client's task: connects, greets, runs the connection, ends the calls that were on it, and starts over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::client::{CallError, Link, NotSent, Pushed, Shared};
use super::connection::{Connection, Ended, Patience, Side};
use super::frame::{Decline, Frame, OVERHEAD_BYTES_MAX};
use super::handshake::{self, Peer, RefusalCode};
use super::outbox::Outbox;
use super::{Class, Identity};
use crate::seam::BootInstant;
use crate::seam::dns::LOOKUP_MAX;
use crate::seam::network::{Stream, is_name};

/// How long a peer may be away, as one that starts or ends is, before it is worth a warning.
const AWAY_MAX: Duration = Duration::from_secs(1);

/// Keeps up the connection of one client until it is dropped.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) class: Class,
    pub(super) identity: Identity,
    pub(super) pushes: Option<mpsc::Sender<Pushed>>,
}

impl Keeper {
    pub(super) async fn run(self) {
        let config = &self.shared.config;
        let mut pause = config.backoff_min;
        let mut away = Away::default();
        loop {
            match self.connect().await {
                Ok((stream, peer)) => {
                    away = Away::default();
                    let began = self.shared.seams.clock.now();
                    let ended = self.serve(stream, &peer).await;
                    let lived = self.shared.seams.clock.now().since(began);
                    tracing::info!(address = %self.shared.address, "lost the connection: {ended}");
                    // A peer that takes connections only to drop them is not worth a storm of attempts.
                    if lived > config.backoff_max {
                        pause = config.backoff_min;
                    }
                    if pause > config.connection_wait {
                        self.shared.set_link(Link::Down(NotSent::Disconnected));
                    }
                }
                Err(reason) => {
                    self.shared.set_link(Link::Down(reason.clone()));
                    let refused = matches!(&reason, NotSent::Refused(_));
                    if away.is_worth_a_warning(refused, self.shared.seams.clock.now()) {
                        tracing::warn!(address = %self.shared.address, "{reason}");
                    } else {
                        tracing::debug!(address = %self.shared.address, "{reason}");
                    }
                    if matches!(&reason, NotSent::Refused(r) if r.code != RefusalCode::TooManyConnections) {
                        pause = config.backoff_max;
                    }
                }
            }
            self.shared.seams.spawner.sleep(self.jittered(pause)).await;
            pause = (pause * 2).min(config.backoff_max);
        }
    }

    /// How long connecting may take. A name is looked up first, which is no sign of how far away the peer is.
    fn connect_time(&self) -> Duration {
        let Shared { seams, config, address, .. } = &*self.shared;
        let is_looked_up = seams.network.resolver().is_some() && is_name(address);
        config.connect_timeout + if is_looked_up { LOOKUP_MAX } else { Duration::ZERO }
    }

    async fn connect(&self) -> Result<(Stream, Peer), NotSent> {
        let Shared { seams, config, address, .. } = &*self.shared;
        let unreachable = |why: String| NotSent::Unreachable(why.into());
        let mut stream = match seams.spawner.timeout(self.connect_time(), seams.network.connect(address)).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return Err(unreachable(error.to_string())),
            None => return Err(unreachable("the time-out for connecting passed".to_owned())),
        };
        let identity = Identity { cluster: self.shared.cluster.get().copied(), ..self.identity.clone() };
        let greeting = handshake::client(&mut stream, &identity, self.class, config.frame_bytes_max, &*seams.random);
        match seams.spawner.timeout(config.handshake_timeout, greeting).await {
            Some(Ok(peer)) => Ok((stream, peer)),
            Some(Err(handshake::Error::Refused(refusal))) => Err(NotSent::Refused(Arc::new(refusal))),
            Some(Err(error)) => Err(unreachable(error.to_string())),
            None => Err(unreachable("the peer's greeting did not come in time".to_owned())),
        }
    }

    /// Runs a greeted connection to its end, and ends the calls that were on it.
    async fn serve(&self, stream: Stream, peer: &Peer) -> Ended {
        let Shared { seams, config, address, .. } = &*self.shared;
        let identity = peer.identity.clone();
        tracing::info!(%address, peer = ?identity, class = ?self.class, "connected");
        let payload_bytes_max = peer.frame_bytes_max.min(u32::MAX as usize).saturating_sub(OVERHEAD_BYTES_MAX);
        self.shared.state.lock().outbox = Outbox::default();
        self.shared.set_link(Link::Connected { peer: identity, payload_bytes_max });
        let patience = Patience { ping_after: config.ping_after, silence_max: config.silence_max };
        let side = Asking { shared: &self.shared, pushes: self.pushes.as_ref(), woken: Vec::new(), pushed: Vec::new() };
        let mut connection = Connection::new(side, stream, seams, patience, config.frame_bytes_max);
        let ended = connection.run().await;
        let written = connection.written();
        let mut woken = Vec::new();
        {
            let mut state = self.shared.state.lock();
            state.link = Link::Connecting;
            let _ = state.outbox.close();
            // Whatever a peer that says goodbye has not answered it has not begun with, written or not.
            let (begun, reason) = match &ended {
                Ended::Goodbye => (0, NotSent::ShuttingDown),
                _ => (written, NotSent::Disconnected),
            };
            state.calls.lose(begun, &reason, &mut woken);
        }
        self.shared.connected.send_replace(false);
        woken.into_iter().for_each(Waker::wake);
        ended
    }

    /// Between half of `pause` and all of it.
    fn jittered(&self, pause: Duration) -> Duration {
        let half = pause / 2;
        let nanos = half.as_nanos().max(1) as u64;
        half + Duration::from_nanos(self.shared.seams.random.next_u64() % nanos)
    }
}

impl Drop for Keeper {
    /// Whatever ended this task, nobody waits for it.
    fn drop(&mut self) {
        let reason = NotSent::Unreachable("the client is closed".into());
        let mut woken = Vec::new();
        {
            let mut state = self.shared.state.lock();
            let _ = state.outbox.close();
            state.calls.lose(u64::MAX, &reason, &mut woken);
            state.link = Link::Down(reason);
        }
        self.shared.connected.send_replace(false);
        self.shared.changed.notify_waiters();
        woken.into_iter().for_each(Waker::wake);
    }
}

/// For how long a peer could not be connected to, and what was said of it.
#[derive(Default)]
struct Away {
    since: Option<BootInstant>,
    warned: bool,
    refused: bool,
}

impl Away {
    /// Whether to warn of a failed attempt: one line for an absence, one for a peer that refuses, and none for every attempt.
    fn is_worth_a_warning(&mut self, refused: bool, now: BootInstant) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_worth_it = if refused { !self.refused } else { !self.warned && now.since(since) >= AWAY_MAX };
        self.refused |= refused;
        self.warned |= is_worth_it;
        is_worth_it
    }
}

/// The client's half of a connection.
struct Asking<'a> {
    shared: &'a Shared,
    pushes: Option<&'a mpsc::Sender<Pushed>>,
    /// Callers to wake after a read, and pushes to pass on; kept for their room.
    woken: Vec<Waker>,
    pushed: Vec<Bytes>,
}

impl Side for Asking<'_> {
    fn with_outbox<R>(&self, look: impl FnOnce(&mut Outbox) -> R) -> R {
        look(&mut self.shared.state.lock().outbox)
    }

    fn receive(&mut self, frames: &mut Vec<Frame>, _now: BootInstant) -> Result<(), Ended> {
        let (mut misplaced, mut goodbye) = (false, false);
        {
            // One short lock for all answers of a read; nobody is woken and nothing is allocated under it.
            let mut state = self.shared.state.lock();
            for frame in frames.drain(..) {
                let (id, answer) = match frame {
                    Frame::Reply { id, payload } => (id, Ok(payload)),
                    Frame::Abandoned { id } => (id, Err(CallError::Abandoned)),
                    Frame::Declined { id, why: Decline::TooManyInFlight } => (id, Err(CallError::Overloaded)),
                    Frame::Declined { id, why: Decline::ShuttingDown } => {
                        (id, Err(CallError::NotSent(NotSent::ShuttingDown)))
                    }
                    Frame::Push { payload } => {
                        self.pushed.push(payload);
                        continue;
                    }
                    Frame::Goodbye => {
                        goodbye = true;
                        break;
                    }
                    Frame::Request { .. } | Frame::GivenUp { .. } | Frame::Ping | Frame::Pong => {
                        misplaced = true;
                        break;
                    }
                };
                self.woken.extend(state.calls.answer(id, answer));
            }
        }
        self.woken.drain(..).for_each(Waker::wake);
        self.pass_on();
        match (misplaced, goodbye) {
            (true, _) => Err(Ended::Misplaced),
            (false, true) => Err(Ended::Goodbye),
            (false, false) => Ok(()),
        }
    }

    fn earliest_deadline(&self) -> Option<BootInstant> {
        self.shared.state.lock().calls.earliest()
    }

    fn expire(&mut self, now: BootInstant) {
        self.shared.state.lock().calls.expire(now, &mut self.woken);
        self.woken.drain(..).for_each(Waker::wake);
    }

    fn is_drained(&self) -> bool {
        false
    }
}

impl Asking<'_> {
    fn pass_on(&mut self) {
        for payload in self.pushed.drain(..) {
            let Some(pushes) = self.pushes else { continue };
            let pushed = Pushed { from: self.shared.address.clone(), payload };
            if let Err(mpsc::error::TrySendError::Full(_)) = pushes.try_send(pushed) {
                self.shared.pushes_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::peer::client::{self, Client};
    use crate::peer::tests;
    use crate::seam::Seams;
    use crate::seam::dns::{Resolved, Resolver};
    use crate::seam::network::{Listener, Network};

    /// A network on which names are looked up for so long before they are connected to.
    #[derive(Debug)]
    struct SlowNames {
        seams: Seams,
        time: Duration,
    }

    impl Network for SlowNames {
        fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
            Box::pin(async move {
                self.seams.spawner.sleep(self.time).await;
                self.seams.network.connect(address).await
            })
        }

        fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
            self.seams.network.listen(address)
        }

        fn resolver(&self) -> Option<&dyn Resolver> {
            Some(self)
        }
    }

    impl Resolver for SlowNames {
        fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Resolved>> {
            Box::pin(async move { Err(io::Error::other(format!("{host} has no address of its own here"))) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_connecting_does_not_begin_before_a_name_is_looked_up() {
        for (address, time, is_reached) in [
            ("node-1:1", Duration::from_secs(4), true),
            ("node-1:1", Duration::from_secs(8), false),
            ("192.0.2.1:1", Duration::from_secs(4), false),
        ] {
            let seams = Seams::simulated(1);
            let slow = Seams { network: Arc::new(SlowNames { seams: seams.clone(), time }), ..seams.clone() };
            let mut listener = seams.network.listen(address).await.unwrap();
            let config = client::Config { connect_timeout: Duration::from_millis(500), ..client::Config::default() };
            let _client = Client::new(slow, config, address.to_owned(), Class::Control, tests::identity(), None);
            let reached = seams.spawner.timeout(Duration::from_secs(60), listener.accept()).await;
            assert_eq!(reached.is_some(), is_reached, "{address} {time:?}");
        }
    }
}
