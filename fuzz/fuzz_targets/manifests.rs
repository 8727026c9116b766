//! Bytes as a snapshot's manifest, as a seal, and as the segments that follow: never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ferrolog::raft::fuzzing::manifests(data));
