//! What a node counts. No entity id is ever a label.

use berth_shared::telemetry::{self, Counter, Histogram, SIZE_COUNTS};

#[derive(Clone, Debug)]
pub struct Metrics {
    pub page: telemetry::Metrics,
    pub commands: Counter,
    pub reads: Counter,
    pub batch_records: Histogram,
}

impl Metrics {
    /// `instance` tells the nodes of one process apart.
    pub fn new(instance: &str) -> Result<Self, telemetry::Error> {
        let page = telemetry::Metrics::new(&[("role", "node"), ("instance", instance)])?;
        Ok(Self {
            commands: page.counter("berth_node_commands_total", "Commands that reached a shard's mailbox.", &[]),
            reads: page.counter("berth_node_reads_total", "Reads of states and histories.", &[]),
            batch_records: page.histogram("berth_node_batch_records", "Records per proposed batch.", &SIZE_COUNTS, &[]),
            page,
        })
    }
}
