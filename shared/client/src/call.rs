//! One call as requests: what it sends, and the attempts until it has an answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::Client;
use crate::error::Error;
use crate::problem::Problem;
use crate::read::Consistency;
use crate::retry::{Failure, Next, Retry};
use crate::session::Carried;
use crate::time;
use crate::transport::Body;

const BERTH_SESSION: HeaderName = HeaderName::from_static("berth-session");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Longest deadline that a gateway takes.
const PREFER_SECONDS_MAX: u64 = 30;
/// What an answer may take beyond the deadline that its gateway was told.
const GRACE: Duration = Duration::from_secs(1);
/// Longest answer that is taken in.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Everything but the unreserved characters (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a call sends, to whichever address.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Percent-encoded.
    path: String,
    /// Percent-encoded, without its question mark.
    query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What a command can be sent again under.
    pub(crate) idempotency_key: Option<String>,
    pub(crate) consistency: Consistency,
    /// Shorter or longer than the client's usual one.
    pub(crate) deadline: Option<Duration>,
    /// How long the gateway waits for something to happen, on top of all deadlines.
    pub(crate) wait: Duration,
    pub(crate) wants_state: bool,
}

/// A whole answer that is no refusal.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn new(method: Method, segments: &[&str]) -> Self {
        let mut path = "/v1".to_owned();
        for segment in segments {
            path.push('/');
            path.extend(utf8_percent_encode(segment, RESERVED));
        }
        Self {
            method,
            path,
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            idempotency_key: None,
            consistency: Consistency::default(),
            deadline: None,
            wait: Duration::ZERO,
            wants_state: true,
        }
    }

    pub(crate) fn parameter(&mut self, name: &str, value: &str) {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(name);
        self.query.push('=');
        self.query.extend(utf8_percent_encode(value, RESERVED));
    }

    /// The request as it goes to `address`; `attempt` is how long its gateway has.
    fn request(
        &self,
        address: &str,
        bearer: Option<&HeaderValue>,
        carried: &Carried,
        attempt: Option<Duration>,
    ) -> Result<Request<Bytes>, Error> {
        let consistency = match self.consistency {
            // An owner knows all that this session has seen, and is asked unless something else is said.
            Consistency::Session if !carried.is_whole => Consistency::Linearizable,
            consistency => consistency,
        };
        let mut target = format!("{address}{}", self.path);
        let consistency = consistency.parameter().map(|value| format!("consistency={value}")).unwrap_or_default();
        for (parameters, is_first) in [(&self.query, true), (&consistency, self.query.is_empty())] {
            if !parameters.is_empty() {
                target.push(if is_first { '?' } else { '&' });
                target.push_str(parameters);
            }
        }
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target.parse().map_err(|_| Error::Invalid(format!("{target} is too long for a URL")))?;
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        if !self.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(bearer) = bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        if let Some(token) = &carried.token {
            headers.insert(BERTH_SESSION, token.clone());
        }
        if let Some(key) = &self.idempotency_key {
            let key =
                HeaderValue::from_str(key).map_err(|_| Error::Invalid(format!("{key:?} is no idempotency key")))?;
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        if let Some(attempt) = attempt {
            let seconds = attempt.as_millis().div_ceil(1000).clamp(1, PREFER_SECONDS_MAX.into());
            let preference = format!("wait={seconds}{}", if self.wants_state { "" } else { ", return=minimal" });
            headers.extend(HeaderValue::from_str(&preference).ok().map(|value| (PREFER, value)));
        }
        Ok(request)
    }
}

impl Client {
    /// Attempts until there is an answer, a refusal that will not change, or no time left.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, Error> {
        let shared = &*self.shared;
        let deadline = time::now() + call.deadline.unwrap_or(shared.deadline) + call.wait;
        let mut retry = Retry::new(shared.attempts_max, shared.addresses.len());
        loop {
            let (number, address) = shared.addresses.current();
            let remaining = deadline.saturating_duration_since(time::now());
            let failure = match self.attempt(call, address, remaining).await? {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let remaining = deadline.saturating_duration_since(time::now());
            let pause = match retry.judge(&failure, remaining, time::random()) {
                Next::Elsewhere(pause) => {
                    shared.addresses.avoid(number);
                    pause
                }
                Next::Here(pause) => pause,
                Next::GiveUp => return Err(retry.give_up(failure, call.idempotency_key.as_deref())),
            };
            if !pause.is_zero() {
                time::sleep(pause).await;
            }
        }
    }

    /// One attempt at `address`. The outer error is one of the caller's, for which nothing is sent.
    async fn attempt(&self, call: &Call, address: &str, remaining: Duration) -> Result<Result<Answer, Failure>, Error> {
        let attempt = self.shared.attempt.min(remaining);
        // A gateway that is told to wait for an event gives itself the usual time for the rest.
        let told = call.wait.is_zero().then_some(attempt);
        let patience = (attempt + GRACE + call.wait).min(remaining);
        let carried = self.session.carry();
        let request = call.request(address, self.shared.bearer.as_ref(), &carried, told)?;
        let exchange = async {
            let (parts, body) = self.shared.transport.send(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Failure::Lost(format!("the answer broke off: {error}")))?.to_bytes();
            self.session.answered(&carried, parts.headers.get(BERTH_SESSION));
            finish(parts.status, parts.headers, body)
        };
        let answered = time::timeout(patience, exchange).await;
        Ok(answered.unwrap_or_else(|| Err(Failure::Lost("no answer in time".to_owned()))))
    }

    /// Begins a stream at the address in use: its answer before its body.
    pub(crate) async fn open(&self, call: &Call) -> Result<Result<Response<Body>, Failure>, Error> {
        let (number, address) = self.shared.addresses.current();
        let carried = self.session.carry();
        let request = call.request(address, self.shared.bearer.as_ref(), &carried, None)?;
        let opening = async {
            let response = self.shared.transport.send(request).await?;
            self.session.answered(&carried, response.headers().get(BERTH_SESSION));
            if response.status() == StatusCode::OK {
                return Ok(response);
            }
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Failure::Lost(format!("the answer broke off: {error}")))?.to_bytes();
            Err(refused(parts.status, &parts.headers, &body))
        };
        let opened = time::timeout(self.shared.attempt + GRACE, opening).await;
        let opened = opened.unwrap_or_else(|| Err(Failure::Lost("no answer in time".to_owned())));
        if opened.is_err() {
            self.shared.addresses.avoid(number);
        }
        Ok(opened)
    }
}

fn finish(status: StatusCode, headers: HeaderMap, body: Bytes) -> Result<Answer, Failure> {
    if status.is_success() { Ok(Answer { headers, body }) } else { Err(refused(status, &headers, &body)) }
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    Failure::Refused(Box::new(Problem::read(status, headers, body)))
}
