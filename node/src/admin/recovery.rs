//! The admin port's calls about shards that have lost their quorum: which there are here, and the recovery of one.

use std::fmt;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use berth_shared::ids::ShardId;
use berth_shared::problem::Code;
use berth_shared::recovery_view::{Confirmation, RecoveredView, RecoveryView};
use futures_util::future::BoxFuture;

use super::{Admin, json};
use crate::cluster::plan::SYSTEM_SHARD;

/// The system shard, in the path of a recovery.
const SYSTEM: &str = "system";

/// What the calls work with.
pub trait Recovery: Send + Sync {
    /// Nothing while the node has no cluster.
    fn survey(&self) -> BoxFuture<'static, Option<RecoveryView>>;

    fn recover(&self, shard: ShardId, confirm: String) -> BoxFuture<'static, Result<RecoveredView, Refusal>>;
}

/// Why a shard is not recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotHosted,
    /// What speaks against it.
    Obstacle(String),
    /// It has to be confirmed with these words.
    Confirm(String),
    /// The replica is being opened, recovered or deleted just now.
    Busy,
    /// What came of it is not known. To ask again tells.
    Failed(String),
}

/// A shard as it stands in paths and views.
pub fn path_name(shard: ShardId) -> String {
    if shard == SYSTEM_SHARD { SYSTEM.to_owned() } else { shard.to_string() }
}

fn named(text: &str) -> Option<ShardId> {
    if text == SYSTEM {
        return Some(SYSTEM_SHARD);
    }
    text.parse().ok().map(ShardId).filter(|shard| *shard != SYSTEM_SHARD)
}

pub(super) async fn survey(State(admin): State<Admin>, uri: Uri) -> Response {
    match admin.recovery.survey().await {
        Some(view) => json(view),
        None => {
            let refusal = (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable.as_str(), "Unavailable");
            admin.problem(refusal, "the node has not found its cluster yet", &uri)
        }
    }
}

pub(super) async fn recover(
    State(admin): State<Admin>,
    Path(shard): Path<String>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Some(shard) = named(&shard) else { return refused(&admin, &Refusal::NotHosted, &uri) };
    let confirmation = body.ok().and_then(|body| serde_json::from_slice::<Confirmation>(&body).ok());
    let Some(Confirmation { confirm }) = confirmation else {
        let refusal = (StatusCode::BAD_REQUEST, Code::InvalidRequest.as_str(), "Invalid request");
        let why = r#"the body must be {"confirm": "…"}, with the words that GET /v1/recovery gives for the shard"#;
        return admin.problem(refusal, why, &uri);
    };
    // Whoever has asked may go away; what has begun is brought to its end.
    let recovering = admin.seams.spawner.spawn(admin.recovery.recover(shard, confirm));
    match recovering.await.unwrap_or_else(|error| Err(Refusal::Failed(error.to_string()))) {
        Ok(recovered) => json(recovered).into_response(),
        Err(refusal) => refused(&admin, &refusal, &uri),
    }
}

fn refused(admin: &Admin, refusal: &Refusal, uri: &Uri) -> Response {
    let conflict = |code| (StatusCode::CONFLICT, code, "Conflict");
    let head = match refusal {
        Refusal::NotHosted => (StatusCode::NOT_FOUND, Code::NotFound.as_str(), "Not found"),
        Refusal::Obstacle(_) => conflict("not-recoverable"),
        Refusal::Confirm(_) => conflict("not-confirmed"),
        Refusal::Busy => conflict("in-progress"),
        Refusal::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal.as_str(), "Internal error"),
    };
    let more = match refusal {
        Refusal::Confirm(words) => Some(("confirm", words.as_str())),
        _ => None,
    };
    admin.problem_with(head, &refusal.to_string(), uri, more)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHosted => f.write_str("this node has no replica of this shard"),
            Self::Obstacle(why) => write!(f, "the shard is not recovered here: {why}"),
            Self::Confirm(words) => write!(f, "to recover the shard, confirm with the words: {words}"),
            Self::Busy => f.write_str("the replica is being opened, recovered or deleted; try again"),
            Self::Failed(why) => write!(f, "whether the shard was recovered is not known: {why}"),
        }
    }
}
