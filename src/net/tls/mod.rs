//! Mutual TLS: who the peer is, proven before the first byte of either protocol.
//!
//! TLS 1.3 only, both sides verified by the same authority, and each connection afresh: no resumption, no
//! early data. The protocol is bound into the handshake (ALPN), so a stream opened for one cannot be spliced
//! onto the other. What an identity may do is left to the caller, except that raft is for nodes alone.

#[cfg(feature = "server")]
mod dialled;
#[cfg(feature = "server")]
mod node;
mod pem_file;
mod protocol;

#[cfg(feature = "server")]
pub use node::{Accepted, Chain};

#[cfg(feature = "server")]
use dialled::Dialled;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, InvalidDnsNameError, PrivateKeyDer, ServerName,
    UnixTime,
};
#[cfg(feature = "server")]
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::{BoxIo, Io, Kind};
use crate::name::{BadName, Shown};
use pem_file::{FILE_BYTES_MAX, Pem, Secrecy};
use protocol::{alpn, check_protocol};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {file}; check the path, and that this user may read it")]
    Read { file: String, source: io::Error },
    #[error("{file} is larger than {FILE_BYTES_MAX} bytes, so it is no PEM file; check the path")]
    TooLarge { file: String },
    #[error("key file {path} has mode {mode:03o}, so others than this user and its groups may read or change it; run: chmod 600 {path}", path = .path.display())]
    OpenKey { path: PathBuf, mode: u32 },
    #[error(
        "{file} is not PEM, or lacks the section it should hold; make it anew with `ferrolog certs`"
    )]
    Pem { file: String, source: pem::Error },
    #[error("{file} holds no CERTIFICATE section; make it anew with `ferrolog certs`")]
    NoCertificate { file: String },
    #[error("{file} holds no X509 CRL section; give a list as the authority publishes it, in PEM")]
    NoList { file: String },
    #[cfg(feature = "server")]
    #[error("{file} holds a certificate that cannot be parsed")]
    Certificate {
        file: String,
        source: x509_parser::nom::Err<x509_parser::error::X509Error>,
    },
    #[error("{file} cannot serve as a trusted authority")]
    Authority { file: String, source: rustls::Error },
    #[error("no client can be verified with {file}")]
    Verifier {
        file: String,
        source: VerifierBuilderError,
    },
    #[error(
        "{file} would be refused by every peer, since it {why}; give a certificate signed by {ca} and not expired"
    )]
    OwnCertificate {
        file: String,
        ca: String,
        why: String,
    },
    #[error("{file} and {key} cannot be used together; give the two files that were made together")]
    KeyPair {
        file: String,
        key: String,
        source: rustls::Error,
    },
    #[error("address {addr:?} has no host that a certificate could name")]
    Address {
        addr: String,
        source: InvalidDnsNameError,
    },
    #[error("TLS handshake")]
    Handshake { source: io::Error },
    #[error("the other end speaks plaintext, and was spoken to in TLS")]
    PlainPeer,
    #[error("the certificate of the other end {why}")]
    Untrusted { why: &'static str },
    #[error("the peer showed no certificate")]
    NoPeerCertificate,
    #[error("the peer did not agree to the protocol {wanted}, but to {}", got.as_deref().unwrap_or("none"))]
    Protocol {
        wanted: &'static str,
        got: Option<String>,
    },
    #[error(
        "the certificate of {name:?} is a client certificate, which cannot open a raft stream; \
         use a node certificate (made with `ferrolog certs`)",
        name = .common_name.as_deref().unwrap_or("")
    )]
    NotANode { common_name: Option<String> },
    #[error("the common name {} of a certificate is refused: {source}", Shown(.common_name))]
    CommonName {
        common_name: String,
        source: BadName,
    },
    #[error(
        "the certificate of node {node_name} is not for both serving and calling (serverAuth and \
         clientAuth), so it cannot open a raft stream; make it anew with `ferrolog certs`"
    )]
    Uses { node_name: String },
}

/// The PEM files a node or a client proves itself with, and who is believed no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Lists of revoked certificates of the authorities.
    pub crl: Option<PathBuf>,
}

/// One certificate, ready to dial with, and where there is a server, to accept with. Clones share what is taken up
/// later.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    loaded: RwLock<Arc<Loaded>>,
    /// Tells of each time that something was taken up.
    taken_up: watch::Sender<()>,
}

/// What counts for handshakes from now on.
struct Loaded {
    /// To dial with.
    grpc: Arc<ClientConfig>,
    #[cfg(feature = "server")]
    node: node::Side,
}

/// What the files hold.
struct Material<'a> {
    ca: &'a Pem,
    cert: &'a Pem,
    key: &'a Pem,
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    #[cfg(feature = "server")]
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Why a handshake failed that this side began.
fn handshake_failed(source: io::Error) -> TlsError {
    use rustls::{Error, InvalidMessage};
    let verdict = source.get_ref().and_then(|error| error.downcast_ref());
    match verdict {
        // What came first was no record of TLS.
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => TlsError::PlainPeer,
        Some(error) => match fault_of_certificate(error) {
            Some(why) => TlsError::Untrusted { why },
            None => TlsError::Handshake { source },
        },
        None => TlsError::Handshake { source },
    }
}

/// What is wrong with a certificate, in words, for the faults that people make.
fn fault_of_certificate(error: &rustls::Error) -> Option<&'static str> {
    use rustls::CertificateError as Fault;
    let rustls::Error::InvalidCertificate(fault) = error else {
        return None;
    };
    Some(match fault {
        Fault::Expired | Fault::ExpiredContext { .. } => "has expired",
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            "is not valid yet, by the clock of this machine"
        }
        // Two authorities of one name differ in their keys.
        Fault::UnknownIssuer | Fault::BadSignature => "is of another authority",
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            "does not name the host that was dialled"
        }
        Fault::Revoked => "was revoked",
        Fault::InvalidPurpose | Fault::InvalidPurposeContext { .. } => "is not made for this use",
        _ => return None,
    })
}

