//! The path of a request: kinds, ids and commands.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_gateway::fuzz::path(data));
