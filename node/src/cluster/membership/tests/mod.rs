//! Nodes that gossip in one process: by the library over the network in memory, and by its twin.

mod library;
mod machines;
mod refusing;
mod twin;
