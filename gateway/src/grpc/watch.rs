//! Live history as a stream of messages. Behind it are reads of history pages, each of which finds the owner of just then; so it
//! lives through failovers and hand-offs, without gaps and doubles, and no node knows of it between two reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Event};
use berth_shared::problem::Code;
use berth_shared::telemetry::Traceparent;
use futures_util::Stream;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use super::call::Call;
use super::protobuf::{WatchRequest, WatchResponse};
use super::service::{self, Service};
use super::status::Refusal;
use crate::api::Api;
use crate::api::asked::AskedHistory;
use crate::api::header::{BERTH_SESSION, DEADLINE_DEFAULT};
use crate::api::problem::{Kind, Problem};
use crate::api::session::Session;
use crate::api::streams::Place;
use crate::forward::Page;
use crate::nodes::Nodes;

/// Events that are read at once. A page ends sooner where they are long.
const PAGE_EVENTS: u32 = 100;
/// Pauses between reads that found nothing, or failed: twice as long each time, up to a limit.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A reader that takes nothing of what waits for it for so long is cut off. It can come back for the rest.
const STALLED_MAX: Duration = Duration::from_secs(30);

/// The events of one call, in order. At most one page is read ahead.
#[derive(Debug)]
pub(super) struct Live {
    pieces: mpsc::Receiver<Vec<WatchResponse>>,
    /// What was taken out of the last piece.
    taken: std::vec::IntoIter<WatchResponse>,
    /// Set before the last sender goes: with what the stream ends.
    last_word: Arc<Mutex<Option<Status>>>,
}

/// What follows a version.
struct Piece {
    last: Version,
    events: Vec<WatchResponse>,
    session: Option<HeaderValue>,
}

struct Follower<N> {
    api: Arc<Api<N>>,
    key: EntityKey,
    /// What to ask for next.
    page: Page,
    traceparent: Traceparent,
    pieces: mpsc::Sender<Vec<WatchResponse>>,
    last_word: Arc<Mutex<Option<Status>>>,
    place: Place,
}

/// Why a stream ended.
enum Ended {
    /// Its reader left.
    Left,
    /// Its reader took nothing for too long.
    Stalled,
    /// Its time is over.
    Late,
    /// The gateway ends.
    Over,
    /// There is nothing to follow any more.
    Refused(Problem),
}

impl<N: Nodes> Service<N> {
    /// Answers once the first page is there, so that a refusal is one; what follows is streamed.
    pub(super) async fn begin(&self, asked: WatchRequest, call: Call) -> Result<Response<Live>, Refusal> {
        let key = service::entity_key(&asked.kind, &asked.id)?;
        let session = service::session(&asked.session)?;
        let consistency = service::consistency(asked.consistency)?;
        let place = self.api.enter_stream()?;
        let page = Page { after: asked.after, limit: PAGE_EVENTS, consistency };
        let first = piece(&self.api, &key, page, &session, call.traceparent, call.time()).await?;
        let (sender, pieces) = mpsc::channel(1);
        let last_word = Arc::new(Mutex::new(None));
        let follower = Follower {
            api: self.api.clone(),
            key,
            page: Page { after: first.last, ..page },
            traceparent: call.traceparent,
            pieces: sender,
            last_word: last_word.clone(),
            place,
        };
        self.api.seams.spawner.spawn(follower.run(first.events, call.lifetime()));
        let live = Live { pieces, taken: Vec::new().into_iter(), last_word };
        let mut headers = http::HeaderMap::new();
        if let Some(session) = first.session {
            headers.insert(BERTH_SESSION, session);
        }
        Ok(Response::from_parts(MetadataMap::from_headers(headers), live, http::Extensions::default()))
    }
}

/// Reads the events that follow `page.after`, as many as a page has; none when there are none yet.
async fn piece<N: Nodes>(
    api: &Api<N>,
    key: &EntityKey,
    page: Page,
    session: &Session,
    traceparent: Traceparent,
    time: Duration,
) -> Result<Piece, Problem> {
    let text = traceparent.text();
    let asked = AskedHistory { key, page, session, time, traceparent: text.as_str() };
    let read = api.history(asked, |history| {
        let (last, events) = messages(page.after, history.events);
        Piece { last, events, session: history.session }
    });
    read.await
}

