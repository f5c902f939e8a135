//! What many runs came to, as figures for a report: `loadtests/chaos/report.py` takes them in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};

use crate::run::Report;

/// Of all runs so far.
#[derive(Debug, Default)]
pub struct Summary {
    seeds: u64,
    /// Seeds whose run broke a promise, or had no end.
    failed: Vec<u64>,
    simulated: Duration,
    requests: usize,
    successes: usize,
    events: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Summary {
    /// Takes in what came of a seed.
    pub fn add(&mut self, seed: u64, report: &Result<Report, String>) {
        self.seeds += 1;
        let Ok(report) = report else {
            self.failed.push(seed);
            return;
        };
        if !report.violations.is_empty() {
            self.failed.push(seed);
        }
        self.simulated += report.simulated;
        self.requests += report.history.operations.len();
        self.successes += report.successes();
        self.events += report.trace_events;
        for (fault, count) in &report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    /// Seeds that failed.
    pub fn failed(&self) -> &[u64] {
        &self.failed
    }

    /// All of it, after `elapsed` on the clock of who waited for it, `jobs` runs at a time.
    pub fn json(&self, seeds: &Range<u64>, elapsed: Duration, jobs: usize) -> Value {
        let seconds = elapsed.as_secs_f64();
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        json!({
            "seeds": format!("{}..{}", seeds.start, seeds.end),
            "runs": self.seeds,
            "failed": self.failed.len(),
            "failedSeeds": self.failed,
            "simulatedHours": rounded(self.simulated.as_secs_f64() / 3600.0),
            "requestsChecked": self.requests,
            "requestsAnswered": self.successes,
            "eventsTraced": self.events,
            "faults": self.faults,
            "runsAtOnce": jobs,
            "seconds": rounded(seconds),
            "secondsPerSeed": rounded(seconds / (self.seeds.max(1) as f64)),
        })
    }
}
