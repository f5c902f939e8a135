//! A fixed set of seeds, run on every test run: all promises hold, and a seed that runs twice is the same run twice.

use berth_simulation::run::Report;
use berth_simulation::{command, simulate};

fn run(seed: u64) -> Report {
    let report = simulate(seed, false).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", command(seed)));
    let violations: Vec<String> = report.violations.iter().map(ToString::to_string).take(10).collect();
    assert!(violations.is_empty(), "seed {seed}:\n{}\n{}", violations.join("\n"), command(seed));
    report
}

/// Both runs are at once, on threads of their own, so that what differs between threads would show.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2] {
        #[expect(clippy::disallowed_methods, reason = "it runs a simulation, and is in none")]
        let other = std::thread::spawn(move || run(seed));
        let (first, second) = (run(seed), other.join().unwrap());
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}: two runs differ\n{}", command(seed));
        assert_eq!(first.history.operations, second.history.operations);
        assert!(first.trace_events > 1000, "a trace of {} events says little", first.trace_events);
    }
}

#[test]
fn other_seeds_are_other_runs() {
    assert_ne!(run(3).trace_hash, run(4).trace_hash);
}

#[test]
fn seeds_100_to_103_keep_all_promises() {
    (100..103).for_each(|seed| drop(run(seed)));
}

#[test]
fn seeds_103_to_106_keep_all_promises() {
    (103..106).for_each(|seed| drop(run(seed)));
}
