//! A live history: one event stream after another, each going on behind the last event that was delivered.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::answer::Event;
use crate::call::Call;
use crate::client::Client;
use crate::error::Error;
use crate::read::Consistency;
use crate::retry::{self, Failure};
use crate::sse::{Message, Parser};
use crate::time;
use crate::transport::Body;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A stream on which nothing comes for so long, not even the ping that is due every 15 s, is lost.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Longest time that a server can make a reader wait before it comes back.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Follows an entity's history as it is written: every event once and in order, whatever ends the stream in between. What is
/// not read yet waits at the gateway, which ends the stream of a reader that is too slow; the next one goes on from there.
///
/// ```no_run
/// # async fn run(client: berth_client::Client) -> Result<(), berth_client::Error> {
/// let mut visits = client.entity("counter", "visits").watch(0);
/// loop {
///     let event = visits.next().await?;
///     println!("{} {} {}", event.version, event.event_type, event.data);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    client: Client,
    call: Call,
    /// The version of the event that was received last.
    last: u64,
    stream: Option<Open>,
    /// Received and not yet delivered: at most what came in one piece.
    received: VecDeque<Event>,
    /// Streams in a row that brought nothing.
    failures: u32,
    /// Since when.
    failing_since: Option<Instant>,
    /// Not before this a new stream is begun.
    not_before: Option<Instant>,
    /// A stream brought what is not to be understood, and no event came since.
    is_doubted: bool,
}

#[derive(Debug)]
struct Open {
    body: Body,
    parser: Parser,
}

/// What is read of a CloudEvent (CloudEvents 1.0, JSON format).
#[derive(Deserialize)]
struct CloudEvent {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    data: Value,
}

impl Watch {
    pub(crate) fn new(client: Client, mut call: Call, after: u64) -> Self {
        call.parameter("after", &after.to_string());
        call.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        Self {
            client,
            call,
            last: after,
            stream: None,
            received: VecDeque::new(),
            failures: 0,
            failing_since: None,
            not_before: None,
            is_doubted: false,
        }
    }

    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.call.consistency = consistency;
        self
    }

    /// The next event, once there is one. A history has no end, so neither has this. It may be dropped while it waits, and
    /// called again, without losing an event.
    ///
    /// An error means that the cluster refused, or that for the client's deadline no stream could be begun; a later call
    /// tries again.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.received.pop_front() {
                return Ok(event);
            }
            let failure = match &mut self.stream {
                Some(open) => match read(open).await {
                    Ok(piece) => self.receive(&piece).err().map(|what| self.doubt(what)).transpose()?,
                    Err(failure) => Some(failure),
                },
                None => self.begin().await?.err(),
            };
            if let Some(failure) = failure {
                self.judge(failure)?;
            }
        }
    }

    /// The events as a [`Stream`], which goes on after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, Error>> + Send {
        futures_util::stream::unfold(self, |mut watch| async move { Some((watch.next().await, watch)) })
    }

    async fn begin(&mut self) -> Result<Result<(), Failure>, Error> {
        if let Some(not_before) = self.not_before {
            time::sleep(not_before.saturating_duration_since(time::now())).await;
        }
        self.failing_since.get_or_insert_with(time::now);
        // As browsers do: the address stays, and the header says where to go on.
        if self.last > 0 {
            self.call.headers.insert(LAST_EVENT_ID, HeaderValue::from(self.last));
        }
        let response = match self.client.open(&self.call).await? {
            Ok(response) => response,
            Err(failure) => return Ok(Err(failure)),
        };
        let content_type = response.headers().get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        if !content_type.starts_with(b"text/event-stream") {
            return Err(Error::Unexpected("the answer is not an event stream".to_owned()));
        }
        self.stream = Some(Open { body: response.into_body(), parser: Parser::default() });
        Ok(Ok(()))
    }

    /// Keeps the events that come next, and leaves out those that were received before. The error says what is wrong.
    fn receive(&mut self, piece: &[u8]) -> Result<(), String> {
        // Anything that came shows that somebody is there.
        self.failing_since = None;
        let Some(open) = &mut self.stream else { return Ok(()) };
        let mut messages = Vec::new();
        let parsed = open.parser.push(piece, |message| messages.push(message));
        for message in messages {
            let event = event(&message)?;
            if event.version > self.last + 1 {
                return Err(format!("event {} came after event {}", event.version, self.last));
            }
            if event.version == self.last + 1 {
                self.last = event.version;
                self.failures = 0;
                self.is_doubted = false;
                self.received.push_back(event);
            }
        }
        parsed.map_err(|error| error.to_string())
    }

    /// What a stream brought makes no sense: one more is begun, and if that does no better, the caller is told.
    fn doubt(&mut self, what: String) -> Result<Failure, Error> {
        if std::mem::replace(&mut self.is_doubted, true) {
            self.stream = None;
            return Err(Error::Unexpected(what));
        }
        Ok(Failure::Lost(what))
    }

    /// The stream has ended, or did not begin: whether and when there is another one.
    fn judge(&mut self, failure: Failure) -> Result<(), Error> {
        let retry = self.stream.take().and_then(|open| open.parser.retry_millis).map(Duration::from_millis);
        let since = *self.failing_since.get_or_insert_with(time::now);
        self.failures = self.failures.saturating_add(1);
        let (told, is_over) = match &failure {
            Failure::Refused(problem) => (problem.retry_after, !problem.is_retryable()),
            _ => (retry, false),
        };
        let pause = told.unwrap_or_default().min(RETRY_MAX) + retry::pause(self.failures, time::random());
        self.not_before = Some(time::now() + pause);
        if is_over || time::now() + pause >= since + self.client.shared.deadline {
            self.failing_since = None;
            return Err(match failure {
                Failure::Refused(problem) => Error::Refused(problem),
                Failure::Unreached(last) | Failure::Lost(last) => Error::Unavailable { last },
            });
        }
        Ok(())
    }
}

/// The next piece of the stream.
async fn read(open: &mut Open) -> Result<Bytes, Failure> {
    match time::timeout(SILENCE_MAX, open.body.frame()).await {
        Some(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
        Some(Some(Err(error))) => Err(Failure::Lost(format!("the event stream broke off: {error}"))),
        Some(None) => Err(Failure::Lost("the event stream ended".to_owned())),
        None => Err(Failure::Lost("the event stream fell silent".to_owned())),
    }
}

fn event(message: &Message) -> Result<Event, String> {
    let version = message.id.parse().map_err(|_| format!("{:?} is no version", message.id))?;
    let CloudEvent { event_type, time, data } =
        serde_json::from_str(&message.data).map_err(|error| format!("event {version} is no CloudEvent: {error}"))?;
    Ok(Event { version, event_type, time, data })
}
