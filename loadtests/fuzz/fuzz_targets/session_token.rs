//! A session token.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_shared::session::fuzz::token(data));
