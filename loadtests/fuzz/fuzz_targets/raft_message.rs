//! What nodes ask of each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_node::raft::fuzz::message(data));
