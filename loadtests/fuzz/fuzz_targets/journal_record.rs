//! Rows of the journal, and the batches of records in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_node::journal::fuzz::record(data));
