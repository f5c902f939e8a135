//! Groups of several members: nodes in one process, over connections in memory that the test cuts and mends, each with a
//! simulated disk, a journal, a store, one shard and its executor. Time is paused and moves when nothing else is left to do.

#[path = "../support/asking.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod asking;
mod cluster;
mod links;

mod catching_up;
mod deleting;
mod elections;
mod half_done;
mod hand_offs;
mod leases;
mod members;
mod reading;
mod recovering;
mod replicating;
mod restarts;
mod serving;
mod transfers;
mod writing;
