//! Flaws that are planted in the running system, which must be noticed: a simulation that notices nothing proves nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_simulation::client::Style;
use berth_simulation::cluster::{NODES, gateway_name, node_name};
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
    let broken = broken(Plan { flaw: Some(Flaw::DisksForget), ..Plan::new(5) });
    assert!(broken.contains("durable") || broken.contains("processes run"), "{broken:?}");
}

/// The node with the slow clock is cut off from the others, and with it one of two gateways, which hears of no new owner.
#[test]
fn a_lease_that_lasts_too_long_is_noticed() {
    let plan = |seed, flaw| {
        let (heal_at, replace_after) = (Duration::from_secs(4), Duration::from_secs(30));
        let mut plan = Plan { flaw, heal_at, replace_after, gateways: 2, clients: 12, ..Plan::new(seed) };
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

/// One of four nodes goes: its groups still have it then. Of two that go, nobody can take over what only they had.
#[test]
fn nodes_that_leave_before_others_have_their_shards_are_noticed() {
    let plan = |leaving: &[usize], flaw| {
        let mut plan = Plan { flaw, ..Plan::new(1) };
        plan.machines.truncate(NODES);
        plan.machines.push(plan.machines[0]);
        (plan.beginnings, plan.actions) = (Vec::new(), Vec::new());
        (plan.replace_after, plan.heal_at) = (Duration::from_secs(3), Duration::from_secs(10));
        let join = Action::Join { host: node_name(NODES) };
        plan.actions.push(Scheduled { at: Duration::from_millis(500), action: join });
        for number in leaving {
            let leave = Action::Leave { host: node_name(*number) };
            plan.actions.push(Scheduled { at: Duration::from_secs(7), action: leave });
        }
        plan
    };
    assert_eq!(broken(plan(&[1], None)), [].into(), "it waits, unless something is wrong");
    assert_eq!(broken(plan(&[1], Some(Flaw::LeavesAtOnce))), ["drained"].into());
    // Whoever asks for what is lost gets no answer.
    let broken = broken(plan(&[1, 2], Some(Flaw::LeavesAtOnce)));
    assert!(
        ["comes to rest", "liveness", "processes run"].iter().any(|promise| broken.contains(promise)),
        "{broken:?}"
    );
}
