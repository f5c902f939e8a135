//! Flaws that are planted in the running system, each of which some of a few seeds must find: a simulation that notices
//! nothing proves nothing.

use berth_simulation::plan::{Flaw, Plan};
use berth_simulation::simulate_plan;

/// The promises that are seen to be broken with `flaw` in any of the seeds.
fn broken_by(flaw: Flaw, seeds: std::ops::Range<u64>) -> Vec<&'static str> {
    let mut broken = Vec::new();
    for seed in seeds {
        let plan = Plan { flaw: Some(flaw), ..Plan::new(seed) };
        let report = simulate_plan(plan, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        broken.extend(report.violations.iter().map(|violation| violation.promise));
    }
    broken
}

#[test]
fn disks_that_forget_what_they_synced_are_noticed() {
    let broken = broken_by(Flaw::DisksForget, 1..4);
    assert!(broken.contains(&"durable") || broken.contains(&"processes run"), "{broken:?}");
}
