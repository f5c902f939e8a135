//! Live history: an entity's events as an event stream, from the version that the reader has, for as long as it reads. Behind
//! it are long polls, each of which finds whoever can answer just then; so it lives through failovers and hand-offs, and no
//! node knows of it between two polls.

mod follow;
mod format;

use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::Response as Reply;
use berth_shared::problem::Code;
use bytes::{Bytes, BytesMut};
use http::header::{self as names, HeaderValue};
use http::request::Parts;
use http::{HeaderName, Method, Response};

use self::follow::Follower;
use self::format::Format;
use super::header::{self, Preferences};
use super::outgoing::Body;
use super::problem::Problem;
use super::replica;
use super::session::Session;
use super::{Api, query, refuse_conditions, unread};
use crate::forward::Page;
use crate::nodes::Nodes;
use berth_shared::http_port::Connection;

/// Bytes of events that are fetched at once; one event is always fetched whole. Twice as much waits for a slow reader, at most.
const PIECE_BYTES_MAX: u32 = 64 * 1024;
/// A reader whose stream has ended comes back after this, and up to so much more, so that all of them do not come together.
/// Where credentials are asked for, a live history lasts so long; who comes back is asked again, because a credential may have
/// ended meanwhile.
const LIFE_MAX: Duration = Duration::from_secs(300);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_SPREAD: Duration = Duration::from_millis(2000);
/// nginx does not gather what it passes on then.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What the first page came to.
struct First {
    last: Version,
    messages: Bytes,
    session: Option<HeaderValue>,
    lag: Option<HeaderValue>,
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
        let page = Page {
            after,
            consistency: self.consistency(key, page.consistency, &session),
            bytes_max: PIECE_BYTES_MAX,
            wait: Duration::ZERO,
            is_live: true,
            ..page
        };
        let format = Format::new(key);
        let first = self.first(key, page, &session, &format, traceparent, preferences.deadline).await?;
        let retry = format::retry(self.retry_after());
        let begin = [format::PING, &retry[..], &first.messages[..]].concat();
        let (sender, body) = Body::live();
        if parts.method != Method::HEAD {
            let follower = Follower {
                forward: self.forward.clone(),
                key: key.clone(),
                page: Page { after: first.last, ..page.onwards() },
                format,
                traceparent: traceparent.to_owned(),
                farewell: retry,
                sender,
                place,
                life: (!self.guard.is_off()).then_some(LIFE_MAX),
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
        let read = self.forward.events(key, page, traceparent, time, |shard, reply| {
            let (reply, lag) = replica::unwrapped(reply);
            let read = match reply {
                Reply::Events { events, seen, .. } => {
                    let (last, messages) = format.messages(page.after, &events).unwrap_or((page.after, Bytes::new()));
                    Ok((last, messages, session.after(self.forward.nodes().cluster(), shard, seen)))
                }
                reply => Err(unread(self.forward.nodes().cluster(), session, shard, &reply)),
            };
            match read {
                Ok((last, messages, session)) => Ok(First { last, messages, session, lag }),
                Err(problem) => Err(problem.with_lag(lag)),
            }
        });
        read.await.unwrap_or_else(|code| Err(Problem::given_up(code)))
    }

    /// A place among the requests that wait for what is yet to happen.
    pub(super) fn enter_stream(&self) -> Result<super::streams::Place, Problem> {
        let overloaded = "this gateway has as many long polls and live histories as it may";
        self.streams.enter().ok_or_else(|| Problem::new(Code::Overloaded, overloaded))
    }

    fn retry_after(&self) -> Duration {
        let spread = RETRY_SPREAD.as_millis() as u64;
        RETRY_MIN + Duration::from_millis(self.seams.random.next_u64() % (spread + 1))
    }
}

fn response(body: Body, session: Option<HeaderValue>, lag: Option<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(names::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(names::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    for (name, value) in [(header::BERTH_SESSION, session), (header::BERTH_LAG, lag)] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    response
}
