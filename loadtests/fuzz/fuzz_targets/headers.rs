//! The headers of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_gateway::fuzz::headers(data));
