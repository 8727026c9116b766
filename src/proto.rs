//! The generated messages and services, one module a package.
//!
//! They stay at the edges: `log_v1` and `v1` in `server`, `client` and `cli`; `raft_v1` in `raft`.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// The API that the original's clients speak.
pub mod log_v1 {
    tonic::include_proto!("log.v1");
}

/// The native API.
pub mod v1 {
    tonic::include_proto!("ferrolog.v1");
}

/// What nodes say to each other, and what control frames and checkpoints hold.
pub(crate) mod raft_v1 {
    tonic::include_proto!("ferrolog.raft.v1");
}

/// The descriptors that server reflection serves.
pub(crate) const PUBLIC_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
