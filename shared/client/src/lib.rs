//! A client of Berth. It runs commands at entities, reads them, and follows their histories, through any of a cluster's
//! gateways. It is a client of the public HTTP contract and knows nothing of what lies behind it.
//!
//! ```no_run
//! # async fn run() -> Result<(), berth_client::Error> {
//! use serde_json::json;
//!
//! let client = berth_client::Client::new("http://localhost:8080")?;
//! let visits = client.entity("counter", "visits");
//!
//! let outcome = visits.execute("add", json!({ "by": 2 })).await?;
//! println!("version {}, state {:?}", outcome.version, outcome.state);
//!
//! let now = visits.get().await?;
//! visits.execute("reset", ()).if_version(now.version).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it does for you
//!
//! - **Retries, each with one effect.** A command carries an idempotency key, which the client makes unless
//!   [`idempotency_key`](Execute::idempotency_key) names one. So it is sent again, after pauses that grow and are drawn by
//!   chance, and not before the time that a `Retry-After` names, until there is an outcome or the
//!   [`deadline`](Builder::deadline) passes.
//! - **Failover.** With several [`address`](Builder::address)es, it goes to the next one when a gateway does not answer.
//! - **An answer that can be trusted.** [`Error::UnknownOutcome`] is the only error after which a command may have been
//!   applied, and it has the key to try again with. After every other one, nothing was written.
//! - **Sessions.** Every answer tells how much of the cluster's history it includes, and every later request of the same
//!   session passes that on: a read at any replica ([`Consistency::Session`]) includes what the session has written and read.
//!   See [`Client::session`].
//! - **Live histories.** [`Entity::watch`] goes on after whatever ended the stream, without a gap and without doubles.
//!
//! It needs a tokio runtime with I/O and time. It logs nothing.

mod address;
mod answer;
mod builder;
mod call;
mod client;
mod command;
mod error;
mod problem;
mod read;
mod retry;
mod session;
mod sse;
mod time;
mod transport;
mod watch;

#[cfg(test)]
mod tests;

pub use answer::{Deleted, Event, History, Listed, Listing, Outcome, State};
pub use builder::Builder;
pub use client::{Client, Entity};
pub use command::{Delete, Execute};
pub use error::Error;
pub use problem::{Code, Problem, Violation};
pub use read::{Consistency, Get, List, ReadHistory};
pub use watch::Watch;
