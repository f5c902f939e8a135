//! Live history: an entity's events as an event stream, from the version that the reader has, for as long as it reads. Behind
//! it are long polls, each of which finds whoever can answer just then; so it lives through failovers and hand-offs, and no
//! node knows of it between two polls.

mod follow;
mod format;
pub(crate) mod polls;

use std::time::Duration;

use berth_shared::key::EntityKey;
use bytes::{Bytes, BytesMut};
use http::header::{self as names, HeaderValue};
use http::request::Parts;
use http::{HeaderName, Method, Response};

use self::follow::Follower;
use self::format::Format;
use self::polls::Polls;
use super::answer;
use super::asked::AskedHistory;
use super::header::{self, Preferences};
use super::outgoing::Body;
use super::problem::Problem;
use super::replica::Lag;
use super::session::Session;
use super::{Api, query, refuse_conditions};
use crate::forward::Page;
use crate::nodes::Nodes;
use berth_shared::http_port::Connection;

/// Bytes of events that are fetched at once; one event is always fetched whole. Twice as much waits for a slow reader, at most.
pub(crate) const PIECE_BYTES_MAX: u32 = 64 * 1024;
/// A reader that takes nothing of what waits for it for so long is cut off. It can come back for the rest.
pub(crate) const STALLED_MAX: Duration = Duration::from_secs(30);
/// Where credentials are asked for, a live history lasts so long; who comes back is asked again, because a credential may have
/// ended meanwhile.
pub(crate) const LIFE_MAX: Duration = Duration::from_secs(300);
/// A reader whose stream has ended comes back after this, and up to so much more, so that all of them do not come together.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_SPREAD: Duration = Duration::from_millis(2000);
/// nginx does not gather what it passes on then.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What the first page came to.
struct First {
    messages: Bytes,
    session: Option<HeaderValue>,
    lag: Option<Lag>,
    /// What to ask for next.
    onwards: Page,
}

impl<N: Nodes> Api<N> {
    /// Answers once the first page is there, so that a refusal is one; what follows is streamed.
    pub(super) async fn live(
        &self,
        key: &EntityKey,
        parts: &Parts,
        traceparent: &str,
    ) -> Result<Response<Body>, Problem> {
        let page = query::page(parts.uri.query())?;
        refuse_conditions(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        let session = Session::parse(&parts.headers)?;
        let after = header::last_event_id(&parts.headers)?.unwrap_or(page.after);
        let place = self.enter_stream()?;
        let page = Page { after, bytes_max: PIECE_BYTES_MAX, wait: Duration::ZERO, is_live: true, ..page };
        let format = Format::new(key);
        let first = self.first(key, page, &session, &format, traceparent, preferences.deadline).await?;
        let retry = format::retry(self.retry_after());
        let begin = [format::PING, &retry[..], &first.messages[..]].concat();
        let (sender, body) = Body::live();
        if parts.method != Method::HEAD {
            let follower = Follower {
                polls: Polls {
                    forward: self.forward.clone(),
                    seams: self.seams.clone(),
                    key: key.clone(),
                    page: first.onwards,
                    traceparent: traceparent.to_owned(),
                },
                format,
                farewell: retry,
                sender,
                place,
                life: self.life(),
                connection: parts
                    .extensions
                    .get::<Connection>()
                    .filter(|_| parts.version < http::Version::HTTP_2)
                    .cloned(),
                seams: self.seams.clone(),
                metrics: self.metrics.clone(),
            };
            self.seams.spawner.spawn(follower.run(BytesMut::from(&begin[..]).freeze()));
        }
        Ok(response(body, first.session, first.lag))
    }

    /// It takes no place of other requests: readers of one entity come together, as when a gateway begins anew, and an event
    /// stream of a browser that is refused does not come again. The places of live histories bound it.
    async fn first(
        &self,
        key: &EntityKey,
        page: Page,
        session: &Session,
        format: &Format,
        traceparent: &str,
        time: Duration,
    ) -> Result<First, Problem> {
        let asked = AskedHistory { key, page, session, time, traceparent };
        let read = self.history(asked, |history| {
            let (last, messages) = format.messages(page.after, history.events).unwrap_or((page.after, Bytes::new()));
            let onwards = Page { after: last, ..history.onwards };
            First { messages, session: history.session, lag: history.lag, onwards }
        });
        read.await
    }

    /// How long a live history may last.
    pub(crate) fn life(&self) -> Option<Duration> {
        (!self.guard.is_off()).then_some(LIFE_MAX)
    }

    fn retry_after(&self) -> Duration {
        let spread = RETRY_SPREAD.as_millis() as u64;
        RETRY_MIN + Duration::from_millis(self.seams.random.next_u64() % (spread + 1))
    }
}

fn response(body: Body, session: Option<HeaderValue>, lag: Option<Lag>) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(names::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(names::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    if let Some(session) = session {
        headers.insert(header::BERTH_SESSION, session);
    }
    answer::with_lag(response, lag)
}
