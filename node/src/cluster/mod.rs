//! Who belongs to the cluster and which node hosts which shard. A node's [`identity`] stays with its data directory;
//! [`bootstrap`] makes fresh nodes one cluster, once; [`membership`] follows by gossip who is there; [`plan`] spreads shards
//! over members; [`system`] keeps the committed plan in a shard of its own, [`planner`] makes the next one when members change,
//! and [`plans`] has the newest known everywhere. Safety rests on what is persisted here and on consensus, never on gossip or on
//! who answers quickly.

pub mod bootstrap;
pub mod identity;
pub mod membership;
pub mod plan;
pub mod planner;
pub mod plans;
pub mod reconcile;
pub mod system;
mod written;