/// As many of `events` as follow `after` without a gap, and the version of the last of them. What was sent before is left out.
fn messages(after: Version, events: &[Event<'_>]) -> (Version, Vec<WatchResponse>) {
    let mut last = after;
    let mut messages = Vec::with_capacity(events.len());
    for event in events.iter().filter(|event| event.version > after) {
        if event.version != last + 1 {
            tracing::warn!(version = event.version, last, "a node left events out of a history");
            break;
        }
        last = event.version;
        messages.push(WatchResponse {
            version: event.version,
            r#type: event.event_type.to_owned(),
            time: Some(timestamp(event.time_micros)),
            data: service::json(event.data),
        });
    }
    (last, messages)
}

fn timestamp(micros: u64) -> prost_types::Timestamp {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: (micros % 1_000_000 * 1000) as i32 }
}

impl<N: Nodes> Follower<N> {
    /// Sends `first`, and what follows, for as long as `lifetime`.
    async fn run(mut self, first: Vec<WatchResponse>, lifetime: Option<Duration>) {
        let spawner = self.api.seams.spawner;
        let ended = match lifetime {
            None => self.follow(first).await,
            Some(time) => spawner.timeout(time, self.follow(first)).await.unwrap_or(Ended::Late),
        };
        let status = |problem| Refusal::from(problem).into_status(self.traceparent);
        *self.last_word.lock() = match ended {
            Ended::Left => None,
            Ended::Stalled => {
                tracing::debug!(entity = %self.key, "the reader of a live history took nothing for too long");
                Some(status(Problem::new(Code::Overloaded, "nothing was taken of this stream for too long")))
            }
            Ended::Late => Some(Status::deadline_exceeded("the time of this stream is over")),
            Ended::Over => Some(status(Problem::new(
                Code::Unavailable,
                "this gateway ends; go on after the version that arrived last",
            ))),
            Ended::Refused(problem) => Some(status(problem)),
        };
    }

    async fn follow(&mut self, first: Vec<WatchResponse>) -> Ended {
        let mut events = first;
        loop {
            if let Err(ended) = self.send(events).await {
                return ended;
            }
            match self.next().await {
                Ok(next) => {
                    self.page.after = next.last;
                    events = next.events;
                }
                Err(ended) => return ended,
            }
        }
    }

    /// Waits until the reader has begun to take what was sent, so that nothing is read ahead of it.
    async fn send(&self, events: Vec<WatchResponse>) -> Result<(), Ended> {
        if events.is_empty() {
            return Ok(());
        }
        if self.pieces.send(events).await.is_err() {
            return Err(Ended::Left);
        }
        let taken = async {
            tokio::select! {
                biased;
                () = self.place.ending().cancelled() => Err(Ended::Over),
                room = self.pieces.reserve() => room.map(drop).map_err(|_| Ended::Left),
            }
        };
        self.api.seams.spawner.timeout(STALLED_MAX, taken).await.unwrap_or(Err(Ended::Stalled))
    }

    async fn next(&self) -> Result<Piece, Ended> {
        tokio::select! {
            biased;
            () = self.place.ending().cancelled() => Err(Ended::Over),
            () = self.pieces.closed() => Err(Ended::Left),
            polled = self.poll() => polled,
        }
    }

    /// Reads until there are events, however long no owner can be found.
    async fn poll(&self) -> Result<Piece, Ended> {
        let mut pause = PAUSE_FIRST;
        loop {
            // What the client had seen was asked for with the first page.
            let session = Session::none();
            match piece(&self.api, &self.key, self.page, &session, self.traceparent, DEADLINE_DEFAULT).await {
                Ok(piece) if !piece.events.is_empty() => return Ok(piece),
                Err(problem) if self.is_final(problem.kind()) => return Err(Ended::Refused(problem)),
                Ok(_) | Err(_) => {}
            }
            self.api.seams.spawner.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether there is no use in asking again. The first page was there; a replica that does not know the entity yet is one
    /// that is behind, and an owner that does not know it any more is one of a shard that was recovered without it.
    fn is_final(&self, kind: Kind) -> bool {
        match kind {
            Kind::Shared(Code::NotFound) => {
                matches!(self.page.consistency, Consistency::Linearizable | Consistency::Strict)
            }
            Kind::Shared(Code::Overloaded | Code::Unavailable | Code::Internal | Code::UnknownOutcome) => false,
            _ => true,
        }
    }
}

impl Stream for Live {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.taken.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            match std::task::ready!(self.pieces.poll_recv(context)) {
                Some(piece) => self.taken = piece.into_iter(),
                None => return Poll::Ready(self.last_word.lock().take().map(Err)),
            }
        }
    }
}
