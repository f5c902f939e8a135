//! The cursor of a listing.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_gateway::fuzz::cursor(data));
