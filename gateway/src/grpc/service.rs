//! The calls on entities: what their messages ask, said as REST's requests say it, and the answers as messages.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::auth::Role;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Moment, Precondition};
use berth_shared::problem::Code;
use bytes::Bytes;
use http::HeaderValue;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::protobuf::entities_server::Entities;
use super::protobuf::get_request::Moment as AskedMoment;
use super::protobuf::precondition::Condition;
use super::protobuf::{
    self, DeleteRequest, DeleteResponse, ExecuteRequest, ExecuteResponse, GetRequest, GetResponse, WatchRequest,
};
use super::status::Refusal;
use super::watch::Live;
use crate::admission::Access;
use crate::api::Api;
use crate::api::asked::{self, AskedCommand, AskedState};
use crate::api::condition::EntityTags;
use crate::api::problem::Problem;
use crate::api::replica;
use crate::api::session::Session;
use crate::api::{guard, header, past, path, query};
use crate::forward::Action;
use crate::nodes::Nodes;

/// Longest name of a command that is looked for.
const COMMAND_BYTES_MAX: usize = 1024;
/// Versions in a list, at most: as many as fit the header of REST.
const VERSIONS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Service<N> {
    pub(super) api: Arc<Api<N>>,
}

#[tonic::async_trait]
impl<N: Nodes> Entities for Service<N> {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let call = Call::of(&request)?;
        let ran = self.run(request.into_inner(), &call).await;
        ran.map(Response::new).map_err(|refusal| refusal.into_status(call.traceparent))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let call = Call::of(&request)?;
        let deleted = self.remove(request.into_inner(), &call).await;
        deleted.map(Response::new).map_err(|refusal| refusal.into_status(call.traceparent))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let call = Call::of(&request)?;
        let read = self.read(request.into_inner(), &call).await;
        read.map(Response::new).map_err(|refusal| refusal.into_status(call.traceparent))
    }

    type WatchStream = Live;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Live>, Status> {
        let call = Call::of(&request)?;
        let begun = self.begin(request.into_inner(), &call).await;
        begun.map_err(|refusal| refusal.into_status(call.traceparent))
    }
}

impl<N: Nodes> Service<N> {
    pub(super) fn new(api: Arc<Api<N>>) -> Self {
        Self { api }
    }

    /// The time that is left for an answer.
    pub(super) fn left(&self, call: &Call) -> Duration {
        call.time_left(self.api.seams.clock.now())
    }

    /// The entity that is asked about, by somebody who may do that with its kind.
    pub(super) fn entity(&self, kind: &str, id: &str, call: &Call, role: Role) -> Result<EntityKey, Refusal> {
        let key = entity_key(kind, id)?;
        guard::authorize(&self.api.guard, &call.principal, role, Some(key.kind()))?;
        Ok(key)
    }

    async fn run(&self, asked: ExecuteRequest, call: &Call) -> Result<ExecuteResponse, Refusal> {
        let key = self.entity(&asked.kind, &asked.id, call, Role::Write)?;
        if asked.command.len() > COMMAND_BYTES_MAX {
            return Err(Problem::new(Code::UnknownCommand, "no command has such a long name").into());
        }
        let action = Action::Run(&asked.command);
        let _place = self.api.admit_entity(&key, Access::Command)?;
        let body = arguments(action, asked.arguments)?;
        let command = AskedCommand {
            key: &key,
            action,
            principal: &call.principal,
            body: &body,
            precondition: precondition(asked.precondition)?,
            session: &session(&asked.session)?,
            idempotency_key: idempotency_key(&asked.idempotency_key)?,
            wants_state: !asked.omit_state,
            time: self.left(call),
            traceparent: &call.passed_on,
        };
        let ran = self.api.execute(command, |executed, session| ExecuteResponse {
            kind: key.kind().to_owned(),
            id: key.id().to_owned(),
            version: executed.version,
            reply: json(executed.reply),
            state: executed.state.map(json),
            session: text(session.as_ref()),
            idempotency_key: String::new(),
            replayed: executed.replayed,
        });
        let ran = ran.await.map_err(Refusal::of_command(action))?;
        Ok(ExecuteResponse { idempotency_key: text(Some(&ran.idempotency_key)), ..ran.answer })
    }

    async fn remove(&self, asked: DeleteRequest, call: &Call) -> Result<DeleteResponse, Refusal> {
        let key = self.entity(&asked.kind, &asked.id, call, Role::Write)?;
        let _place = self.api.admit_entity(&key, Access::Command)?;
        let action = Action::Delete;
        let command = AskedCommand {
            key: &key,
            action,
            principal: &call.principal,
            body: &[],
            precondition: precondition(asked.precondition)?,
            session: &session(&asked.session)?,
            idempotency_key: idempotency_key(&asked.idempotency_key)?,
            wants_state: false,
            time: self.left(call),
            traceparent: &call.passed_on,
        };
        let ran = self.api.execute(command, |executed, session| DeleteResponse {
            kind: key.kind().to_owned(),
            id: key.id().to_owned(),
            version: executed.version,
            session: text(session.as_ref()),
            idempotency_key: String::new(),
            replayed: executed.replayed,
        });
        let ran = ran.await.map_err(Refusal::of_command(action))?;
        Ok(DeleteResponse { idempotency_key: text(Some(&ran.idempotency_key)), ..ran.answer })
    }

