//! When everything is mended, every shard comes to where the plan wants it: exactly its planned voters, one of which owns it,
//! and no trace of a move; replicas and owners are even over the nodes that are there.

use std::collections::{BTreeMap, BTreeSet};

use berth_node::cluster::plan::SYSTEM_SHARD;
use berth_shared::ids::{NodeId, ShardId};
use berth_shared::report::{NodeReport, ReplicaReport};

use crate::cluster::SHARDS;
use crate::history::{History, Violation};

const PROMISE: &str = "placed as planned";

pub(super) fn check(history: &History) -> Vec<Violation> {
    unplaced(&history.observed.last)
}

/// What is not as the plan wants it, by the words of all nodes that run.
pub fn unplaced(reports: &[NodeReport]) -> Vec<Violation> {
    let mut wrong = Vec::new();
    let epoch = reports.iter().map(|report| report.plan_epoch).max().unwrap_or(0);
    for behind in reports.iter().filter(|report| report.plan_epoch != epoch) {
        wrong.push(format!("{} follows plan {}, and there is {epoch}", behind.node, behind.plan_epoch));
    }
    (0..SHARDS).map(ShardId).chain([SYSTEM_SHARD]).for_each(|shard| wrong.extend(misplaced(shard, reports)));
    wrong.extend(uneven("replicas", reports, |_| true));
    wrong.extend(uneven("owners", reports, |replica| replica.owns));
    wrong.into_iter().map(|what| Violation::new(PROMISE, what)).collect()
}

fn misplaced(shard: ShardId, reports: &[NodeReport]) -> Vec<String> {
    let of = |report: &'_ NodeReport| report.replicas.iter().find(|replica| replica.shard == shard).cloned();
    let replicas: BTreeMap<NodeId, ReplicaReport> =
        reports.iter().filter_map(|report| Some((report.node, of(report)?))).collect();
    let Some(planned) = replicas.values().find_map(|replica| replica.planned.clone()) else {
        return vec![format!("nobody hosts shard {shard}, or nobody knows who should")];
    };
    let mut wrong = Vec::new();
    let wanted: BTreeSet<NodeId> = planned.replicas.iter().copied().collect();
    let hosts: BTreeSet<NodeId> = replicas.keys().copied().collect();
    if hosts != wanted {
        wrong.push(format!("shard {shard} is on {hosts:?}, and should be on {wanted:?}"));
    }
    let owners: Vec<NodeId> = replicas.iter().filter(|(_, replica)| replica.owns).map(|(node, _)| *node).collect();
    if owners != [planned.owner] {
        wrong.push(format!("shard {shard} is owned by {owners:?}, and should be by {}", planned.owner));
    }
    for (node, replica) in &replicas {
        let voters: BTreeSet<NodeId> = replica.voters.iter().copied().collect();
        if voters != wanted || !replica.learners.is_empty() || replica.is_joint {
            let ReplicaReport { voters, learners, is_joint, .. } = replica;
            wrong.push(format!(
                "shard {shard} by {node} has voters {voters:?}, learners {learners:?}, joint {is_joint}, and should have \
                 {wanted:?}"
            ));
        }
        if let Some(movement) = &replica.movement {
            wrong.push(format!("shard {shard} moves: {movement:?}"));
        }
    }
    wrong
}

/// The system shard is beside all others, and counts for nobody.
fn uneven(what: &str, reports: &[NodeReport], counts: impl Fn(&ReplicaReport) -> bool) -> Option<String> {
    let count = |report: &NodeReport| {
        report.replicas.iter().filter(|replica| replica.shard != SYSTEM_SHARD && counts(replica)).count()
    };
    let counted: BTreeMap<NodeId, usize> = reports.iter().map(|report| (report.node, count(report))).collect();
    let (least, most) = (counted.values().min()?, counted.values().max()?);
    (most - least > 1).then(|| format!("{what} are uneven: {counted:?}"))
}

#[cfg(test)]
mod tests {
    use berth_shared::report::Movement;

    use super::*;
    use crate::check::samples::reports;

    fn wrong(change: impl FnOnce(&mut Vec<NodeReport>)) -> usize {
        let mut reports = reports();
        change(&mut reports);
        unplaced(&reports).len()
    }

    #[test]
    fn what_is_as_planned_is_fine() {
        assert_eq!(unplaced(&reports()), []);
    }

    #[test]
    fn whatever_is_left_of_a_move_is_noticed() {
        assert!(wrong(|reports| reports[1].plan_epoch = 1) == 1);
        assert!(wrong(|reports| drop(reports[1].replicas.remove(2))) >= 1, "a replica is missing");
        assert_eq!(wrong(|reports| reports[1].replicas[4].learners = vec![NodeId(4)]), 1);
        assert_eq!(wrong(|reports| reports[1].replicas[4].is_joint = true), 1);
        assert_eq!(wrong(|reports| reports[1].replicas[4].voters = vec![NodeId(1), NodeId(2)]), 1);
        let movement = || Movement { step: "catch-up".into(), target: NodeId(2), from_micros: 0, matched: 0, last: 9 };
        assert_eq!(wrong(|reports| reports[0].replicas[4].movement = Some(movement())), 1);
        let additional = wrong(|reports| {
            let replica = reports[0].replicas[0].clone();
            let mut other = reports[0].clone();
            other.node = NodeId(9);
            other.replicas = vec![ReplicaReport { owns: false, ..replica }];
            reports.push(other);
        });
        assert!(additional >= 1, "a replica that nobody wants");
    }

    #[test]
    fn a_shard_without_its_owner_or_with_two_is_noticed() {
        assert_eq!(wrong(|reports| reports[0].replicas[4].owns = false), 1);
        assert_eq!(wrong(|reports| reports[1].replicas[4].owns = true), 1);
        assert!(wrong(Vec::clear) >= 1);
    }

    #[test]
    fn uneven_owners_are_noticed() {
        let all = wrong(|reports| {
            for (place, report) in reports.iter_mut().enumerate() {
                for replica in &mut report.replicas {
                    replica.owns = place == 0;
                    replica.planned.as_mut().unwrap().owner = NodeId(1);
                }
            }
        });
        assert_eq!(all, 1);
    }
}
