//! Commands to the system shard's entity, from whichever node leads its group.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::RequestId;
use berth_shared::message::{KeyOrigin, Precondition, Response};
use berth_shared::seam::Seams;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_128;

use super::{Cluster, Error, plan_key};
use crate::cluster::bootstrap::InitRecord;
use crate::cluster::plan::Plan;
use crate::entity::{Entity, Registry};
use crate::record::{Fingerprint, RequestKey, Scope};
use crate::shard::command::{Action, Answer, Command};
use crate::shard::executor::Mailbox;
use crate::shard::group::Group;

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Pause after an attempt that did not bring a first plan.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What the commands carry, as JSON.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Body<'a> {
    Initialise { record: &'a InitRecord },
    Adopt { plan: &'a Plan, reason: &'a str },
    Restore { plan: &'a Plan },
}

/// Has the first plan of `record`'s cluster made, if this node leads the system shard while there is none. Ends with the first
/// plan, or with `shutdown`.
pub async fn initialise(
    record: InitRecord,
    group: Arc<dyn Group>,
    mailbox: Mailbox,
    registry: Arc<Registry>,
    mut plan: watch::Receiver<Option<Arc<Plan>>>,
    seams: Seams,
    shutdown: CancellationToken,
) {
    let (made, spawner) = (async { drop(plan.wait_for(Option::is_some).await) }, seams.spawner);
    let mut leading = group.leading();
    let try_again_and_again = async {
        loop {
            if leading.wait_for(Option::is_some).await.is_err() {
                return;
            }
            begin(&record, &mailbox, &registry, &seams).await;
            spawner.sleep(RETRY_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = made => {}
        () = try_again_and_again => {}
    }
}

pub(super) async fn begin(record: &InitRecord, mailbox: &Mailbox, registry: &Registry, seams: &Seams) {
    let idempotency_key = format!("initialise-{}", record.cluster);
    let body = Body::Initialise { record };
    if let Err(why) = ask("initialise", &body, |_| idempotency_key, mailbox, registry, seams).await {
        tracing::debug!("the first plan was not made by this node now: {why}");
        return;
    }
    tracing::info!(cluster = %record.cluster, "the cluster has its first plan");
    let (nodes, wanted) = (record.members.len(), record.replicas);
    if nodes < usize::from(wanted) {
        tracing::warn!(
            "every shard has {nodes} instead of {wanted} copies (cluster.replicas), because the cluster began with too few \
             nodes"
        );
    }
}

/// Puts `plan` in force, because of `reason`, if this node leads the system shard and the plan is the next one. Asked again with
/// the same plan and reason, it has the same outcome.
pub async fn adopt(
    plan: &Plan,
    reason: &str,
    mailbox: &Mailbox,
    registry: &Registry,
    seams: &Seams,
) -> Result<(), Error> {
    let key = |body: &[u8]| format!("adopt-{}-{:032x}", plan.epoch, xxh3_128(body));
    ask("adopt", &Body::Adopt { plan, reason }, key, mailbox, registry, seams).await
}

/// Puts `plan` in force again, of a later epoch than the system shard knows, if this node leads it.
pub async fn restore(plan: &Plan, mailbox: &Mailbox, registry: &Registry, seams: &Seams) -> Result<(), Error> {
    let key = |body: &[u8]| format!("restore-{}-{:032x}", plan.epoch, xxh3_128(body));
    ask("restore", &Body::Restore { plan }, key, mailbox, registry, seams).await
}

/// Sends one command and waits for its answer.
async fn ask(
    name: &str,
    body: &Body<'_>,
    idempotency_key: impl FnOnce(&[u8]) -> String,
    mailbox: &Mailbox,
    registry: &Registry,
    seams: &Seams,
) -> Result<(), Error> {
    let unwritable = |why: String| Error::Unwritable(why);
    let kind = registry.get(Cluster::KIND).ok_or_else(|| unwritable("there are other kinds".to_owned()))?.clone();
    let (key, body) = (plan_key()?, serde_json::to_vec(body).map_err(|error| unwritable(error.to_string()))?);
    let (sender, answered) = oneshot::channel();
    let answer = Answer::new(move |response| {
        let outcome = match response {
            Response::Executed(_) => Ok(()),
            Response::Refused(refusal) => Err(Error::Refused(refusal.detail.to_owned())),
            _ => Err(Error::Refused("this node does not lead the system shard".to_owned())),
        };
        // Whoever asked may have stopped waiting.
        let _ = sender.send(outcome);
    });
    let command = Command {
        request: RequestKey {
            scope: Scope::new("", &key, &idempotency_key(&body)),
            fingerprint: Fingerprint::new(name, &body, b""),
            origin: KeyOrigin::Client,
        },
        key,
        action: Action::Run(kind.decode(name, &body).map_err(|error| unwritable(error.to_string()))?),
        kind,
        precondition: Precondition::None,
        principal: String::new(),
        request_id: RequestId(seams.random.next_u128()),
        // Another node may have sent it before.
        attempt: 2,
        wants_state: false,
        deadline: seams.clock.now() + ATTEMPT_MAX,
        answer,
    };
    mailbox.try_send(command).map_err(|_| Error::Busy)?;
    // What was decided by the deadline may take longer to be applied.
    let answer = seams.spawner.timeout(ATTEMPT_MAX + RETRY_PAUSE, answered).await;
    answer.and_then(Result::ok).unwrap_or(Err(Error::Unknown))
}
