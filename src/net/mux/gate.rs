//! What each connection passes on its way to a server: first byte, proof, preface, a place.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::RAFT_RPC;
use super::counts::Counts;
use super::origin::Origin;
use super::places::{NoPlace, Pending, Proven, Seat};
use super::stream::{MuxStream, PeerInfo, Prefixed};
use super::term::{Recheck, Term};
use crate::live::Live;
use crate::net::gathering::gathering;
use crate::net::identity::Identity;
use crate::net::tls::{Accepted, Tls, TlsError};
use crate::net::{BoxIo, Kind, Security};

/// A TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Raft and gRPC are HTTP/2, which opens with this.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Plain HTTP opens with one of these, `GET` or `HEAD`: nothing else is served there.
const GET: &[u8] = b"G";
const HEAD: &[u8] = b"H";
const _: () = assert!(
    RAFT_RPC != TLS_HANDSHAKE
        && RAFT_RPC != PREFACE[0]
        && GET[0] != RAFT_RPC
        && GET[0] != TLS_HANDSHAKE
        && GET[0] != PREFACE[0]
        && HEAD[0] != RAFT_RPC
        && HEAD[0] != TLS_HANDSHAKE
        && HEAD[0] != PREFACE[0],
    "I6: the first byte is ambiguous"
);

/// A client that was turned away has so long to read why.
const GOODBYE: Duration = Duration::from_secs(1);
/// HTTP/2's code for a client that asks too much.
const ENHANCE_YOUR_CALM: u8 = 0xb;
/// HTTP/2's code for a connection that is not as secure as it has to be.
const INADEQUATE_SECURITY: u8 = 0xc;

/// Why a connection was closed before it became a stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it gave way: too many others have proven nothing yet either")]
    GaveWay,
    #[error("no handshake, or no place in the queue, within {after:?}")]
    Deadline { after: Duration },
    #[error("it ended before its first byte")]
    FirstByte { source: io::Error },
    #[error("first byte {byte:#04x} opens no protocol of this port")]
    UnknownByte { byte: u8 },
    #[error("the peer speaks plain HTTP, but this node asks for TLS: give the peer a certificate")]
    PlainToTls,
    #[error(
        "the peer speaks TLS, but this node serves plaintext: give this node certificates, or dial without"
    )]
    TlsToPlain,
    #[error("it failed to prove itself")]
    Tls { source: TlsError },
    #[error("it ended before the preface of HTTP/2")]
    NoPreface { source: io::Error },
    #[error("it does not speak HTTP/2")]
    NotHttp2,
    #[error("no place: {0}")]
    NoPlace(NoPlace),
    #[error("it could not be handed to the threads that serve peers")]
    NotMoved { source: io::Error },
    #[error("its server has stopped")]
    Stopped,
}

impl Refused {
    /// What a peer is told that would else see a connection break for no reason. One that began TLS cannot read it, but
    /// notices that it is no TLS.
    fn told_to_peer(&self) -> Option<&'static str> {
        match self {
            Self::PlainToTls => Some("this node speaks TLS, and was spoken to in plaintext"),
            Self::TlsToPlain => Some("this node speaks plaintext, and was spoken to in TLS"),
            _ => None,
        }
    }

    /// Port scans and health checks end early every few seconds; the rest points at a wrong setting or an
    /// overload.
    pub(super) fn concerns_operator(&self) -> bool {
        match self {
            Self::GaveWay
            | Self::PlainToTls
            | Self::NotMoved { .. }
            | Self::TlsToPlain
            | Self::Tls { .. }
            | Self::NoPlace(_) => true,
            Self::Deadline { .. }
            | Self::FirstByte { .. }
            | Self::UnknownByte { .. }
            | Self::NoPreface { .. }
            | Self::NotHttp2
            | Self::Stopped => false,
        }
    }
}

