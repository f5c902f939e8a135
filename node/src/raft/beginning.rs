//! What has to hold of a shard's files before its group starts on them, and the first entry of a group that is new.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use berth_shared::ids::{LogId, NodeId, ShardId};

use super::{Member, Membership, encode_membership};
use crate::journal::{self, Journal};
use crate::shard::Shard;

/// Whether a shard and the journal belong together.
pub(super) fn check(shard: &Shard, journal: &Journal) -> Result<(), String> {
    let id = shard.id();
    let head = shard.machine().head().clone();
    let (state, applied) = (journal.log_state(id), head.applied);
    if (applied > state.last && !head.is_as_installed()) || (applied.is_some() && journal.vote(id).is_none()) {
        // A checkpoint waits for the journal, so this is another journal, or none: votes and entries are lost. Only a
        // snapshot gets ahead of the log, which is purged up to it afterwards.
        return Err(format!("its store holds entries up to {applied:?}, and its journal ends at {:?}", state.last));
    }
    if state.last_purged > applied {
        // One flipped bit in the store's file can bring back the checkpoint before the last: never start on that.
        let purged = state.last_purged;
        return Err(format!("its store holds entries up to {applied:?}, and its journal begins after {purged:?}"));
    }
    Ok(())
}

/// Writes the first entry of a group: its members. Every voter writes the same one, from the plan that all of them follow,
/// before it takes any message; so none depends on the others to know whom the group consists of. (The library's
/// `initialize` does the same on one voter, and refuses to on one that has given its vote already: if the only voter with
/// the entry were then lost, the others could not even begin.)
pub(super) async fn begin_log(shard: ShardId, journal: &Journal, voters: &[(NodeId, String)]) -> std::io::Result<()> {
    let members: BTreeMap<u64, Member> =
        voters.iter().map(|(node, address)| (node.0, Member { address: address.clone() })).collect();
    let ids = members.keys().copied().collect();
    let membership = Membership::new(vec![ids], members).map_err(std::io::Error::other)?;
    let bytes = encode_membership(&membership).map_err(std::io::Error::other)?;
    let entry = journal::Entry { log_id: LogId { term: 0, index: 0 }, payload: journal::Payload::Membership(bytes) };
    let (sender, written) = oneshot::channel();
    let done = Box::new(|result| {
        // Nobody waits any more when the node is stopping.
        let _ = sender.send(result);
    });
    journal.append(shard, vec![entry], done).await?;
    written.await.unwrap_or_else(|_| Err(std::io::Error::other("the journal's writer has ended")))
}
