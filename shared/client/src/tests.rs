//! The client against a script in the place of gateways, in paused time.

mod commands;
mod reads;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::retry::Failure;
use crate::transport::{Body, Sent, Transport};
use crate::{Builder, Client, time};

/// What happens to a request.
enum Reaction {
    Answer(Response<Bytes>),
    /// A body in pieces; whether it stays open after them.
    Stream(Vec<&'static str>, bool),
    /// No connection.
    Unreached,
    /// The connection breaks before the answer.
    Lost,
    /// After this time, with this session token.
    Late(Duration, &'static str),
    /// Nothing ever.
    Silence,
}

use Reaction::{Answer, Late, Lost, Silence, Stream, Unreached};

/// Decides by the number of the request, from 1.
type Rule = Box<dyn Fn(usize, &Request<Bytes>) -> Reaction + Send + Sync>;

struct Script {
    rule: Rule,
    asked: Mutex<Vec<(Request<Bytes>, Instant)>>,
}

/// Handed to the client.
#[derive(Clone)]
struct Scripted(Arc<Script>);

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Transport for Scripted {
    fn send(&self, request: Request<Bytes>) -> Sent {
        let number = {
            let mut asked = self.0.asked.lock();
            asked.push((request.clone(), time::now()));
            asked.len()
        };
        let reaction = (self.0.rule)(number, &request);
        Box::pin(async move {
            match reaction {
                Answer(response) => Ok(response.map(|body| boxed(Full::new(body)))),
                Stream(pieces, stays_open) => {
                    let pieces = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
                    let pieces = stream::iter(pieces);
                    let body = match stays_open {
                        true => StreamBody::new(futures_util::StreamExt::chain(pieces, stream::pending())).boxed(),
                        false => StreamBody::new(pieces).boxed(),
                    };
                    Ok(Response::builder().header("content-type", "text/event-stream").body(body).unwrap())
                }
                Unreached => Err(Failure::Unreached("connection refused".to_owned())),
                Lost => Err(Failure::Lost("connection reset".to_owned())),
                Late(time, token) => {
                    time::sleep(time).await;
                    let body = boxed(Full::new(Bytes::from_static(DONE.as_bytes())));
                    Ok(Response::builder().header("berth-session", token).body(body).unwrap())
                }
                Silence => std::future::pending().await,
            }
        })
    }
}

fn boxed(body: Full<Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed()
}

impl Scripted {
    fn new(rule: impl Fn(usize, &Request<Bytes>) -> Reaction + Send + Sync + 'static) -> Self {
        Self(Arc::new(Script { rule: Box::new(rule), asked: Mutex::default() }))
    }

    fn client(&self) -> Client {
        self.build(Client::builder("http://a:1"))
    }

    fn build(&self, builder: Builder) -> Client {
        builder.build_with(Box::new(self.clone())).unwrap()
    }

    /// How often something was asked.
    fn count(&self) -> usize {
        self.0.asked.lock().len()
    }

    /// The n-th request, from 1.
    fn request(&self, n: usize) -> Request<Bytes> {
        self.0.asked.lock()[n - 1].0.clone()
    }

    /// Method and target of the n-th request.
    fn target(&self, n: usize) -> String {
        let request = self.request(n);
        format!("{} {}", request.method(), request.uri())
    }

    /// A header of the n-th request, empty when there is none.
    fn header(&self, n: usize, name: &str) -> String {
        self.request(n).headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    /// The time between two requests.
    fn between(&self, first: usize, second: usize) -> Duration {
        let asked = self.0.asked.lock();
        asked[second - 1].1 - asked[first - 1].1
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> Reaction {
    let response = headers
        .iter()
        .fold(Response::builder().status(status), |response, (name, value)| response.header(*name, *value));
    Answer(response.body(Bytes::from_static(body.as_bytes())).unwrap())
}

fn problem(status: u16, body: &'static str) -> Reaction {
    answer(status, &[("content-type", "application/problem+json"), ("retry-after", "1")], body)
}

const DONE: &str = r#"{"kind":"counter","id":"x","version":3,"reply":{"was":1},"state":{"value":2}}"#;

fn done() -> Reaction {
    answer(200, &[("etag", "\"3\"")], DONE)
}

fn unavailable() -> Reaction {
    problem(503, r#"{"code":"unavailable"}"#)
}