    async fn read(&self, asked: GetRequest, call: &Call) -> Result<GetResponse, Refusal> {
        let key = self.entity(&asked.kind, &asked.id, call, Role::Read)?;
        check_length("known_versions", &asked.known_versions)?;
        let _place = self.api.admit_entity(&key, Access::Read)?;
        let state = AskedState {
            key: &key,
            moment: moment(asked.moment, self.api.seams.clock.wall_micros())?,
            consistency: consistency(asked.consistency)?,
            if_match: None,
            if_none_match: (!asked.known_versions.is_empty()).then_some(EntityTags::Versions(asked.known_versions)),
            session: &session(&asked.session)?,
            time: self.left(call),
            traceparent: &call.passed_on,
        };
        let read = self.api.read(state, |found| GetResponse {
            kind: key.kind().to_owned(),
            id: key.id().to_owned(),
            version: found.version,
            state: found.state.map(json),
            session: text(found.session.as_ref()),
            lag: found.lag.map(lag),
        });
        Ok(read.await?)
    }
}

pub(super) fn entity_key(kind: &str, id: &str) -> Result<EntityKey, Refusal> {
    path::check_kind(kind)?;
    path::entity_key(kind, id).map_err(Refusal::at("id"))
}

pub(super) fn session(text: &str) -> Result<Session, Refusal> {
    if text.is_empty() { Ok(Session::none()) } else { Session::decode(text).map_err(Refusal::at("session")) }
}

pub(super) fn consistency(number: i32) -> Result<Consistency, Refusal> {
    let name = match protobuf::Consistency::try_from(number) {
        Ok(protobuf::Consistency::Unspecified) => None,
        Ok(protobuf::Consistency::Linearizable) => Some("linearizable"),
        Ok(protobuf::Consistency::Strict) => Some("strict"),
        Ok(protobuf::Consistency::Session) => Some("session"),
        Ok(protobuf::Consistency::Stale) => Some("stale"),
        Err(_) => Some("unknown"),
    };
    query::parse_consistency(name).map_err(Refusal::at("consistency"))
}

pub(super) fn moment(asked: Option<AskedMoment>, now_micros: u64) -> Result<Option<Moment>, Refusal> {
    match asked {
        None => Ok(None),
        Some(AskedMoment::AtVersion(version)) => Ok(Some(Moment::Version(version))),
        Some(AskedMoment::AtTime(time)) => {
            let time = past::parse_time(&time, now_micros).map_err(Refusal::at("at_time"))?;
            Ok(Some(Moment::Time(time)))
        }
    }
}

pub(super) fn idempotency_key(text: &str) -> Result<Option<HeaderValue>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let checked =
        HeaderValue::from_str(text).map_err(|_| header::invalid_key()).and_then(header::check_idempotency_key);
    checked.map(Some).map_err(Refusal::at("idempotency_key"))
}

pub(super) fn precondition(asked: Option<protobuf::Precondition>) -> Result<Precondition, Refusal> {
    let Some(asked) = asked else { return Ok(Precondition::None) };
    match asked.condition {
        Some(Condition::Versions(versions)) => {
            check_length("precondition", &versions.versions)?;
            Ok(Precondition::Versions(versions.versions))
        }
        Some(Condition::Exists(_)) => Ok(Precondition::Exists),
        Some(Condition::Absent(_)) => Ok(Precondition::Absent),
        None => Err(Refusal::at("precondition")(Problem::invalid("a precondition must have a condition"))),
    }
}

pub(super) fn check_length(field: &'static str, versions: &[u64]) -> Result<(), Refusal> {
    if versions.len() > VERSIONS_MAX {
        return Err(Refusal::at(field)(Problem::invalid("a list may have 1024 versions")));
    }
    Ok(())
}

pub(super) fn arguments(action: Action<'_>, text: String) -> Result<Bytes, Refusal> {
    asked::arguments(action, Bytes::from(text)).map_err(Refusal::at("arguments"))
}

fn lag(lag: replica::Lag) -> protobuf::Lag {
    let milliseconds = match lag {
        replica::Lag::Milliseconds(milliseconds) => Some(milliseconds),
        replica::Lag::Unknown => None,
    };
    protobuf::Lag { milliseconds }
}

/// JSON from a node; one that left it empty meant nothing.
pub(super) fn json(json: &[u8]) -> String {
    if json.is_empty() { "null".to_owned() } else { String::from_utf8_lossy(json).into_owned() }
}

/// A value that was made here, or checked, to be visible ASCII.
fn text(value: Option<&HeaderValue>) -> String {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
