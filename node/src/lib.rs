//! Berth's node: owns shards of event-sourced entities, journals and replicates them.

pub mod disk;
pub mod journal;
pub mod record;
pub mod store;
