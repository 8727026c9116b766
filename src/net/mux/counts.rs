//! What the port counts: connections that it took, and those that it refused, by why.

use std::sync::Arc;

use parking_lot::Mutex;

use super::gate::Refused;
use super::places::{Proven, Unproven};
use crate::metrics::families::{CONNECTIONS, CONNECTIONS_REFUSED, CONNECTIONS_TAKEN, TLS_FAILURES};
use crate::metrics::{ByLabel, Counter, Page, labels};
use crate::net::Kind;
use crate::net::tls::TlsError;

labels! {
    /// What a connection speaks.
    enum Speaks as "protocol" {
        Grpc = "grpc",
        Raft = "raft",
        Http = "http",
    }
}

labels! {
    /// Why a connection was closed before it was served.
    enum Why as "reason" {
        GaveWay = "gave_way",
        Deadline = "deadline",
        Ended = "ended",
        UnknownProtocol = "unknown_protocol",
        PlainToTls = "plain_to_tls",
        TlsToPlain = "tls_to_plain",
        Tls = "tls",
        NoPlace = "no_place",
        Stopped = "stopped",
    }
}

labels! {
    /// What was wrong with a handshake.
    enum Cause as "cause" {
        Handshake = "handshake",
        Protocol = "protocol",
        NoCertificate = "no_certificate",
        Certificate = "certificate",
        NotANode = "not_a_node",
    }
}

/// See the module.
#[derive(Debug)]
pub struct Counts {
    taken: ByLabel<Speaks, Counter>,
    refused: ByLabel<Why, Counter>,
    tls: ByLabel<Cause, Counter>,
    proven: Arc<Mutex<Proven>>,
    unproven: Arc<Mutex<Unproven>>,
}

impl Counts {
    pub(super) fn new(proven: &Arc<Mutex<Proven>>, unproven: &Arc<Mutex<Unproven>>) -> Self {
        Self {
            taken: ByLabel::default(),
            refused: ByLabel::default(),
            tls: ByLabel::default(),
            proven: proven.clone(),
            unproven: unproven.clone(),
        }
    }

    pub(super) fn taken(&self, kind: Kind) {
        let speaks = match kind {
            Kind::Grpc => Speaks::Grpc,
            Kind::Raft => Speaks::Raft,
            Kind::Http => Speaks::Http,
        };
        self.taken.of(speaks).one_more();
    }

    pub(super) fn refused(&self, refused: &Refused) {
        if let Refused::Tls { source } = refused {
            self.tls.of(cause(source)).one_more();
        }
        self.refused.of(why(refused)).one_more();
    }

    /// Tells all that.
    pub fn tell(&self, page: &mut Page<'_>) {
        let (clients, peers) = self.proven.lock().counts();
        let unproven = self.unproven.lock().count();
        page.family(&CONNECTIONS, |series| {
            for (of, count) in [("client", clients), ("peer", peers), ("unproven", unproven)] {
                series.value(&[("of", of)], count);
            }
        });
        page.by_label(&CONNECTIONS_TAKEN, &self.taken);
        page.by_label(&CONNECTIONS_REFUSED, &self.refused);
        page.by_label(&TLS_FAILURES, &self.tls);
    }
}

fn why(refused: &Refused) -> Why {
    match refused {
        Refused::GaveWay => Why::GaveWay,
        Refused::Deadline { .. } => Why::Deadline,
        Refused::FirstByte { .. } | Refused::NoPreface { .. } | Refused::NotMoved { .. } => {
            Why::Ended
        }
        Refused::UnknownByte { .. } | Refused::NotHttp2 => Why::UnknownProtocol,
        Refused::PlainToTls => Why::PlainToTls,
        Refused::TlsToPlain => Why::TlsToPlain,
        Refused::Tls { .. } => Why::Tls,
        Refused::NoPlace(_) => Why::NoPlace,
        Refused::Stopped => Why::Stopped,
    }
}

fn cause(error: &TlsError) -> Cause {
    match error {
        TlsError::Handshake { .. } => Cause::Handshake,
        TlsError::Protocol { .. } => Cause::Protocol,
        TlsError::NoPeerCertificate => Cause::NoCertificate,
        TlsError::NotANode { .. } | TlsError::Uses { .. } => Cause::NotANode,
        // The others concern what a certificate says, or files that no handshake reads.
        _ => Cause::Certificate,
    }
}
