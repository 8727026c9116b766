//! Bytes as what a leader sends, applied to a state machine over a log: never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ferrolog::raft::fuzzing::raft_frames(data));
