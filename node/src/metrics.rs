//! What a node counts. No entity id is ever a label.

use berth_shared::telemetry::{self, Counter, Histogram, LATENCY_SECONDS, SIZE_COUNTS};

/// Requests of the admin port refused for their credential or its roles, by reason.
pub(crate) const REFUSALS: &str = "berth_node_auth_refusals_total";

#[derive(Clone, Debug)]
pub struct Metrics {
    pub page: telemetry::Metrics,
    pub commands: Counter,
    pub reads: Counter,
    pub batch_records: Histogram,
    /// Steps of moves, by kind and end.
    pub steps: Steps,
    pub hand_off_seconds: Histogram,
}

/// Counts steps of moves.
#[derive(Clone, Debug)]
pub struct Steps(telemetry::Metrics);

impl Steps {
    pub fn increment(&self, step: &str, end: &str) {
        let help = "Steps of moves of shards that this node owned.";
        self.0.counter("berth_node_move_steps_total", help, &[("step", step), ("end", end)]).increment();
    }
}

impl Metrics {
    /// `instance` tells the nodes of one process apart.
    pub fn new(instance: &str) -> Result<Self, telemetry::Error> {
        let page = telemetry::Metrics::new(&[("role", "node"), ("instance", instance)])?;
        Ok(Self {
            commands: page.counter("berth_node_commands_total", "Commands that reached a shard's mailbox.", &[]),
            reads: page.counter("berth_node_reads_total", "Reads of states and histories.", &[]),
            batch_records: page.histogram("berth_node_batch_records", "Records per proposed batch.", &SIZE_COUNTS, &[]),
            steps: Steps(page.clone()),
            hand_off_seconds: page.histogram(
                "berth_node_hand_off_seconds",
                "For how long a shard that was handed off decided nothing.",
                &LATENCY_SECONDS,
                &[],
            ),
            page,
        })
    }
}
