//! Berth's gateway: takes HTTP requests, routes each to the node that owns its entity, and answers. It is stateless: the
//! shard map is learnt from nodes. A request passes the rooms in this order:
//!
//! `http_port` of the shared crate (connections) → `edge` (browsers, compression) → `api` (paths, headers, who may, answers), or
//! `grpc` in the place of both → `admission` (bounds) → `forward` (attempts and their verdicts) → `router` (key → shard → owner)
//! → `nodes` (peer connections).

mod admin;
mod admission;
mod api;
mod app;
mod config;
mod edge;
mod forward;
pub mod grpc;
mod metrics;
mod nodes;
mod readiness;
mod router;

#[cfg(test)]
#[path = "../../loadtests/fuzz/replay.rs"]
mod replay;

pub use app::{Error, Handle, start};
pub use config::Config;

#[cfg(any(test, fuzzing))]
pub use api::fuzz;
