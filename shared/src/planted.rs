//! Bugs that can be planted in the running system, to show that the simulation notices each of them. The product asks
//! [`is`] at the places where it would be wrong with a bug, one line each, and is otherwise unchanged.
//!
//! A bug is there only on a thread that is in a simulation whose world has it, so simulations beside each other do not
//! disturb one another, and a process in no simulation has none. And it is there only in builds with debug assertions: in all
//! others [`is`] is the constant `false`, which the end of this file makes the compiler prove, so that the compiler leaves
//! out what depends on it. A feature of Cargo would not do: features are united over a workspace, and one that the
//! simulation needs would get into the programs that are built with it.

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// Journal and store take what they have written for durable without a sync of the disk.
    SkipFsync,
    /// An owner answers a command when it has decided it.
    AcknowledgeBeforeCommit,
    /// A record is applied whatever version it was decided on. Nothing tells more of it while decisions are made on top of
    /// those in flight; so here they are made on what is applied.
    DropBaseVersionCheck,
    /// An owner reads from memory for as long as it has not heard of the next one.
    ReadWithoutLease,
    /// A replica that takes up a snapshot takes none of the idempotency keys.
    ForgetKeysInSnapshots,
    /// A log is purged up to what is applied, not up to what the store has on disk.
    PurgePastCheckpoint,
    /// A node that begins with an empty disk has the id of the one before it at its address.
    ReuseNodeId,
    /// Members become voters, and are given shards, however far behind they are.
    SkipCatchUp,
    /// A fresh node founds a cluster of its own, whoever else is there.
    TwoClusters,
    /// A replica answers a session's read from what it happens to have.
    IgnoreSessionToken,
    /// That an entity was deleted is in its history, and not in the store's row of it.
    LoseTombstone,
    /// A gateway that tries a command again does so under another idempotency key.
    RetryWithoutKey,
    /// What was decided ahead in one term is still there to decide on in the next.
    DecideOnLeftovers,
    /// A refusal is answered before what it was decided on is durable.
    ReleaseRefusalEarly,
    /// A gateway says that a command was not applied when one of its attempts may have been.
    DenyUnknownOutcome,
    /// A replica helps to elect a leader as soon as it has started, whatever lease it has granted before.
    VoteAfterRestart,
}

impl Bug {
    pub const ALL: [Self; 16] = [
        Self::SkipFsync,
        Self::AcknowledgeBeforeCommit,
        Self::DropBaseVersionCheck,
        Self::ReadWithoutLease,
        Self::ForgetKeysInSnapshots,
        Self::PurgePastCheckpoint,
        Self::ReuseNodeId,
        Self::SkipCatchUp,
        Self::TwoClusters,
        Self::IgnoreSessionToken,
        Self::LoseTombstone,
        Self::RetryWithoutKey,
        Self::DecideOnLeftovers,
        Self::ReleaseRefusalEarly,
        Self::DenyUnknownOutcome,
        Self::VoteAfterRestart,
    ];

    /// As it is called on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SkipFsync => "skip-fsync",
            Self::AcknowledgeBeforeCommit => "acknowledge-before-commit",
            Self::DropBaseVersionCheck => "drop-base-version-check",
            Self::ReadWithoutLease => "read-without-lease",
            Self::ForgetKeysInSnapshots => "forget-keys-in-snapshots",
            Self::PurgePastCheckpoint => "purge-past-checkpoint",
            Self::ReuseNodeId => "reuse-node-id",
            Self::SkipCatchUp => "skip-catch-up",
            Self::TwoClusters => "two-clusters",
            Self::IgnoreSessionToken => "ignore-session-token",
            Self::LoseTombstone => "lose-tombstone",
            Self::RetryWithoutKey => "retry-without-key",
            Self::DecideOnLeftovers => "decide-on-leftovers",
            Self::ReleaseRefusalEarly => "release-refusal-early",
            Self::DenyUnknownOutcome => "deny-unknown-outcome",
            Self::VoteAfterRestart => "vote-after-restart",
        }
    }
}

/// Whether the simulation that this thread is in has planted `bug`.
#[cfg(debug_assertions)]
pub fn is(bug: Bug) -> bool {
    crate::seam::simulation::current().is_some_and(|world| world.is_planted(bug))
}

/// Whether the simulation that this thread is in has planted `bug`; never, in a build like this.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Does not compile where a build without debug assertions could have a bug.
#[cfg(not(debug_assertions))]
const _: () = {
    let mut place = 0;
    while place < Bug::ALL.len() {
        assert!(!is(Bug::ALL[place]), "a release build has no planted bugs");
        place += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_planted_outside_of_a_simulation() {
        assert!(Bug::ALL.into_iter().all(|bug| !is(bug)));
    }

    #[test]
    fn names_tell_bugs_apart() {
        let names: std::collections::BTreeSet<_> = Bug::ALL.into_iter().map(Bug::name).collect();
        assert_eq!(names.len(), Bug::ALL.len());
    }
}
