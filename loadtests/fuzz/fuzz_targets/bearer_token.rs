//! A token that somebody else has signed, or claims to have.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_shared::auth::fuzz::token(data));
