//! What the metrics page shows of a node's parts, read when the page is asked for.

use std::sync::Arc;

use crate::cluster::reconcile::Moves;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::shard::residency::Residency;
use crate::store::Store;
use crate::transport::hosting::Hosting;
use crate::transport::owners::Owners;

pub(super) fn files(metrics: &Metrics, journal: &Journal, store: &Store) {
    let page = &metrics.page;
    let of = journal.clone();
    page.observed_gauge("berth_node_journal_live_bytes", "Bytes of live journal rows.", &[], move || {
        of.live_bytes() as f64
    });
    let of = journal.clone();
    page.observed_gauge("berth_node_journal_file_bytes", "Size of the journal's file.", &[], move || {
        of.file_bytes() as f64
    });
    let of = store.clone();
    let help = "Size of the store's file.";
    page.observed_gauge("berth_node_store_file_bytes", help, &[], move || of.statistics().file_bytes as f64);
    let of = store.clone();
    let help = "Bytes of applied changes that wait to be written to the store.";
    page.observed_gauge("berth_node_store_queued_bytes", help, &[], move || of.statistics().queued_bytes as f64);
}

pub(super) fn shards(metrics: &Metrics, owners: &Arc<Owners>, hosting: &Arc<Hosting>) {
    let page = &metrics.page;
    let of = owners.clone();
    page.observed_gauge("berth_node_owned_shards", "Shards this node owns.", &[], move || of.owned().len() as f64);
    let of = hosting.clone();
    let help = "Shards of which this node hosts a replica.";
    page.observed_gauge("berth_node_hosted_shards", help, &[], move || of.all().len() as f64);
}

pub(super) fn moves(metrics: &Metrics, moves: &Arc<Moves>) {
    let of = moves.clone();
    let help = "Shards that this node owns and that are on their way to where the plan wants them.";
    metrics.page.observed_gauge("berth_node_moving_shards", help, &[], move || of.len() as f64);
}

pub(super) fn residency(metrics: &Metrics, residency: &Arc<Residency>) {
    let page = &metrics.page;
    let of = residency.clone();
    let help = "Estimated bytes of entities in memory.";
    page.observed_gauge("berth_node_resident_bytes", help, &[], move || of.bytes() as f64);
    let of = residency.clone();
    let help = "Entities dropped from memory since the start.";
    page.observed_gauge("berth_node_passivated_entities", help, &[], move || of.passivated() as f64);
}
