//! To whom a request goes, and when it is over. A read that any replica may answer goes to a replica and to the owner, in turns.
//! Pure.

use std::time::Duration;

use berth_shared::key::EntityKey;
use berth_shared::message::Consistency;
use berth_shared::problem::Code;
use berth_shared::seam::BootInstant;

use super::verdict::{Attempt, Operation};

/// To whom a request goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Owner(&'a EntityKey),
    /// A replica and the owner, in turns: the owner has what a replica lacks, and a replica may be there while no owner is.
    /// `start` spreads requests over the replicas.
    Replica {
        key: &'a EntityKey,
        start: u64,
        /// Whether the replica may have to wait until it has what the client has seen.
        may_wait: bool,
    },
    /// Any node, another one with every attempt.
    Anyone,
}

/// When a request is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) deadline: BootInstant,
    /// Until when a node may wait before it answers, where it may.
    pub(super) wait_until: Option<BootInstant>,
    /// Whether it takes a place among what is in flight at nodes. What does not says nothing of how busy they are.
    pub(super) takes_place: bool,
}

impl<'a> Target<'a> {
    /// Who a read of `consistency` goes to.
    pub(super) fn of_read(key: &'a EntityKey, consistency: Consistency, start: u64) -> Self {
        match consistency {
            Consistency::Linearizable | Consistency::Strict => Self::Owner(key),
            Consistency::Session { at_least } => Self::Replica { key, start, may_wait: at_least.is_some() },
            Consistency::Stale => Self::Replica { key, start, may_wait: false },
        }
    }
}

impl Time {
    pub(super) fn until(deadline: BootInstant) -> Self {
        Self { deadline, wait_until: None, takes_place: true }
    }

    /// Until when an attempt that begins `now` may last, where `attempt_timeout` is for one that does not wait.
    pub(super) fn of_attempt(
        self,
        operation: Operation,
        target: Target<'_>,
        now: BootInstant,
        attempt_timeout: Duration,
    ) -> BootInstant {
        let left = self.deadline.since(now);
        let waited = self.wait_until.map_or(Duration::ZERO, |until| until.since(now));
        let longest = match (operation, target) {
            // Another attempt would begin all over again.
            (Operation::LongRead, _) => return self.deadline,
            // The owner is asked with what a replica leaves.
            (_, Target::Replica { .. }) => (left / 2).max(waited),
            _ => left,
        };
        now + longest.min(attempt_timeout + waited)
    }
}

/// Whether an attempt at a read that any replica may answer goes to one: each other one goes to the owner.
pub(super) fn is_at_replica(attempt: u32) -> bool {
    attempt % 2 == 1
}

/// What a replica's answer means. That it cannot read a kind, or an event, may be so because it is of another version than the
/// owner, which is then asked.
pub(super) fn at_owner_too(attempt: Attempt, target: Target<'_>, number: u32) -> Attempt {
    match (attempt, target) {
        (Attempt::Refused { code: Code::UnknownKind | Code::Internal, .. }, Target::Replica { .. })
            if is_at_replica(number) =>
        {
            Attempt::NotExecuted
        }
        (attempt, _) => attempt,
    }
}

/// What it means that there are too many others at the node that is asked.
pub(super) fn busy(target: Target<'_>) -> Attempt {
    match target {
        Target::Owner(_) => Attempt::NodeBusy,
        // Another node may have room.
        Target::Replica { .. } | Target::Anyone => Attempt::NotExecuted,
    }
}

/// What is asked for in an attempt. The owner's own answer is as new as a session asks for, whatever it has applied of which
/// incarnation.
pub(super) fn of_attempt(consistency: Consistency, attempt: u32) -> Consistency {
    match consistency {
        Consistency::Session { .. } if !is_at_replica(attempt) => Consistency::Linearizable,
        other => other,
    }
}