#[derive(Clone)]
pub(super) struct Gate {
    pub(super) security: Security,
    pub(super) grpc: mpsc::Sender<MuxStream>,
    pub(super) raft: mpsc::Sender<MuxStream>,
    pub(super) http: mpsc::Sender<MuxStream>,
    /// The runtime that serves the raft streams.
    pub(super) peers: Handle,
    pub(super) timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) age_max: Live<Duration>,
    pub(super) reloads: watch::Receiver<Recheck>,
    pub(super) proven: Arc<Mutex<Proven>>,
    pub(super) counts: Arc<Counts>,
}

impl Gate {
    /// Makes a stream of a connection, in time and for as long as its place is not lost to another.
    pub(super) async fn pass(
        &self,
        mut pending: Pending,
        io: BoxIo,
        addr: String,
    ) -> Result<(), Refused> {
        let seat = pending.seat();
        tokio::select! {
            () = pending.lost() => Err(Refused::GaveWay),
            () = tokio::time::sleep(self.timeout) => {
                Err(Refused::Deadline { after: self.timeout })
            }
            passed = self.open(&seat, io, addr) => passed,
        }
    }

    async fn open(&self, seat: &Seat, mut io: BoxIo, addr: String) -> Result<(), Refused> {
        let byte = io
            .read_u8()
            .await
            .map_err(|source| Refused::FirstByte { source })?;
        let ((kind, read), io) = self.opened_by(byte, io).await?;
        seat.speaks(kind);
        let (mut io, proven, kind, read) = match &self.security {
            Security::Insecure => (io, None, kind, read),
            Security::Mutual(tls) => {
                let io = Box::new(Prefixed::new(Bytes::from_static(read), io));
                let (io, kind, proven) = self.prove(tls, kind, io).await?;
                (io, Some(proven), kind, &[][..])
            }
        };
        let (identity, term) = proven.unzip();
        // A client that proves itself and then says nothing would hold a connection of the server to no
        // purpose.
        let read = match kind {
            Kind::Grpc | Kind::Raft => {
                read_preface(&mut io, read).await?;
                PREFACE
            }
            // Its server bounds the time of the whole connection.
            Kind::Http => read,
        };
        let subject = identity.as_ref().and_then(|identity| match kind {
            Kind::Grpc | Kind::Http => identity.subject().map(str::to_owned),
            Kind::Raft => identity.node_name.clone(),
        });
        let place = match Proven::take(&self.proven, kind, Origin::of(&addr), subject) {
            Ok(place) => place,
            Err(full) => {
                if kind != Kind::Http {
                    turn_away(io, ENHANCE_YOUR_CALM, &full.to_string()).await;
                }
                return Err(Refused::NoPlace(full));
            }
        };
        let tls = identity.is_some();
        let info = PeerInfo::new(addr, identity, tls);
        let stream = MuxStream::new(gathering(kind, io), info);
        let stream = stream.accepted(Bytes::from_static(read), place);
        let mut stream = stream.ending(term);
        self.counts.taken(kind);
        match kind {
            // A peer's connections wait for the next election, or for a failure, in silence.
            Kind::Raft => {
                let moved = {
                    let _theirs = self.peers.enter();
                    stream.move_here()
                };
                moved.map_err(|source| Refused::NotMoved { source })?;
                self.raft.send(stream).await
            }
            Kind::Grpc => self.grpc.send(stream.ending_idle(self.idle_timeout)).await,
            Kind::Http => self.http.send(stream).await,
        }
        .map_err(|_| Refused::Stopped)
    }

    /// The handshake: what the peer speaks, who it is, and for how long that counts.
    async fn prove(
        &self,
        tls: &Tls,
        kind: Kind,
        io: BoxIo,
    ) -> Result<(BoxIo, Kind, (Identity, Term)), Refused> {
        // What was reloaded before the handshake, the handshake sees.
        let mut reloads = self.reloads.clone();
        reloads.mark_unchanged();
        let accepted = tls.accept(kind, io).await;
        let Accepted {
            io,
            identity,
            kind,
            chain,
        } = accepted.map_err(|source| Refused::Tls { source })?;
        let term = Term::new(tls.clone(), chain, &identity, self.age_max.get(), reloads);
        Ok((io, kind, (identity, term)))
    }

