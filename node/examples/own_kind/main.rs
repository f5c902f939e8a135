//! A node with a kind of its own, `seat`, next to the built-in ones.
//!
//! `cargo run -p berth-node --example own_kind` starts it like `berth-node`, with the same configuration. A gateway needs
//! to be told nothing of the kind: it asks the nodes.

#[expect(unreachable_pub, reason = "a kind reads the same here as in a library of kinds")]
mod seat;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use berth_node::entity::Registry;
use berth_node::entity::registry::Error;
use seat::Seat;

fn main() -> ExitCode {
    berth_node::main_with(kinds)
}

fn kinds() -> Result<Registry, Error> {
    Registry::built_in().add(Seat { hold_minutes: 10 })
}
