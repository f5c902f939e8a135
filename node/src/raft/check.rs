//! What a message must satisfy before the consensus library sees it. The library takes messages for those of members that
//! follow the protocol: it asserts what they could not do, and an assertion that fails ends the node. Some messages would
//! even make the receiver lead. So what no member sends is refused here, by what the receiver knows. Pure.

use std::cmp::Ordering;

use berth_shared::ids::{LogId, NodeId, Term};

use super::message::{Append, Campaign, Transfer, Vote};

/// How far a term may be ahead of ours. Terms count elections, so nobody was away for so many; and none comes near the end of
/// its numbers, after which there could be no other.
const TERMS_AHEAD_MAX: Term = 1 << 32;
/// No log gets so long. The library adds to indexes without a check.
const INDEX_MAX: u64 = 1 << 62;

/// What the receiver knows of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours {
    pub(super) node: NodeId,
    pub(super) vote: Vote,
    /// Up to where the log is known to be committed, or less.
    pub(super) committed: Option<LogId>,
}

type Checked = Result<(), &'static str>;

pub(super) fn append(ours: &Ours, append: &Append<'_>) -> Checked {
    leader(ours, append.vote)?;
    let entries = append.entries.iter().map(|entry| LogId { term: entry.term, index: entry.index });
    let mut before = append.previous;
    for id in append.previous.into_iter().chain(append.committed).chain(entries.clone()) {
        log_id(append.vote, id)?;
        require(
            append.committed.is_none_or(|committed| fit(committed, id)),
            "what it says is committed contradicts its log",
        )?;
        // The library refuses a deposed leader by its vote.
        require(
            append.vote.term < ours.vote.term || ours.committed.is_none_or(|committed| fit(committed, id)),
            "it contradicts what is committed",
        )?;
    }
    for id in entries {
        let is_next = before.map_or(id.index == 0, |before| id.index == before.index + 1 && id.term >= before.term);
        require(is_next, "its entries do not follow each other")?;
        before = Some(id);
    }
    Ok(())
}

pub(super) fn campaign(ours: &Ours, campaign: &Campaign) -> Checked {
    let Campaign { vote, last, .. } = campaign;
    term(ours, *vote)?;
    require(!vote.committed, "a candidate is no leader yet")?;
    require(vote.node != ours.node, "it asks for a vote in the name of the receiver")?;
    last.map_or(Ok(()), |last| log_id(*vote, last))
}

pub(super) fn transfer(ours: &Ours, transfer: &Transfer) -> Checked {
    leader(ours, transfer.from)?;
    transfer.last.map_or(Ok(()), |last| log_id(transfer.from, last))
}

/// Of a part of a snapshot: who sends it.
pub(super) fn leader(ours: &Ours, vote: Vote) -> Checked {
    term(ours, vote)?;
    require(vote.committed, "its sender was not elected")?;
    require(vote.node != ours.node, "it names the receiver as the leader")
}

/// Of a snapshot that has come as a whole: what it is the snapshot of.
pub(super) fn snapshot(ours: &Ours, vote: Vote, last: Option<LogId>, membership: Option<LogId>) -> Checked {
    leader(ours, vote)?;
    let last = last.ok_or("it is a snapshot of nothing")?;
    log_id(vote, last)?;
    require(
        vote.term < ours.vote.term || ours.committed.is_none_or(|committed| fit(committed, last)),
        "it contradicts what is committed",
    )?;
    require(
        membership.is_none_or(|membership| membership.index <= last.index && membership.term <= last.term),
        "its members are of an entry after its last one",
    )
}

fn term(ours: &Ours, vote: Vote) -> Checked {
    require(vote.term <= ours.vote.term.saturating_add(TERMS_AHEAD_MAX), "its term is too far ahead")
}

fn log_id(vote: Vote, id: LogId) -> Checked {
    require(id.term <= vote.term, "an entry is of a later term than its sender")?;
    require(id.index <= INDEX_MAX, "an index is out of range")
}

/// Whether one log can have both: terms do not fall along a log.
fn fit(one: LogId, other: LogId) -> bool {
    match one.index.cmp(&other.index) {
        Ordering::Less => one.term <= other.term,
        Ordering::Equal => one.term == other.term,
        Ordering::Greater => one.term >= other.term,
    }
}

fn require(holds: bool, otherwise: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(otherwise) }
}
