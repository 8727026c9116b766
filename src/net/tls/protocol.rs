//! What a stream is opened for, bound into its handshake (ALPN).

use super::TlsError;
use crate::net::Kind;

pub(super) fn alpn(kind: Kind) -> &'static str {
    match kind {
        Kind::Grpc => "h2",
        #[cfg(feature = "server")]
        Kind::Raft => "ferrolog-raft/1",
        #[cfg(feature = "server")]
        Kind::Http => "http/1.1",
    }
}

/// A peer that offers no protocol at all passes the handshake, so the outcome is checked here.
pub(super) fn check_protocol(kind: Kind, agreed: Option<&[u8]>) -> Result<(), TlsError> {
    let wanted = alpn(kind);
    if agreed == Some(wanted.as_bytes()) {
        return Ok(());
    }
    let got = agreed.map(|name| String::from_utf8_lossy(name).into_owned());
    Err(TlsError::Protocol { wanted, got })
}
