//! What is under way on one connection, so that it can be told when nothing is, and when a client of HTTP/2 keeps answers
//! waiting. HTTP/2 has pings, windows and streams of its own, which go on where nothing is asked and nothing is read: time-outs of
//! the connection's bytes alone never find such a client.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::seam::{BootInstant, Clock, Seams, Spawner};

/// The longest piece of a body that is given away at once. What a client lets wait is so much per stream at most, and the rest
/// is still here, where it is seen.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// What is under way on one connection.
#[derive(Debug)]
pub(super) struct Activity {
    clock: Arc<dyn Clock>,
    spawner: Spawner,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests that have come so far; the number of the next one.
    begun: u64,
    /// Those that are under way, by number, with the time since when a piece of the answer waits for the client to take it.
    requests: BTreeMap<u64, Option<BootInstant>>,
    /// When the last one ended, or the connection began.
    idle_since: BootInstant,
}

/// Why a connection should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing was asked on it for so long.
    Idle,
    /// An answer waited for its client for so long.
    Stalled,
}

/// One request, until its answer is gone.
#[derive(Debug)]
pub(super) struct Running {
    activity: Arc<Activity>,
    number: u64,
}

/// The body of an answer that is watched on its way.
#[derive(Debug)]
pub(super) struct Answer<B> {
    inner: B,
    /// What is left of the last piece of `inner`.
    rest: Bytes,
    /// Ends with the body.
    running: Running,
    /// Only in HTTP/2, where bytes that go on say nothing of a single answer.
    is_watched: bool,
}

