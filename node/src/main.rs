//! The node program with the built-in kinds.

use std::process::ExitCode;

use berth_node::entity::Registry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    berth_node::main_with(|| Ok(Registry::built_in()))
}
