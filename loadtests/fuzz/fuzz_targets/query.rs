//! The query of a request, as every resource reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_gateway::fuzz::query(data));
