//! A call of gRPC: its messages and its metadata.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_gateway::grpc::fuzz::message(data));
