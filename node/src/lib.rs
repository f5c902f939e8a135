//! Berth's node, as a library and a program: owns shards of event-sourced entities, decides their commands, journals and
//! applies their events. A program with kinds of its own is a [`main_with`] and its kinds; see `examples/own_kind`.

pub mod admin;
pub mod app;
pub mod cluster;
pub mod config;
pub mod disk;
pub mod entity;
mod fatal;
pub mod journal;
mod metrics;
mod program;
pub mod raft;
pub mod record;
pub mod recovery;
pub mod replica_files;
pub mod report;
pub mod shard;
pub mod store;
pub mod transport;

#[cfg(test)]
#[path = "../../loadtests/fuzz/replay.rs"]
mod replay;

pub use program::main_with;
