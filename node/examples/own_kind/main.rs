//! A node with a kind of its own, `seat`, next to the built-in ones.

#[expect(unreachable_pub, reason = "a kind reads the same here as in a library of kinds")]
mod seat;

use berth_node::entity::Registry;
use seat::Seat;

fn main() -> anyhow::Result<()> {
    let kinds = Registry::built_in().add(Seat { hold_minutes: 10 })?;
    println!("{}", String::from_utf8_lossy(&kinds.descriptions()));
    Ok(())
}
