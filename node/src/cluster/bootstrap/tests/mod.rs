//! Bootstrap, by its decisions alone and as whole nodes on a network in memory.

mod deciding;
mod init;
mod lines;
mod machines;
mod running;
