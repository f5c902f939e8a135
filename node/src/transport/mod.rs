//! Where requests from gateways arrive at a node and find their shard.

pub mod backlog;
pub mod hosting;
pub mod owners;
pub mod service;
pub mod wire;
