//! Hands a shard over to another of its replicas, so that nobody who asks for something notices more than a short pause: what
//! has been accepted is answered here, and what comes meanwhile waits. It is not begun where it is bound to fail, what
//! precedes the offer has little time, and whatever fails, decisions go on.

use std::time::Duration;

use berth_shared::ids::{NodeId, Term};
use berth_shared::planted::{self, Bug};
use berth_shared::seam::{BootInstant, Seams};

use crate::shard::group::{Group, Observed};
use crate::shard::hold::Hold;

/// A replica that was not heard of for so long is not offered anything. Heartbeats come four times as often.
const ANSWERED_MAX: Duration = Duration::from_millis(400);
/// Entries that it may lack, which are sent to it while the decisions are held.
const BEHIND_MAX: u64 = 256;
/// How long decisions are held before leadership is offered, at most.
const PREPARATION_MAX: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("this node does not own the shard, or not any more")]
    NotOwner,
    #[error("node {0} is no voter of the group")]
    NotVoter(NodeId),
    #[error("node {0} was not heard of lately")]
    Silent(NodeId),
    #[error("node {0} lacks too many entries")]
    Behind(NodeId),
    #[error("what was decided was not applied within {PREPARATION_MAX:?}")]
    NotSettled,
    #[error("node {0} did not answer in time that it has everything")]
    NotReached(NodeId),
    #[error("node {0} did not take the leadership that it was offered")]
    NotTaken(NodeId),
}

/// Makes `to` the owner of the shard that this node owns. Returns, once it is known here to lead, for how long nothing was
/// decided. It ends by itself, within some two seconds; a caller should not drop it, because leadership that has been offered
/// is taken back only here.
pub async fn hand_off(group: &dyn Group, hold: &Hold, to: NodeId, seams: &Seams) -> Result<Duration, Error> {
    let observed = group.observe().ok_or(Error::NotOwner)?;
    check(&observed, to, seams.clock.now())?;
    let term = observed.term;
    let begun = seams.clock.now();
    let left = || PREPARATION_MAX.saturating_sub(seams.clock.now().since(begun));
    let held = seams.spawner.timeout(left(), hold.begin()).await.ok_or(Error::NotSettled)?;
    let held = held.ok_or(Error::NotOwner)?;
    match seams.spawner.timeout(left(), group.reach(term, to)).await {
        _ if planted::is(Bug::SkipCatchUp) => {}
        Some(true) => {}
        Some(false) if group.term() != Some(term) => return Err(Error::NotOwner),
        Some(false) | None => return Err(Error::NotReached(to)),
    }
    let taken = group.transfer(to).await;
    let pause = seams.clock.now().since(begun);
    drop(held);
    if taken && leads(group, to, term) { Ok(pause) } else { Err(Error::NotTaken(to)) }
}

fn leads(group: &dyn Group, node: NodeId, after: Term) -> bool {
    let status = group.status();
    status.leader == Some(node) && status.term > after
}

/// Whether the offer is likely to be taken.
fn check(observed: &Observed, to: NodeId, now: BootInstant) -> Result<(), Error> {
    let follower = observed.followers.get(&to).filter(|_| observed.is_voter(to)).ok_or(Error::NotVoter(to))?;
    if follower.answered.is_none_or(|answered| now.since(answered) > ANSWERED_MAX) {
        return Err(Error::Silent(to));
    }
    match observed.behind(to).unwrap_or(u64::MAX) {
        _ if planted::is(Bug::SkipCatchUp) => Ok(()),
        0..=BEHIND_MAX => Ok(()),
        _ => Err(Error::Behind(to)),
    }
}
