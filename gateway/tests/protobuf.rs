//! Holds the generated code of gRPC true to `gateway/proto`. After a change there:
//! `BERTH_WRITE_GOLDEN=1 cargo test -p berth-gateway --test protobuf`

#![expect(clippy::disallowed_methods, reason = "these are the files of the repository, not those of a node")]

use std::path::Path;

use protox::prost::Message;

/// Where the protobuf is.
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
/// Where what it compiles to is.
const GENERATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/grpc/generated");

fn compiler(with_comments: bool) -> protox::Compiler {
    let mut compiler = protox::Compiler::new([PROTO]).unwrap();
    compiler.include_imports(true).include_source_info(with_comments);
    compiler.open_file("berth/v1/entities.proto").unwrap();
    compiler
}

#[test]
fn the_generated_code_is_what_the_protobuf_compiles_to() {
    let directory = tempfile::tempdir().unwrap();
    let build = tonic_prost_build::configure().build_transport(false).out_dir(directory.path());
    build.compile_fds(compiler(true).file_descriptor_set()).unwrap();
    let code = std::fs::read(directory.path().join("berth.v1.rs")).unwrap();
    // Comments are for those who read the file itself.
    let descriptors = compiler(false).file_descriptor_set().encode_to_vec();
    for (name, compiled) in [("berth.v1.rs", code), ("berth.v1.bin", descriptors)] {
        let path = Path::new(GENERATED).join(name);
        if std::env::var_os("BERTH_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &compiled).unwrap();
        }
        assert!(std::fs::read(&path).unwrap_or_default() == compiled, "{name} is not what gateway/proto compiles to");
    }
}
