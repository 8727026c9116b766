//! How the two ends of a stream know each other.

use super::tls;

/// How a node proves itself, and asks its peers to.
#[derive(Clone, Debug)]
pub enum Security {
    /// Plain bytes and unknown peers.
    Insecure,
    /// Both sides show a certificate of the same authority.
    Mutual(tls::Tls),
}