impl Activity {
    pub(super) fn new(seams: &Seams) -> Arc<Self> {
        let idle_since = seams.clock.now();
        let state = Mutex::new(State { begun: 0, requests: BTreeMap::new(), idle_since });
        Arc::new(Self { clock: seams.clock.clone(), spawner: seams.spawner, state })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Running {
        let mut state = self.state.lock();
        let number = state.begun;
        state.begun += 1;
        state.requests.insert(number, None);
        Running { activity: self.clone(), number }
    }

    /// Whether a request has ever come.
    pub(super) fn has_begun(&self) -> bool {
        self.state.lock().begun > 0
    }

    /// Returns once nothing was under way for `idle_max`, or an answer waited for `stall_max`.
    pub(super) async fn over(&self, idle_max: Duration, stall_max: Duration) -> Over {
        loop {
            match self.look(idle_max, stall_max) {
                Ok(pause) => self.spawner.sleep(pause).await,
                Err(over) => return over,
            }
        }
    }

    /// How long it can be left alone.
    fn look(&self, idle_max: Duration, stall_max: Duration) -> Result<Duration, Over> {
        let (now, state) = (self.clock.now(), self.state.lock());
        let left =
            |since: BootInstant, most: Duration| most.checked_sub(now.since(since)).filter(|left| !left.is_zero());
        if state.requests.is_empty() {
            return left(state.idle_since, idle_max).ok_or(Over::Idle);
        }
        // What begins to wait, or ends, a moment from now is found at the next look.
        let mut pause = idle_max.min(stall_max);
        for since in state.requests.values().flatten() {
            pause = pause.min(left(*since, stall_max).ok_or(Over::Stalled)?);
        }
        Ok(pause)
    }

    /// Whether a piece of this answer waits for the client from now on.
    fn set_waiting(&self, number: u64, waits: bool) {
        let since = waits.then(|| self.clock.now());
        if let Some(request) = self.state.lock().requests.get_mut(&number) {
            *request = since;
        }
    }
}

impl Running {
    /// Goes on until `inner` is gone.
    pub(super) fn answer<B>(self, inner: B, is_watched: bool) -> Answer<B> {
        Answer { inner, rest: Bytes::new(), running: self, is_watched }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = self.activity.clock.now();
        let mut state = self.activity.state.lock();
        state.requests.remove(&self.number);
        state.idle_since = now;
    }
}

impl<B: Body<Data = Bytes> + Unpin> Answer<B> {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let frame = match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES_MAX));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if !self.is_watched {
            return Pin::new(&mut self.inner).poll_frame(context);
        }
        let polled = self.poll_piece(context);
        // It is asked for a piece only once the one before could be sent.
        let waits = matches!(polled, Poll::Ready(Some(Ok(_))));
        self.running.activity.set_waiting(self.running.number, waits);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);
    const STALL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_the_last_request_has_long_ended() {
        let seams = Seams::simulated(1);
        let (activity, started) = (Activity::new(&seams), seams.clock.now());
        let (first, second) = (activity.begin(), activity.begin());
        assert!(activity.has_begun());
        let working = async {
            seams.spawner.sleep(Duration::from_secs(100)).await;
            drop(first);
            seams.spawner.sleep(Duration::from_secs(3)).await;
            drop(second);
        };
        let (over, ()) = tokio::join!(activity.over(IDLE, STALL), working);
        assert_eq!(over, Over::Idle);
        assert_eq!(seams.clock.now().since(started).as_secs(), 113);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_asked_is_idle_from_the_beginning() {
        let seams = Seams::simulated(1);
        let (activity, started) = (Activity::new(&seams), seams.clock.now());
        assert_eq!(activity.over(IDLE, STALL).await, Over::Idle);
        assert!(!activity.has_begun());
        assert_eq!(seams.clock.now().since(started).as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_found_among_others_that_go_on() {
        let seams = Seams::simulated(1);
        let activity = Activity::new(&seams);
        let body = Full::new(Bytes::from(vec![7; 3 * PIECE_BYTES_MAX]));
        let (mut taken, mut left) = (activity.begin().answer(body.clone(), true), activity.begin().answer(body, true));
        left.frame().await.unwrap().unwrap();
        let taking = async {
            for _ in 0..3 {
                taken.frame().await.unwrap().unwrap();
                seams.spawner.sleep(STALL / 2).await;
            }
        };
        let started = seams.clock.now();
        let (over, ()) = tokio::join!(activity.over(IDLE, STALL), taking);
        assert_eq!(over, Over::Stalled);
        assert!(seams.clock.now().since(started) < STALL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_still_being_made_waits_for_nobody() {
        /// Has said something, and will say more some day.
        struct Unfinished(Option<Bytes>);
        impl Body for Unfinished {
            type Data = Bytes;
            type Error = std::convert::Infallible;

            fn poll_frame(
                mut self: Pin<&mut Self>,
                _context: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
                self.0.take().map_or(Poll::Pending, |said| Poll::Ready(Some(Ok(Frame::data(said)))))
            }
        }
        let seams = Seams::simulated(1);
        let activity = Activity::new(&seams);
        let mut answer = activity.begin().answer(Unfinished(Some(Bytes::from_static(b"x"))), true);
        answer.frame().await.unwrap().unwrap();
        let asked_for_more = seams.spawner.timeout(Duration::from_secs(1), answer.frame()).await;
        assert!(asked_for_more.is_none());
        assert!(seams.spawner.timeout(STALL * 3, activity.over(IDLE, STALL)).await.is_none());
    }

    #[tokio::test]
    async fn a_body_arrives_whole_and_in_pieces() {
        let activity = Activity::new(&Seams::simulated(1));
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES_MAX + 5).map(|number| number as u8).collect();
        let mut answer = activity.begin().answer(Full::new(Bytes::from(bytes.clone())), true);
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        while !answer.is_end_stream() {
            assert_eq!(answer.size_hint().exact(), Some((bytes.len() - whole.len()) as u64));
            let piece = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            pieces.push(piece.len());
            whole.extend_from_slice(&piece);
        }
        assert_eq!((whole == bytes, pieces), (true, vec![PIECE_BYTES_MAX, PIECE_BYTES_MAX, 5]));
    }
}
