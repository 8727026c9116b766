//! Why certificates cannot be made.

use rustls::pki_types::{InvalidDnsNameError, pem};
use x509_parser::error::X509Error;

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A name that no node and no client may have.
    #[error(
        "name {name:?} is not 1 to 63 of the characters a-z, 0-9, '-' and '.', the first a letter or digit"
    )]
    Name {
        /// The name that was given.
        name: String,
    },
    /// A host that nobody can dial.
    #[error("host {host:?} is neither a DNS name nor an IP address")]
    Host {
        /// The host that was given.
        host: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// A host whose characters a certificate cannot hold.
    #[error("host {host:?} cannot be written into a certificate")]
    HostText {
        /// The host that was given.
        host: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// A certificate is no PEM file.
    #[error("it is not a PEM file with a CERTIFICATE section")]
    Pem {
        /// What the library said.
        source: pem::Error,
    },
    /// It is PEM, and no certificate.
    #[error("it has a CERTIFICATE section that cannot be parsed")]
    Parse {
        /// What the library said.
        source: x509_parser::nom::Err<X509Error>,
    },
    /// A certificate holds what a new one would not.
    #[error(
        "the certificate of {subject} was not made by `ferrolog certs`, and a new one would lose part of it: renew it \
         where it was made"
    )]
    NotOurs {
        /// Whose it is.
        subject: String,
    },
    /// The private key is another one's.
    #[error(
        "the key does not belong to the certificate; bring the one that does, or make a new one with --new-keys"
    )]
    OtherKey,
    /// The certificate is a node's or a client's.
    #[error("the certificate given as CA may not sign others; give the one made as authority")]
    NotAnAuthority,
    /// Certificate and key are of two authorities.
    #[error(
        "the CA key does not belong to the CA certificate; give the two files that were made together"
    )]
    KeyMismatch,
    /// The library failed.
    #[error("{action}")]
    Make {
        /// What was to be done.
        action: &'static str,
        /// What the library said.
        source: rcgen::Error,
    },
}
