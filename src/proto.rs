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
#[cfg(feature = "server")]
pub(crate) mod raft_v1 {
    tonic::include_proto!("ferrolog.raft.v1");
}

/// The descriptors that server reflection serves.
#[cfg(feature = "server")]
pub(crate) const PUBLIC_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));

#[cfg(all(test, feature = "server"))]
mod tests {
    use prost::Message;

    /// Without it the Go generator refuses a file.
    #[test]
    fn every_public_file_says_where_its_go_code_goes() {
        let set = prost_types::FileDescriptorSet::decode(super::PUBLIC_DESCRIPTORS).unwrap();
        let ours = set.file.iter();
        let ours = ours.filter(|file| !file.package().starts_with("google."));
        let mut seen = 0;
        for file in ours {
            let told = file.options.as_ref().map_or("", |one| one.go_package());
            assert!(told.contains("/v1;"), "{}: {told:?}", file.name());
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}
