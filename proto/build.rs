//! Compiles the protos in pure Rust, so that no `protoc` has to be installed, and tells a release its commit.

#![allow(
    clippy::disallowed_methods,
    reason = "a build writes its output where cargo says"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

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
    tell_commit();
    Ok(())
}

/// Tells the program which commit it is built from: what `FERROLOG_COMMIT` says, else what git says. Only a release
/// asks git, since each commit then means to compile anew.
fn tell_commit() {
    println!("cargo:rerun-if-env-changed=FERROLOG_COMMIT");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if std::env::var_os("FERROLOG_COMMIT").is_some() || !is_release {
        return;
    }
    let git = |args: &[&str]| {
        let told = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(told.stdout).ok()?;
        told.status.success().then(|| text.trim().to_owned())
    };
    // It is written at each commit and each checkout. Where there is none, nothing says when to look again.
    let moved =
        git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists());
    if let (Some(moved), Some(commit)) = (moved, git(&["rev-parse", "HEAD"])) {
        println!("cargo:rerun-if-changed={moved}");
        println!("cargo:rustc-env=FERROLOG_COMMIT={commit}");
    }
}
