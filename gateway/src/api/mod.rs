//! The public port: reads a request's path and headers, has it carried to the owner, and puts the answer together.
//! Routing of these few paths is written by hand on the raw path, because ids may contain encoded slashes.

mod answer;
pub(crate) mod asked;
pub(crate) mod body;
pub(crate) mod condition;
mod cursor;
mod docs;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub(crate) mod guard;
pub(crate) mod header;
mod listing;
pub(crate) mod live;
pub(crate) mod openapi;
pub(crate) mod origin;
mod outgoing;
pub(crate) mod past;
pub(crate) mod path;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod replica;
pub(crate) mod session;
pub(crate) mod streams;

use std::sync::Arc;
use std::time::Duration;

use berth_shared::auth::{Guard, Principal};
use berth_shared::key::EntityKey;
use berth_shared::message::Response as Reply;
use berth_shared::problem::Code;
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::telemetry::{Role, TraceContext, Tracing};
use bytes::Bytes;
use http::header::{self as names, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use serde_json::value::RawValue;
use tracing::Instrument;

pub(crate) use self::outgoing::Body;

use self::asked::{AskedCommand, AskedHistory, AskedState};
use self::body::BODY_BYTES_MAX;
use self::header::{IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, PREFERENCE_APPLIED, Preferences};
use self::openapi::OpenApi;
use self::origin::Origins;
use self::path::{EVENTS, Resource};
use self::problem::Problem;
use self::session::Session;
use self::streams::Streams;
use crate::admission::rate::{Quota, Rates};
use crate::admission::{Access, Admission};
use crate::forward::{Action, Forward, Page};
use crate::metrics::{Metrics, Route};
use crate::nodes::Nodes;

/// Answers the requests of the public port. Cheap to share; it holds no state of any client.
#[derive(Debug)]
pub(crate) struct Api<N> {
    pub(crate) forward: Arc<Forward<N>>,
    pub(crate) admission: Admission,
    /// How many requests each caller may make, where that is bounded.
    pub(crate) rates: Option<Rates>,
    pub(crate) guard: Guard,
    /// Pages of which others may change something.
    pub(crate) origins: Origins,
    /// Of requests that wait for what is yet to happen.
    pub(crate) streams: Streams,
    /// How long a body may take to arrive.
    pub(crate) body_timeout: Duration,
    pub(crate) seams: Seams,
    pub(crate) tracing: Tracing,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) openapi: OpenApi,
}

/// Why node and gateway do not fit; the forwarder has let only fitting answers through.
const UNFITTING: &str = "a node gave an answer that does not fit the question";

