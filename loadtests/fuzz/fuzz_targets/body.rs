//! The nesting of a command's body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_gateway::fuzz::body(data));
