//! Flaws that are planted in the running system, which must be noticed: a simulation that notices nothing proves nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_simulation::client::Style;
use berth_simulation::cluster::{gateway_name, node_name};
use berth_simulation::plan::{Action, Cut, Flaw, How, Plan, Scheduled};
use berth_simulation::simulate_plan;

/// The promises that are seen to be broken.
fn broken(plan: Plan) -> BTreeSet<&'static str> {
    let seed = plan.seed;
    let report = simulate_plan(plan, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    report.violations.iter().map(|violation| violation.promise).collect()
}

#[test]
fn disks_that_forget_what_they_synced_are_noticed() {
    let broken = broken(Plan { flaw: Some(Flaw::DisksForget), ..Plan::new(1) });
    assert!(broken.contains("durable") || broken.contains("processes run"), "{broken:?}");
}

/// The node with the slow clock is cut off from the others, and with it one of two gateways, which hears of no new owner.
#[test]
fn a_lease_that_lasts_too_long_is_noticed() {
    let plan = |seed, flaw| {
        let heal_at = Duration::from_secs(4);
        let mut plan = Plan { flaw, heal_at, gateways: 2, clients: 12, ..Plan::new(seed) };
        // Who waits for what cannot be had soon asks for something else.
        plan.style = Style { deadline: Duration::from_secs(1), reads_percent: 80, reads_strictly: false, ..plan.style };
        (plan.beginnings, plan.actions) = (Vec::new(), Vec::new());
        for from in [node_name(0), gateway_name(0)] {
            for to in [node_name(1), node_name(2)] {
                let cut = Cut { from: from.clone(), to, how: How::Both };
                plan.actions.push(Scheduled { at: Duration::from_secs(1), action: Action::Cut(cut) });
            }
        }
        plan
    };
    // Two owners at once are seen every time; that somebody is told something stale takes a client that asks just then.
    let stale = (1..6).find(|seed| {
        let broken = broken(plan(*seed, Some(Flaw::ClockCrawls)));
        assert!(broken.contains("single writer"), "seed {seed}: {broken:?}");
        broken.contains("linearizable")
    });
    assert!(stale.is_some(), "what the old owner still answers is noticed");
    assert_eq!(broken(plan(1, None)), [].into(), "with a good clock it does not happen");
}
