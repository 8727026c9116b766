//! Bytes as the files of a log: it opens or says why not, and never panics.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ferrolog::log::fuzzing::recovery(data));
