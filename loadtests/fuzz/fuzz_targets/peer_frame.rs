//! What one pod says to another: greeting, frames, and the messages of gateways.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_shared::peer::fuzz::connection(data));
