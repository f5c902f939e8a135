//! Who belongs to the cluster and which node owns which shard. Today the members are a fixed list in the configuration;
//! the rooms are the ones that gossip and the replicated plan will fill.

pub mod bootstrap;
pub mod identity;
pub mod plan;
