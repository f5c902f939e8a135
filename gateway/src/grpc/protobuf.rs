//! The messages and the service of `gateway/proto`, for the gateway and for clients in Rust. The code is generated and
//! committed; the test `the_generated_code_is_what_the_protobuf_compiles_to` holds it true and writes it anew.

#![allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code has a style of its own"
)]

/// The same as descriptors, which reflection tells of.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/berth.v1.bin");

include!("generated/berth.v1.rs");
