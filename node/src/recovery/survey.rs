//! Whether a shard may be recovered on a node, by what its replica and those of other nodes say of themselves, and the words
//! with which an operator confirms it. Pure.

use std::cmp::Reverse;
use std::fmt;

use berth_shared::ids::{LogId, NodeId, ShardId};
use serde::{Deserialize, Serialize};

use crate::cluster::plan::SYSTEM_SHARD;

/// What a node has of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    pub shard: ShardId,
    /// The last entry of its log.
    pub last: LogId,
    pub incarnation: u32,
    /// Whether it sees a quorum of its group, is one by itself, or is being recovered just now.
    pub sees_quorum: bool,
}

/// What keeps a shard from being recovered on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The node is connected to enough voters that they may elect a leader.
    SeesQuorum,
    ServedBy(NodeId),
    /// Another node's replica has more. Of those that have as much the one with the lowest id counts, so that two operators
    /// who can reach the same nodes do not recover two replicas.
    Further(NodeId, LogId),
}

/// Of the replica of `us`, by those of `others`, and by gossip of who leads the shard.
pub fn obstacle(us: NodeId, ours: &Holding, others: &[(NodeId, Holding)], led_by: Option<NodeId>) -> Option<Obstacle> {
    if ours.sees_quorum {
        return Some(Obstacle::SeesQuorum);
    }
    if let Some(node) = others.iter().find(|(_, holding)| holding.sees_quorum).map(|(node, _)| *node).or(led_by) {
        return Some(Obstacle::ServedBy(node));
    }
    let rank = |node: NodeId, holding: &Holding| (holding.last, Reverse(node));
    let (node, best) = others.iter().max_by_key(|(node, holding)| rank(*node, holding))?;
    (rank(*node, best) > rank(us, ours)).then_some(Obstacle::Further(*node, best.last))
}

/// The words that confirm a recovery. They fit one replica, with what it has now.
pub fn phrase(shard: ShardId, node: NodeId, last: LogId) -> String {
    let LogId { term, index } = last;
    format!("what {} had after entry {index} of term {term} on node {node} is lost", Named(shard))
}

/// A shard in sentences.
#[derive(Clone, Copy, Debug)]
pub struct Named(pub ShardId);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SYSTEM_SHARD => f.write_str("the system shard"),
            shard => write!(f, "shard {shard}"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SeesQuorum => {
                f.write_str("it has not lost its quorum: this node is connected to a majority of its voters")
            }
            Self::ServedBy(node) => write!(f, "it has not lost its quorum: node {node} sees one"),
            Self::Further(node, LogId { term, index }) => {
                write!(f, "recover it on node {node}, which has entries up to {index} of term {term}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(term: u64, index: u64) -> Holding {
        Holding { shard: ShardId(7), last: LogId { term, index }, incarnation: 0, sees_quorum: false }
    }

    #[test]
    fn only_the_replica_that_has_most_is_recovered_and_of_equal_ones_only_one() {
        let asked = |us: u64, ours: Holding, others: &[(u64, Holding)]| {
            let others: Vec<_> = others.iter().map(|(node, holding)| (NodeId(*node), *holding)).collect();
            obstacle(NodeId(us), &ours, &others, None)
        };
        let further = |node, term, index| Some(Obstacle::Further(NodeId(node), LogId { term, index }));
        assert_eq!(asked(5, holding(3, 10), &[]), None);
        assert_eq!(asked(5, holding(3, 10), &[(1, holding(3, 9)), (2, holding(2, 99))]), None);
        let others = [(1, holding(3, 11)), (2, holding(4, 1)), (9, holding(4, 1))];
        assert_eq!(asked(5, holding(3, 10), &others), further(2, 4, 1), "a later term is more than a longer log");
        assert_eq!(asked(5, holding(3, 10), &[(6, holding(3, 10))]), None);
        assert_eq!(asked(6, holding(3, 10), &[(5, holding(3, 10))]), further(5, 3, 10));
    }

    #[test]
    fn a_shard_that_somebody_serves_is_not_recovered() {
        let us = NodeId(5);
        let serving = Holding { sees_quorum: true, ..holding(1, 1) };
        assert_eq!(obstacle(us, &serving, &[], None), Some(Obstacle::SeesQuorum));
        let others = [(NodeId(1), holding(9, 9)), (NodeId(2), serving)];
        assert_eq!(obstacle(us, &holding(3, 10), &others, None), Some(Obstacle::ServedBy(NodeId(2))));
        assert_eq!(obstacle(us, &holding(3, 10), &[], Some(NodeId(8))), Some(Obstacle::ServedBy(NodeId(8))));
    }

    #[test]
    fn a_phrase_fits_one_shard_one_node_and_one_state() {
        let (node, last) = (NodeId(0xab), LogId { term: 3, index: 120 });
        let words = phrase(ShardId(7), node, last);
        assert_eq!(words, "what shard 7 had after entry 120 of term 3 on node 00000000000000ab is lost");
        let others = [
            phrase(ShardId(8), node, last),
            phrase(SYSTEM_SHARD, node, last),
            phrase(ShardId(7), NodeId(1), last),
            phrase(ShardId(7), node, LogId { index: 121, ..last }),
            phrase(ShardId(7), node, LogId { term: 4, ..last }),
        ];
        assert!(!others.contains(&words));
        // It is quoted in a shell.
        assert!(others.iter().all(|words| words.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ')));
    }
}