impl Io for tokio_rustls::client::TlsStream<BoxIo> {
    fn move_here(&mut self) -> io::Result<()> {
        self.get_mut().0.move_here()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the three files. Errors name the file, what is wrong with it and what to do.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let ca = Pem::read("CA certificate", &files.ca, Secrecy::Public)?;
        let cert = Pem::read("certificate", &files.cert, Secrecy::Public)?;
        let key = Pem::read("key", &files.key, Secrecy::OwnerOnly)?;
        let read = |path| Pem::read("list of revoked certificates", path, Secrecy::Public);
        let crl = files.crl.as_deref().map(read).transpose()?;
        Self::build(&ca, &cert, &key, crl.as_ref())
    }

    /// Takes up what another one holds, for this one and all its clones: handshakes from now on are made with it.
    pub fn take_up(&self, other: &Self) {
        let loaded = other.now();
        *self.0.loaded.write() = loaded;
        self.0.taken_up.send_replace(());
    }

    fn now(&self) -> Arc<Loaded> {
        self.0.loaded.read().clone()
    }

    /// Reads the three files from memory. `ca` may hold several authorities, `cert` a chain that begins with our own.
    pub fn from_pem(ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let pem = |file: &str, bytes: &[u8]| Pem {
            file: file.to_owned(),
            bytes: bytes.to_vec(),
        };
        Self::build(
            &pem("the CA certificate", ca),
            &pem("the certificate", cert),
            &pem("the key", key),
            None,
        )
    }

    /// The dialling side. The peer must be named by the host part of `addr`.
    ///
    /// In TLS 1.3 this side is done first: a peer that refuses our certificate says so at the first read.
    pub async fn connect(&self, kind: Kind, addr: &str, io: BoxIo) -> Result<BoxIo, TlsError> {
        let name =
            ServerName::try_from(host_of(addr).to_owned()).map_err(|source| TlsError::Address {
                addr: addr.to_owned(),
                source,
            })?;
        let now = self.now();
        let config = match kind {
            Kind::Grpc => &now.grpc,
            #[cfg(feature = "server")]
            Kind::Raft => &now.node.dialling,
            #[cfg(feature = "server")]
            Kind::Http => &now.node.asking,
        };
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, io)
            .await
            .map_err(handshake_failed)?;
        let (_, session) = stream.get_ref();
        check_protocol(kind, session.alpn_protocol())?;
        #[cfg(feature = "server")]
        if kind == Kind::Raft {
            let chain = session.peer_certificates();
            node::check_peer(kind, chain)?;
            let chain = chain.unwrap_or_default().to_vec();
            return Ok(Box::new(Dialled::new(stream, self.clone(), chain)));
        }
        Ok(Box::new(stream))
    }

    fn build(ca: &Pem, cert: &Pem, key: &Pem, crl: Option<&Pem>) -> Result<Self, TlsError> {
        let material = Material::of(ca, cert, key, crl)?;
        let loaded = Loaded {
            grpc: Arc::new(material.client_config(Kind::Grpc)?),
            #[cfg(feature = "server")]
            node: node::Side::of(&material)?,
        };
        Ok(Self(Arc::new(Shared {
            loaded: RwLock::new(Arc::new(loaded)),
            taken_up: watch::Sender::new(()),
        })))
    }
}

impl<'a> Material<'a> {
    fn of(ca: &'a Pem, cert: &'a Pem, key: &'a Pem, crl: Option<&Pem>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in ca.certificates()? {
            roots.add(authority).map_err(|source| TlsError::Authority {
                file: ca.file.clone(),
                source,
            })?;
        }
        let roots = Arc::new(roots);
        let chain = cert.certificates()?;
        let private =
            PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|source| TlsError::Pem {
                file: key.file.clone(),
                source,
            })?;
        let revoked = crl.map_or(Ok(Vec::new()), Pem::revoked)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .with_crls(revoked.iter().cloned())
            // Of an authority that publishes no list, and of those between, nothing is revoked.
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build()
            .map_err(|source| TlsError::Verifier {
                file: crl.unwrap_or(ca).file.clone(),
                source,
            })?;
        // A wrong certificate is found here, at start, rather than in the log of a peer.
        verifier
            .verify_client_cert(&chain[0], &chain[1..], UnixTime::now())
            .map_err(|source| TlsError::OwnCertificate {
                file: cert.file.clone(),
                ca: ca.file.clone(),
                why: fault_of_certificate(&source)
                    .map_or_else(|| format!("does not pass: {source}"), str::to_owned),
            })?;
        Ok(Self {
            ca,
            cert,
            key,
            roots,
            revoked,
            chain,
            private,
            #[cfg(feature = "server")]
            verifier,
        })
    }

    fn mismatch(&self, source: rustls::Error) -> TlsError {
        TlsError::KeyPair {
            file: self.cert.file.clone(),
            key: self.key.file.clone(),
            source,
        }
    }

    fn client_config(&self, kind: Kind) -> Result<ClientConfig, TlsError> {
        let (chain, key) = (self.chain.clone(), self.private.clone_key());
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider())
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build()
            .map_err(|source| TlsError::Verifier {
                file: self.ca.file.clone(),
                source,
            })?;
        let config = client_config(kind, verifier, chain, key);
        config.map_err(|source| self.mismatch(source))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_config(
    kind: Kind,
    verifier: Arc<WebPkiServerVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![alpn(kind).as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(all(test, feature = "server"))]
mod tests;
