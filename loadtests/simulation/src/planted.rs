//! Runs seeds with a planted bug until one of the checks notices it, and so shows that they would notice it in the programs.

use std::ops::Range;
use std::time::Duration;

use berth_shared::planted::Bug;

use crate::client::Style;
use crate::cluster::{NODES, gateway_name, node_name};
use crate::plan::{Action, Cut, How, Plan, Scheduled};
use crate::simulate_plan;

/// How a bug was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    pub bug: Bug,
    pub seed: u64,
    /// How many seeds were run until then.
    pub seeds: u64,
    /// The promise that was seen to be broken first.
    pub promise: String,
    pub what: String,
}

/// What a seed stands for where it is to show `bug`: the same as otherwise, unless no seed comes to where the bug is.
pub fn plan(bug: Bug, seed: u64) -> Plan {
    let mut plan = Plan::new(seed);
    plan.bug = Some(bug);
    match bug {
        Bug::TwoClusters => plan.only_begins = true,
        Bug::SkipCatchUp => crowd(&mut plan),
        Bug::ReleaseRefusalEarly | Bug::DecideOnLeftovers => contend(&mut plan),
        _ => {}
    }
    plan
}

/// Whether [`plan`] leads to the bug on purpose.
pub fn is_directed(bug: Bug) -> bool {
    Plan { bug: None, ..plan(bug, 1) } != Plan::new(1)
}

/// Runs `seeds` one after the other until the bug is noticed.
pub fn search(bug: Bug, mut seeds: Range<u64>) -> Option<Caught> {
    let first = seeds.start;
    seeds.find_map(|seed| {
        let (promise, what) = broken(plan(bug, seed))?;
        Some(Caught { bug, seed, seeds: seed + 1 - first, promise, what })
    })
}

/// What is wrong with the same run without the bug; nothing, or it was not the bug that was noticed.
pub fn without(caught: &Caught) -> Option<(String, String)> {
    broken(Plan { bug: None, ..plan(caught.bug, caught.seed) })
}

/// The first promise that a run breaks, and how.
fn broken(plan: Plan) -> Option<(String, String)> {
    match simulate_plan(plan, false) {
        Ok(report) => {
            let first = report.violations.into_iter().next()?;
            Some((first.promise.to_owned(), first.what))
        }
        Err(what) => Some(("processes run".to_owned(), what)),
    }
}

/// So much is written that a node which comes is far behind, and nothing breaks.
fn crowd(plan: &mut Plan) {
    plan.clients = 12;
    let deadline = plan.style.deadline;
    plan.style = Style { pause: Duration::from_millis(2), deadline, keys_percent: 20, ..Style::default() };
    plan.machines.truncate(NODES);
    plan.machines.push(plan.machines[0]);
    (plan.beginnings, plan.actions) = (Vec::new(), Vec::new());
    plan.heal_at = Duration::from_secs(8);
    let join = Action::Join { host: node_name(NODES) };
    plan.actions.push(Scheduled { at: Duration::from_secs(5), action: join });
}

/// All write to the same few entities, each on the version that it knows, while one node after the other is cut off from the
/// others together with a gateway, and gets back what it owned.
fn contend(plan: &mut Plan) {
    (plan.gateways, plan.clients, plan.heal_at) = (2, 10, Duration::from_secs(12));
    plan.style = Style {
        pause: Duration::from_millis(4),
        deadline: Duration::from_secs(1),
        reads_percent: 10,
        conditions_percent: 90,
        ..Style::default()
    };
    plan.machines.truncate(NODES);
    (plan.beginnings, plan.actions) = (Vec::new(), Vec::new());
    for turn in 0..5 {
        let (node, gateway) = (turn % NODES, gateway_name(turn % 2));
        let at = Duration::from_millis(500 + 2300 * turn as u64);
        for from in [node_name(node), gateway] {
            for to in (0..NODES).filter(|other| *other != node).map(node_name) {
                let cut = Cut { from: from.clone(), to, how: How::Both };
                plan.actions.push(Scheduled { at, action: Action::Cut(cut.clone()) });
                plan.actions.push(Scheduled { at: at + Duration::from_millis(1300), action: Action::Mend(cut) });
            }
        }
    }
    plan.actions.sort_by_key(|scheduled| scheduled.at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_alone_makes_no_other_run_of_a_seed() {
        let undirected: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| !is_directed(*bug)).collect();
        assert!(undirected.len() >= 12, "{undirected:?}");
    }
}
