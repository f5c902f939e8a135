//! Where requests from gateways and other nodes arrive and find their shard, and the way to other nodes.

mod answering;
pub mod backlog;
mod from_nodes;
pub mod hosting;
mod listing;
pub mod owners;
mod past;
pub mod peers;
pub mod service;
pub mod wire;
