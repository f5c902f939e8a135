//! Live history as a stream of messages. What follows the first page is asked for as REST's live histories ask (`api::live::polls`):
//! so it lives through failovers and hand-offs, without gaps and doubles, and no node knows of it between two polls.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_shared::auth::Role;
use berth_shared::ids::Version;
use berth_shared::message::Event;
use berth_shared::problem::Code;
use berth_shared::telemetry::Traceparent;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue};
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
use crate::api::header::{BERTH_LAG, BERTH_SESSION};
use crate::api::live::polls::{Polls, following};
use crate::api::live::{PIECE_BYTES_MAX, STALLED_MAX};
use crate::api::problem::Problem;
use crate::api::replica::Lag;
use crate::api::streams::Place;
use crate::forward::Page;
use crate::nodes::Nodes;

/// Events that are read at once. A page ends sooner where they are long.
const PAGE_EVENTS: u32 = 100;

/// The events of one call, in order. At most one page is read ahead.
#[derive(Debug)]
pub(super) struct Live {
    pieces: mpsc::Receiver<Vec<WatchResponse>>,
    /// What was taken out of the last piece.
    taken: std::vec::IntoIter<WatchResponse>,
    /// Set before the last sender goes: with what the stream ends.
    last_word: Arc<Mutex<Option<Status>>>,
}

/// What the first page came to.
struct First {
    events: Vec<WatchResponse>,
    session: Option<HeaderValue>,
    lag: Option<Lag>,
    /// What to ask for next.
    onwards: Page,
}

struct Follower<N> {
    api: Arc<Api<N>>,
    polls: Polls<N>,
    traceparent: Traceparent,
    pieces: mpsc::Sender<Vec<WatchResponse>>,
    last_word: Arc<Mutex<Option<Status>>>,
    place: Place,
}

/// Why a stream ended.
#[derive(Debug)]
enum Ended {
    /// Its reader left.
    Left,
    /// Its reader took nothing for too long.
    Stalled,
    /// The time that its caller gave it is over.
    Late,
    /// It lasted as long as one may before its caller must show a credential again.
    Old,
    /// The gateway ends.
    Over,
    /// There is nothing to follow any more.
    Refused(Problem),
}

impl<N: Nodes> Service<N> {
    /// Answers once the first page is there, so that a refusal is one; what follows is streamed.
    pub(super) async fn begin(&self, asked: WatchRequest, call: &Call) -> Result<Response<Live>, Refusal> {
        let key = self.entity(&asked.kind, &asked.id, call, Role::Read)?;
        let session = service::session(&asked.session)?;
        let consistency = service::consistency(asked.consistency)?;
        let place = self.api.enter_stream()?;
        let page = Page {
            after: asked.after,
            limit: PAGE_EVENTS,
            bytes_max: PIECE_BYTES_MAX,
            consistency,
            wait: Duration::ZERO,
            is_live: true,
        };
        let history =
            AskedHistory { key: &key, page, session: &session, time: self.left(call), traceparent: &call.passed_on };
        let first = self.api.history(history, |history| {
            let (last, events) = messages(page.after, history.events).unwrap_or((page.after, Vec::new()));
            let onwards = Page { after: last, ..history.onwards };
            First { events, session: history.session, lag: history.lag, onwards }
        });
        let first = first.await?;
        let (sender, pieces) = mpsc::channel(1);
        let last_word = Arc::new(Mutex::new(None));
        let polls = Polls {
            forward: self.api.forward.clone(),
            seams: self.api.seams.clone(),
            key,
            page: first.onwards,
            traceparent: call.passed_on.to_string(),
        };
        let follower = Follower {
            api: self.api.clone(),
            polls,
            traceparent: call.traceparent,
            pieces: sender,
            last_word: last_word.clone(),
            place,
        };
        let limit = limit(self.api.life(), call.lifetime_left(self.api.seams.clock.now()));
        self.api.seams.spawner.spawn(follower.run(first.events, limit));
        let live = Live { pieces, taken: Vec::new().into_iter(), last_word };
        let mut headers = HeaderMap::new();
        for (name, value) in [(BERTH_SESSION, first.session), (BERTH_LAG, first.lag.map(Lag::header_value))] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        Ok(Response::from_parts(MetadataMap::from_headers(headers), live, http::Extensions::default()))
    }
}

