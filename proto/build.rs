//! Compiles the protos in pure Rust, so that no `protoc` has to be installed.

#![allow(
    clippy::disallowed_methods,
    reason = "a build writes its output where cargo says"
)]

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let files = [
        "log/v1/log.proto",
        "ferrolog/v1/cluster.proto",
        "ferrolog/v1/log.proto",
        "ferrolog/raft/v1/raft.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files.map(|file| root.join(file)), [&root])?;

    // Server reflection shows what clients may call: not the raft service.
    let mut public = descriptors.clone();
    public
        .file
        .retain(|file| file.package() != "ferrolog.raft.v1");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("public.bin"),
        prost::Message::encode_to_vec(&public),
    )?;

    // A program that only calls needs nothing that answers.
    tonic_prost_build::configure()
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
