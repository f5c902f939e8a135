//! The system shard: one more group, whose only entity holds the committed plan. It begins on the nodes that the cluster
//! begins with and is placed by the plan from then on. It runs on the same executor, journal and store as every other shard,
//! with a registry of its own, so that no client can name its kind.
//!
//! This file is the entity, `ask` has whichever node leads the group command it, and `follow` reads it from what the local
//! replica has applied. The first plan is made once, from the record of the cluster's beginning. A later one is adopted if it
//! is the next of the one that is in force: whoever made it knew that one, or is refused. Every command carries an idempotency
//! key of its content, wherever it comes from.

mod ask;
mod follow;
#[cfg(test)]
pub(super) mod pair;
#[cfg(test)]
mod tests;

use berth_shared::key::EntityKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bootstrap::InitRecord;
use super::plan::{Candidate, MEMBERS_MAX, Plan};
use crate::entity::{Context, Decision, Entity, Registry, Rejection, registry};
use crate::store;

pub use super::plan::SYSTEM_SHARD;
pub use ask::{adopt, initialise, restore};
pub use follow::{applied_plan, first_plan, follow};

/// The id of the only entity.
const PLAN: &str = "plan";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the plan cannot be read: {0}")]
    Unreadable(String),
    #[error("the plan cannot be written as a command: {0}")]
    Unwritable(String),
    /// Not executed.
    #[error("too many commands wait for the system shard")]
    Busy,
    /// Not executed.
    #[error("refused: {0}")]
    Refused(String),
    /// It may have been executed, or still be.
    #[error("whether it was executed is not known")]
    Unknown,
}

/// The kind of the only entity. Its state is the plan itself.
#[derive(Clone, Copy, Debug)]
pub struct Cluster;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Instruction {
    /// Makes the first plan of the cluster that began with this record.
    Initialise { record: InitRecord },
    /// Puts a plan in force, if it is the next one.
    Adopt { plan: Plan, reason: String },
    /// Puts a plan in force again that was in force once, and of which the system shard knows nothing, because it was recovered
    /// from a replica that had not got it yet. The members that follow it would not take another one of its epoch.
    Restore { plan: Plan },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The cluster has its first plan. It stands here as it was computed then, so that no later program computes another.
    Initialised { plan: Plan },
    /// The cluster has its next plan, because of what people may read in `reason`.
    Adopted { plan: Plan, reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster has a plan already, of epoch {0}")]
    AlreadyInitialised(u64),
    #[error("a cluster begins with 1 to {MEMBERS_MAX} members, a shard and a replica")]
    Unusable,
    #[error("the cluster has no plan yet")]
    NotInitialised,
    #[error("the plan in force has epoch {in_force}, which {given} does not follow")]
    NotNext { in_force: u64, given: u64 },
    #[error("the plan names members that it does not have")]
    Unsound,
    #[error("the plan has other numbers of shards or replicas than the cluster")]
    OtherCluster,
}

impl Entity for Cluster {
    const KIND: &'static str = "cluster";
    type State = Plan;
    type Command = Instruction;
    type Event = Event;
    type Reply = ();
    type Rejection = Refusal;

    fn decide(&self, state: &Plan, command: &Instruction, _: &Context<'_>) -> Result<Decision<Event>, Refusal> {
        match command {
            Instruction::Initialise { record } => begin(state, record).map(|plan| Event::Initialised { plan }),
            Instruction::Adopt { plan, reason } => {
                check_next(state, plan)?;
                Ok(Event::Adopted { plan: plan.clone(), reason: reason.clone() })
            }
            Instruction::Restore { plan } => {
                check_later(state, plan)?;
                Ok(Event::Adopted { plan: plan.clone(), reason: RESTORED.to_owned() })
            }
        }
        .map(Decision::event)
    }

    fn evolve(state: &mut Plan, event: &Event) {
        match event {
            Event::Initialised { plan } | Event::Adopted { plan, .. } => state.clone_from(plan),
        }
    }
}

fn begin(state: &Plan, record: &InitRecord) -> Result<Plan, Refusal> {
    if state.epoch > 0 {
        return Err(Refusal::AlreadyInitialised(state.epoch));
    }
    let counts = [record.members.len(), record.shards.into(), record.replicas.into()];
    if counts.contains(&0) || record.members.len() > MEMBERS_MAX {
        return Err(Refusal::Unusable);
    }
    let members: Vec<Candidate> = record.members.iter().cloned().map(Candidate::from).collect();
    Ok(Plan::first(&members, record.shards, record.replicas))
}

/// Why a plan is in force again.
const RESTORED: &str = "members follow it, and the system shard was recovered from a replica that did not know it";

fn check_next(state: &Plan, plan: &Plan) -> Result<(), Refusal> {
    if state.epoch > 0 && state.epoch.checked_add(1) != Some(plan.epoch) {
        return Err(Refusal::NotNext { in_force: state.epoch, given: plan.epoch });
    }
    check_later(state, plan)
}

fn check_later(state: &Plan, plan: &Plan) -> Result<(), Refusal> {
    if state.epoch == 0 {
        return Err(Refusal::NotInitialised);
    }
    if plan.epoch <= state.epoch {
        return Err(Refusal::NotNext { in_force: state.epoch, given: plan.epoch });
    }
    if !plan.is_sound() {
        return Err(Refusal::Unsound);
    }
    if (plan.shards(), plan.replicas) != (state.shards(), state.replicas) {
        return Err(Refusal::OtherCluster);
    }
    Ok(())
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyInitialised(_) => "already-initialised",
            Self::Unusable => "unusable",
            Self::NotInitialised => "not-initialised",
            Self::NotNext { .. } => "not-next",
            Self::Unsound => "unsound",
            Self::OtherCluster => "other-cluster",
        }
    }
}

/// The kinds of the system shard: not those of the user.
pub fn registry() -> Result<Registry, registry::Error> {
    Registry::new().add(Cluster)
}

/// Of the only entity.
fn plan_key() -> Result<EntityKey, Error> {
    EntityKey::new(Cluster::KIND, PLAN).map_err(|error| Error::Unreadable(error.to_string()))
}
