//! Snapshots from other nodes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_node::store::fuzz::chunks(data));
