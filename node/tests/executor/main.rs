//! The executor, the reader and the residents of a shard against a consensus group whose every step the test decides: what
//! is proposed waits until it is applied, refused, lost, or applied later, and leadership and lease come and go.

#[path = "../support/asking.rs"]
mod asking;
#[path = "../support/scripted.rs"]
mod scripted;

mod deleting;
mod holds;
mod limits;
mod listing;
mod owners;
mod past;
mod pipelining;
mod polls;
mod reads;
mod refusals;
mod retries;
mod terms;
mod unknown;
