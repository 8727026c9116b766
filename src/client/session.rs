//! Sessions on the wire: opening one, with tries that all give the same session, and closing it. Sessions are the
//! cluster's, so no log is named.

use std::fmt;

use tonic::Status;

use super::attempts::{limited, within};
use super::servers::Servers;
use super::{FIRST_ANSWER_MAX, native};
use crate::proto::v1::{CloseSessionRequest, OpenSessionRequest, SessionSequence};

/// The secret of a session. Every try to open the session has the same one, and so has every batch under it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u128);

/// An open session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) id: u64,
    pub(super) secret: Token,
}

impl Token {
    pub(super) fn random() -> Self {
        Self(crate::env::random_u128())
    }

    pub(super) fn bytes(self) -> bytes::Bytes {
        self.0.to_be_bytes().to_vec().into()
    }
}

impl fmt::Debug for Token {
    /// The token is a secret: it is not printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Opened {
    /// The sequence number of a batch that comes after `sequence` records of the session.
    pub(super) fn sequence(&self, sequence: u64) -> SessionSequence {
        SessionSequence {
            session: self.id,
            sequence,
            secret: self.secret.bytes(),
        }
    }
}

/// Opens the session of this token by one call to `server`.
pub(super) async fn open(servers: &Servers, server: &str, secret: Token) -> Result<Opened, Status> {
    let mut client = native(limited(servers.channel(server), FIRST_ANSWER_MAX));
    let request = OpenSessionRequest {
        secret: secret.bytes(),
        ..OpenSessionRequest::default()
    };
    let answer = within(FIRST_ANSWER_MAX, client.open_session(request)).await?;
    let id = answer.into_inner().session;
    Ok(Opened { id, secret })
}

#[cfg(test)]
pub(super) fn session_of_test(id: u64) -> Opened {
    let secret = Token(0);
    Opened { id, secret }
}

/// Closes it if `server` answers. A session that stays open is forgotten in time.
pub(super) async fn close(servers: &Servers, server: &str, session: Opened) {
    let mut client = native(limited(servers.channel(server), FIRST_ANSWER_MAX));
    let request = CloseSessionRequest {
        session: session.id,
        secret: session.secret.bytes(),
        ..CloseSessionRequest::default()
    };
    if let Err(status) = within(FIRST_ANSWER_MAX, client.close_session(request)).await {
        let session = session.id;
        tracing::debug!(server, session, %status, "the session stays open");
    }
}
