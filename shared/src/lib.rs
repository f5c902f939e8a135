//! What both sides must agree on: names and hashes of entities, the shard map, the peer protocol, problem codes, session
//! tokens, configuration and telemetry, and the seams through which all time, randomness, tasks and sockets pass.
//! It knows no HTTP framework, no storage engine and no consensus library.

pub mod auth;
pub mod cause;
pub mod cluster_view;
pub mod config;
pub mod entity_places;
pub mod http_port;
pub mod ids;
pub mod key;
pub mod message;
pub mod peer;
pub mod planted;
pub mod problem;
pub mod recovery_view;
pub mod report;
pub mod seam;
pub mod seeds;
pub mod session;
pub mod shard_map;
pub mod shard_set;
mod shown;
pub mod telemetry;
pub mod tls;
pub mod watched;

#[cfg(test)]
#[path = "../../loadtests/fuzz/replay.rs"]
mod replay;
