//! Berth's node: owns shards of event-sourced entities, journals and replicates them.

pub mod entity;
pub mod record;
