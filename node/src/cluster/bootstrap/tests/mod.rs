//! Bootstrap, by its decisions alone and as whole nodes on a network in memory.
//!
//! These tests have been seen to fail where a rule was taken out: an acceptance that is not written to disk, or told to others
//! before it is; an acceptance taken back for another record; joining when a majority has accepted instead of all.

mod deciding;
mod init;
mod lines;
mod machines;
mod names;
mod running;
