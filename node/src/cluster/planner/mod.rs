//! Makes the next plan when members come, leave or die. Every node that hosts the system shard runs it, and it works on the one
//! that leads the group: [`decide`] says from what is seen who the candidates are and whether it is time, [`run`] computes the
//! plan and has the system shard adopt it. What is seen is gossip and connections, hints both: a plan made of wrong ones moves
//! shards without need, and every move is a safe one.

pub mod decide;
mod run;
#[cfg(test)]
mod tests;

pub use run::{Connected, Planner};
