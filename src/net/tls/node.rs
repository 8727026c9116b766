//! The node's side of a handshake: accepting, dialling peers, and who the other one says that it is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::protocol::{alpn, check_protocol};
use super::{Material, Tls, TlsError};
use crate::name;
use crate::net::identity::{Identity, ends_s, hosts};
use crate::net::{BoxIo, Io, Kind};

/// What a node needs beside a client.
#[derive(Clone)]
pub(super) struct Side {
    pub(super) grpc: Arc<ServerConfig>,
    pub(super) raft: Arc<ServerConfig>,
    /// How peers are dialled.
    pub(super) dialling: Arc<ClientConfig>,
    /// How another node is asked over plain HTTP.
    pub(super) asking: Arc<ClientConfig>,
    identity: Identity,
    ends_s: Option<u64>,
    hosts: Vec<String>,
    /// Whom we trust.
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Certificates as they are shown: the first is the holder's own.
pub type Chain = Vec<CertificateDer<'static>>;

/// A stream whose peer has proven itself.
pub struct Accepted {
    pub io: BoxIo,
    pub identity: Identity,
    /// What the peer speaks.
    pub kind: Kind,
    /// The certificates that it showed.
    pub chain: Chain,
}

impl Side {
    pub(super) fn of(material: &Material<'_>) -> Result<Self, TlsError> {
        let identity =
            Identity::of(&material.chain[0]).map_err(|source| TlsError::Certificate {
                file: material.cert.file.clone(),
                source,
            })?;
        check_name(&identity)?;
        let config = |kind: Kind| {
            let verifier = Arc::clone(&material.verifier);
            let (chain, key) = (material.chain.clone(), material.private.clone_key());
            let config = server_config(kind, verifier, chain, key);
            Ok::<_, TlsError>(Arc::new(
                config.map_err(|source| material.mismatch(source))?,
            ))
        };
        Ok(Self {
            grpc: config(Kind::Grpc)?,
            raft: config(Kind::Raft)?,
            dialling: Arc::new(material.client_config(Kind::Raft)?),
            asking: Arc::new(material.client_config(Kind::Http)?),
            identity,
            ends_s: ends_s(&material.chain[0]),
            hosts: hosts(&material.chain[0]),
            verifier: material.verifier.clone(),
        })
    }
}

impl Io for tokio_rustls::server::TlsStream<BoxIo> {
    fn move_here(&mut self) -> io::Result<()> {
        self.get_mut().0.move_here()
    }
}

impl Tls {
    /// Who our own certificate says we are.
    pub fn identity(&self) -> Identity {
        self.now().node.identity.clone()
    }

    /// Whether a peer that showed these certificates would be let in now.
    pub fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((first, rest)) = chain.split_first() else {
            return false;
        };
        let verifier = &self.now().node.verifier;
        let verified = verifier.verify_client_cert(first, rest, UnixTime::now());
        verified.is_ok()
    }

    /// Changes each time that something was taken up.
    pub(super) fn taken_up(&self) -> watch::Receiver<()> {
        self.0.taken_up.subscribe()
    }

    /// How long the first of these certificates is still good; no time if that cannot be told.
    pub fn time_left(&self, chain: &[CertificateDer<'_>]) -> Duration {
        let ends = chain.first().and_then(|cert| ends_s(cert)).unwrap_or(0);
        Duration::from_secs(ends.saturating_sub(UnixTime::now().as_secs()))
    }

    /// When our own certificate ends, in seconds since 1970.
    pub fn ends_s(&self) -> Option<u64> {
        self.now().node.ends_s
    }

    /// The hosts that our own certificate names.
    pub fn hosts(&self) -> Vec<String> {
        self.now().node.hosts.clone()
    }

    /// The serving side of a handshake; what the client speaks comes with who it is. The caller owns the deadline.
    ///
    /// # Errors
    ///
    /// [`TlsError`]: the handshake broke, or the peer is none that may open a stream of this kind.
    pub async fn accept(&self, kind: Kind, io: BoxIo) -> Result<Accepted, TlsError> {
        let now = self.now();
        let config = match kind {
            // Which of the two it is, the client says.
            Kind::Grpc | Kind::Http => &now.node.grpc,
            Kind::Raft => &now.node.raft,
        };
        let stream = TlsAcceptor::from(Arc::clone(config))
            .accept(io)
            .await
            .map_err(|source| TlsError::Handshake { source })?;
        let (_, session) = stream.get_ref();
        let agreed = session.alpn_protocol();
        let kind = match kind {
            Kind::Grpc if agreed == Some(alpn(Kind::Http).as_bytes()) => Kind::Http,
            kind => kind,
        };
        check_protocol(kind, agreed)?;
        let chain = session.peer_certificates();
        let identity = check_peer(kind, chain)?;
        let chain = chain.unwrap_or_default().to_vec();
        Ok(Accepted {
            io: Box::new(stream),
            identity,
            kind,
            chain,
        })
    }
}

fn server_config(
    kind: Kind,
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
    let protocols: &[Kind] = match kind {
        // The first that a client offers is taken. Who offers both is a scraper or a browser: a client of gRPC
        // offers HTTP/2 alone.
        Kind::Grpc | Kind::Http => &[Kind::Http, Kind::Grpc],
        Kind::Raft => &[Kind::Raft],
    };
    let names = protocols.iter().map(|kind| alpn(*kind).as_bytes().to_vec());
    config.alpn_protocols = names.collect();
    // A resumed session would skip the certificate, so each connection begins anew.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Early data can be replayed.
    config.max_early_data_size = 0;
    Ok(config)
}

/// Who the peer is; refuses one that may not open a stream of this kind.
pub(super) fn check_peer(
    kind: Kind,
    chain: Option<&[CertificateDer<'_>]>,
) -> Result<Identity, TlsError> {
    let cert = chain
        .and_then(<[_]>::first)
        .ok_or(TlsError::NoPeerCertificate)?;
    let identity = Identity::of(cert).map_err(|source| TlsError::Certificate {
        file: "the handshake of the peer".to_owned(),
        source,
    })?;
    check_name(&identity)?;
    if kind == Kind::Raft && identity.node_name.is_none() {
        return Err(TlsError::NotANode {
            common_name: identity.common_name,
        });
    }
    if kind == Kind::Raft && !identity.serves_and_calls {
        let node_name = identity.node_name.unwrap_or_default();
        return Err(TlsError::Uses { node_name });
    }
    Ok(identity)
}

/// The name goes into logs, errors and replicated state.
pub(super) fn check_name(identity: &Identity) -> Result<(), TlsError> {
    let Some(name) = &identity.common_name else {
        return Ok(());
    };
    name::check(name).map_err(|source| TlsError::CommonName {
        common_name: name.clone(),
        source,
    })
}