    /// The protocol that a first byte opens. Who speaks TLS to plaintext, or the other way round, is told so.
    async fn opened_by(
        &self,
        byte: u8,
        io: BoxIo,
    ) -> Result<((Kind, &'static [u8]), BoxIo), Refused> {
        let refused = match self.protocol(byte) {
            Ok(known) => return Ok((known, io)),
            Err(refused) => refused,
        };
        if let Some(why) = refused.told_to_peer() {
            match byte {
                b'G' | b'H' => take_leave(io, bad_request(why).as_bytes()).await,
                _ => turn_away(io, INADEQUATE_SECURITY, why).await,
            }
        }
        Err(refused)
    }

    /// I6: a first byte that is not raft's is the first byte of TLS, or of HTTP in clear. It belongs to the
    /// protocol, so it is handed on with the kind.
    fn protocol(&self, byte: u8) -> Result<(Kind, &'static [u8]), Refused> {
        match (&self.security, byte) {
            (_, RAFT_RPC) => Ok((Kind::Raft, &[])),
            (Security::Mutual(_), TLS_HANDSHAKE) => Ok((Kind::Grpc, &[TLS_HANDSHAKE])),
            (Security::Insecure, b'P') => Ok((Kind::Grpc, &PREFACE[..1])),
            (Security::Insecure, b'G') => Ok((Kind::Http, GET)),
            (Security::Insecure, b'H') => Ok((Kind::Http, HEAD)),
            (Security::Mutual(_), b'P' | b'G' | b'H') => Err(Refused::PlainToTls),
            (Security::Insecure, TLS_HANDSHAKE) => Err(Refused::TlsToPlain),
            _ => Err(Refused::UnknownByte { byte }),
        }
    }
}

/// Reads the preface, of which the beginning was read already.
async fn read_preface(io: &mut BoxIo, read: &[u8]) -> Result<(), Refused> {
    let mut preface = [0; PREFACE.len()];
    let (known, rest) = preface.split_at_mut(read.len());
    known.copy_from_slice(read);
    let whole = io.read_exact(rest).await;
    whole.map_err(|source| Refused::NoPreface { source })?;
    if preface != PREFACE {
        return Err(Refused::NotHttp2);
    }
    Ok(())
}

/// Tells a client in the words of HTTP/2 why it is not served, so that its error says so.
async fn turn_away(io: BoxIo, code: u8, why: &str) {
    let frame = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes();
        let head = [length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
        [&head[..], payload].concat()
    };
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    // No stream was taken: the last one is 0.
    let goaway = [&[0, 0, 0, 0, 0, 0, 0, code][..], why.as_bytes()].concat();
    // Without settings the connection never was one, so no client sends its calls again on another until their deadline.
    let settings = match code {
        INADEQUATE_SECURITY => Vec::new(),
        _ => frame(SETTINGS, &[]),
    };
    let words = [settings, frame(GOAWAY, &goaway)].concat();
    take_leave(io, &words).await;
}

/// The same in the words of HTTP/1.1, for a browser or a scraper.
fn bad_request(why: &str) -> String {
    let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close";
    let length = why.len() + 1;
    format!("{head}\r\nContent-Length: {length}\r\n\r\n{why}\n")
}

/// Says the last words of a connection.
async fn take_leave(mut io: BoxIo, words: &[u8]) {
    let said = async {
        io.write_all(words).await?;
        io.shutdown().await?;
        // A connection that is closed with bytes unread is reset, and the words are lost with it.
        tokio::io::copy(&mut io, &mut tokio::io::sink()).await
    };
    // A client that is gone already needs no reason.
    let _ = tokio::time::timeout(GOODBYE, said).await;
}