impl<N: Nodes> Api<N> {
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        let started = self.seams.clock.now();
        let (parts, mut body) = request.into_parts();
        let resource = Resource::parse(parts.uri.path());
        let route = resource.as_ref().map_or(Route::Other, |resource| route(&parts.method, resource));
        let state = header::tracestate(&parts.headers);
        let received = header::trace_context(&parts.headers, &state);
        let trace = self.tracing.request(route.span(), Role::Server, received, &*self.seams.random);
        let traceparent = trace.traceparent.text();
        let passed_on = TraceContext::text_with(&traceparent, received.map_or("", |received| received.state));
        let mut quota = None;
        let served = async {
            let (principal, spent) = self.let_in(&parts, resource.as_ref().ok(), started);
            quota = spent;
            let principal = principal?;
            self.serve(resource?, &parts, &mut body, &principal, &passed_on).await
        };
        let mut response = match served.instrument(trace.span).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(parts.uri.path(), trace.traceparent.trace_id()),
        };
        if let (Some(rates), Some(quota)) = (&self.rates, quota) {
            rates.show(quota, response.headers_mut());
        }
        if parts.method == Method::HEAD {
            strip_body(&mut response);
        }
        let duration = self.seams.clock.now().since(started);
        self.metrics.count_request(route, response.status(), duration);
        // Who waits to be told to go on has sent nothing yet, and reading would tell it so.
        if !body.is_end_stream() && !parts.headers.contains_key(http::header::EXPECT) {
            self.seams.spawner.timeout(self.body_timeout, body::discard(&mut body)).await;
        }
        response
    }

    /// Who may go on with this request, and what is left of their quota after it. OPTIONS is free: proxies ask for it to see whether a gateway is there, whatever others have spent.
    fn let_in(
        &self,
        parts: &Parts,
        resource: Option<&Resource<'_>>,
        now: BootInstant,
    ) -> (Result<Principal, Problem>, Option<Quota>) {
        let asked = header::check_size(&parts.uri, &parts.headers)
            .and_then(|()| guard::check_host(parts))
            .and_then(|()| if self.origins.refuse(parts) { Err(Problem::cross_origin()) } else { Ok(()) })
            .and_then(|()| guard::authenticate_request(&self.guard, parts, resource));
        let (asked, quota) = if parts.method == Method::OPTIONS { (asked, None) } else { self.spend(asked, now) };
        let let_in = asked.and_then(|principal| {
            guard::authorize_request(&self.guard, &principal, parts, resource)?;
            Ok(principal)
        });
        (let_in, quota)
    }

    async fn serve<B>(
        &self,
        resource: Resource<'_>,
        parts: &Parts,
        body: &mut B,
        principal: &Principal,
        traceparent: &str,
    ) -> Result<Response<Body>, Problem>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        let method = &parts.method;
        if method == Method::OPTIONS {
            return Ok(options(&resource));
        }
        let reads = method == Method::GET || method == Method::HEAD;
        match resource {
            Resource::Command(key, command) if reads && command == EVENTS => {
                self.events(&key, parts, traceparent).await
            }
            Resource::Command(key, command) if method == Method::POST && command != EVENTS => {
                self.command(&key, Action::Run(&command), parts, body, principal, traceparent).await
            }
            Resource::Entity(key) if method == Method::DELETE => {
                self.command(&key, Action::Delete, parts, body, principal, traceparent).await
            }
            Resource::Entity(key) if reads && past::is_asked_for(parts.uri.query()) => {
                self.past(&key, parts, traceparent).await
            }
            Resource::Listing(kind) if reads => self.listing(&kind, parts, traceparent).await,
            Resource::Entity(key) if reads => self.state(&key, parts, traceparent).await,
            Resource::Kinds if reads => self.kinds(None, parts).await,
            Resource::Kind(kind) if reads => self.kinds(Some(&kind), parts).await,
            Resource::OpenApi if reads => self.openapi(parts).await,
            Resource::Docs(file) if reads => {
                query::none(parts.uri.query())?;
                Ok(uncached(file.answer()))
            }
            resource => Err(not_allowed(&resource)),
        }
    }

    async fn command<B>(
        &self,
        key: &EntityKey,
        action: Action<'_>,
        parts: &Parts,
        body: &mut B,
        principal: &Principal,
        traceparent: &str,
    ) -> Result<Response<Body>, Problem>
    where
        B: hyper::body::Body<Data = Bytes> + Unpin,
    {
        let began = self.seams.clock.now();
        query::none(parts.uri.query())?;
        header::check_accept(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        let precondition = condition::precondition(&parts.headers)?;
        let session = Session::parse(&parts.headers)?;
        let clients_key = header::idempotency_key(&parts.headers)?;
        if !body.is_end_stream() {
            header::check_content(&parts.headers)?;
        }
        // Before the body is read, so that bodies in memory are bounded too.
        let _permit = self.admit()?;
        let time = self.body_timeout.min(preferences.deadline);
        let body = self.seams.spawner.timeout(time, body::collect(body, BODY_BYTES_MAX)).await;
        let body = asked::arguments(action, body.ok_or_else(Problem::request_timeout)??)?;
        let _place = self.admit_entity(key, Access::Command)?;
        let asked = AskedCommand {
            key,
            action,
            principal,
            body: &body,
            precondition,
            session: &session,
            idempotency_key: clients_key,
            wants_state: !preferences.minimal && matches!(action, Action::Run(_)),
            // The client's patience does not begin anew when its body has arrived.
            time: preferences.deadline.saturating_sub(self.seams.clock.now().since(began)),
            traceparent,
        };
        let ran = self.execute(asked, |executed, session| {
            let mut response = match action {
                Action::Run(_) => answer::entity(key, executed.version, Some(executed.reply), executed.state, session),
                Action::Delete => answer::without_body(StatusCode::NO_CONTENT, executed.version, session),
            };
            if executed.replayed {
                response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
            }
            response
        });
        let ran = ran.await?;
        let mut response = ran.answer;
        if preferences.minimal {
            response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("return=minimal"));
        }
        if ran.is_key_made {
            response.headers_mut().insert(IDEMPOTENCY_KEY, ran.idempotency_key);
        }
        Ok(response)
    }

    async fn state(&self, key: &EntityKey, parts: &Parts, traceparent: &str) -> Result<Response<Body>, Problem> {
        let consistency = query::state(parts.uri.query())?;
        header::check_accept(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        let if_match = condition::entity_tags(&parts.headers, &names::IF_MATCH)?;
        let if_none_match = condition::entity_tags(&parts.headers, &names::IF_NONE_MATCH)?;
        let session = Session::parse(&parts.headers)?;
        let _places = self.admit_read(key)?;
        let asked = AskedState {
            key,
            moment: None,
            consistency,
            if_match,
            if_none_match,
            session: &session,
            time: preferences.deadline,
            traceparent,
        };
        Ok(uncached(self.read(asked, |found| answer::found(key, found)).await?))
    }

    async fn events(&self, key: &EntityKey, parts: &Parts, traceparent: &str) -> Result<Response<Body>, Problem> {
        if header::wants_stream(&parts.headers)? {
            return self.live(key, parts, traceparent).await;
        }
        let page = query::page(parts.uri.query())?;
        header::check_accept(&parts.headers)?;
        refuse_conditions(&parts.headers)?;
        // Of live histories only, but what is none is never taken.
        header::last_event_id(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        let session = Session::parse(&parts.headers)?;
        let (wait, time) = preferences.with_wait(page.wait);
        let read = |page, time| {
            let asked = AskedHistory { key, page, session: &session, time, traceparent };
            self.history(asked, |history| {
                let is_empty = history.events.is_empty();
                let response = answer::events(key, history.events, history.next, history.session);
                (is_empty, uncached(answer::with_lag(response, history.lag)))
            })
        };
        // What there is already is read as any other page: to offer to wait is no way around the bounds.
        let began = self.seams.clock.now();
        let places = self.admit_read(key)?;
        let (is_empty, at_once) = read(Page { wait: Duration::ZERO, ..page }, preferences.deadline).await?;
        drop(places);
        let passed = self.seams.clock.now().since(began);
        let wait = wait.saturating_sub(passed);
        if !is_empty || wait.is_zero() {
            return Ok(at_once);
        }
        let place = self.enter_stream()?;
        let waited = read(Page { wait, ..page }, time.saturating_sub(passed));
        match place.ending().run_until_cancelled(waited).await {
            Some(answer) => answer.map(|(_, response)| response),
            // The gateway ends before the wait does.
            None => Ok(at_once),
        }
    }

    /// All kinds, or `one`.
    async fn kinds(&self, one: Option<&str>, parts: &Parts) -> Result<Response<Body>, Problem> {
        query::none(parts.uri.query())?;
        header::check_accept(&parts.headers)?;
        refuse_conditions(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        let _permit = self.admit()?;
        let read = self.forward.kinds(preferences.deadline, |_, reply| match reply {
            Reply::Kinds { json } => match one {
                None => Ok(answer::json_response([b"{\"kinds\":", json, b"}"].concat().into())),
                Some(kind) => kind_of(json, kind),
            },
            Reply::Refused(refusal) => Err(Problem::refused(&refusal)),
            _ => Err(Problem::new(Code::Unavailable, UNFITTING)),
        });
        let response = read.await.unwrap_or_else(|code| Err(Problem::given_up(code)))?;
        Ok(uncached(response))
    }

    /// The description of this API.
    async fn openapi(&self, parts: &Parts) -> Result<Response<Body>, Problem> {
        query::none(parts.uri.query())?;
        header::check_accept(&parts.headers)?;
        refuse_conditions(&parts.headers)?;
        let preferences = Preferences::parse(&parts.headers)?;
        let _permit = self.admit()?;
        Ok(uncached(self.openapi.answer(&self.forward, preferences.deadline).await?))
    }
}

fn route(method: &Method, resource: &Resource<'_>) -> Route {
    match resource {
        Resource::Entity(_) if method == Method::DELETE => Route::Delete,
        Resource::Entity(_) => Route::State,
        Resource::Listing(_) => Route::Listing,
        Resource::Command(..) if method == Method::POST => Route::Command,
        Resource::Command(_, command) if command == EVENTS => Route::Events,
        Resource::Kinds | Resource::Kind(_) => Route::Kinds,
        Resource::OpenApi | Resource::Docs(_) => Route::Description,
        Resource::Command(..) => Route::Other,
    }
}

/// Out of the nodes' array of descriptions, that of one kind.
fn kind_of(json: &[u8], kind: &str) -> Result<Response<Body>, Problem> {
    #[derive(serde::Deserialize)]
    struct Named {
        kind: String,
    }
    let unfitting = |_| Problem::new(Code::Unavailable, UNFITTING);
    let descriptions: Vec<&RawValue> = serde_json::from_slice(json).map_err(unfitting)?;
    for description in descriptions {
        let named: Named = serde_json::from_str(description.get()).map_err(unfitting)?;
        if named.kind == kind {
            return Ok(answer::json_response(Bytes::copy_from_slice(description.get().as_bytes())));
        }
    }
    Err(Problem::new(Code::UnknownKind, "no such kind is served"))
}

/// These resources have no version to compare with.
fn refuse_conditions(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(names::IF_MATCH) || headers.contains_key(names::IF_NONE_MATCH) {
        return Err(Problem::invalid("If-Match and If-None-Match apply to entities and commands"));
    }
    Ok(())
}

fn not_allowed(resource: &Resource<'_>) -> Problem {
    Problem::method_not_allowed(resource.allow(), "this method is not allowed here")
}

fn options(resource: &Resource<'_>) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(names::ALLOW, HeaderValue::from_static(resource.allow()));
    response
}

/// Caches must ask again, and have the entity tag to do it with.
fn uncached(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(names::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What HEAD answers: the headers of GET, the length included where there is one.
fn strip_body(response: &mut Response<Body>) {
    let body = std::mem::take(response.body_mut());
    let length = hyper::body::Body::size_hint(&body).exact();
    if let Some(length) = length.filter(|_| response.status() != StatusCode::NOT_MODIFIED) {
        response.headers_mut().insert(names::CONTENT_LENGTH, length.into());
    }
}

#[cfg(test)]
mod tests;