/// How long a stream may last of which the gateway gives `life` and the caller `timeout`, and why it ends then.
fn limit(life: Option<Duration>, timeout: Option<Duration>) -> Option<(Duration, Ended)> {
    let limits = [timeout.map(|time| (time, Ended::Late)), life.map(|time| (time, Ended::Old))];
    limits.into_iter().flatten().min_by_key(|(time, _)| *time)
}

/// The messages of those of `events` that follow `after`, and the version of the last of them. `None` where there is none.
fn messages(after: Version, events: &[Event<'_>]) -> Option<(Version, Vec<WatchResponse>)> {
    let message = |event: &Event<'_>| WatchResponse {
        version: event.version,
        r#type: event.event_type.to_owned(),
        time: Some(timestamp(event.time_micros)),
        data: service::json(event.data),
    };
    let messages: Vec<WatchResponse> = following(after, events).map(message).collect();
    Some((messages.last()?.version, messages))
}

fn timestamp(micros: u64) -> prost_types::Timestamp {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: (micros % 1_000_000 * 1000) as i32 }
}

impl<N: Nodes> Follower<N> {
    /// Sends `first`, and what follows, up to the `limit`.
    async fn run(mut self, first: Vec<WatchResponse>, limit: Option<(Duration, Ended)>) {
        let spawner = self.api.seams.spawner;
        let ended = match limit {
            None => self.follow(first).await,
            Some((time, ended)) => spawner.timeout(time, self.follow(first)).await.unwrap_or(ended),
        };
        let status = |problem| Some(Refusal::from(problem).into_status(self.traceparent));
        let unavailable = |detail: &'static str| status(Problem::new(Code::Unavailable, detail));
        *self.last_word.lock() = match ended {
            Ended::Left => None,
            Ended::Stalled => {
                tracing::debug!(entity = %self.polls.key, "the reader of a live history took nothing for too long");
                self.api.metrics.streams_cut.increment();
                status(Problem::new(Code::Overloaded, "nothing was taken of this stream for too long"))
            }
            Ended::Late => Some(Status::deadline_exceeded("the time of this stream is over")),
            Ended::Old => {
                unavailable("this stream lasted as long as one may; go on after the version that arrived last")
            }
            Ended::Over => unavailable("this gateway ends; go on after the version that arrived last"),
            Ended::Refused(problem) => status(problem),
        };
    }

    async fn follow(&mut self, first: Vec<WatchResponse>) -> Ended {
        let mut events = first;
        loop {
            if let Err(ended) = self.send(events).await {
                return ended;
            }
            match self.next().await {
                Ok((last, next)) => {
                    self.polls.page.after = last;
                    events = next;
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

    async fn next(&self) -> Result<(Version, Vec<WatchResponse>), Ended> {
        tokio::select! {
            biased;
            () = self.place.ending().cancelled() => Err(Ended::Over),
            () = self.pieces.closed() => Err(Ended::Left),
            polled = self.polls.next(messages) => polled.map_err(Ended::Refused),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_limit_counts_and_says_why_the_stream_ends() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let limit = |life, timeout| limit(life, timeout).map(|(time, ended)| (time.as_secs(), format!("{ended:?}")));
        assert_eq!(limit(None, None), None);
        assert_eq!(limit(None, seconds(7)), Some((7, "Late".to_owned())));
        assert_eq!(limit(seconds(300), None), Some((300, "Old".to_owned())));
        assert_eq!(limit(seconds(300), seconds(7)), Some((7, "Late".to_owned())));
        assert_eq!(limit(seconds(300), seconds(301)), Some((300, "Old".to_owned())));
    }
}
