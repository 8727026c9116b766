//! Sessions on the wire: opening one, whatever becomes of the first try, and closing it.

use tonic::Status;

use super::attempts::within;
use super::servers::Servers;
use super::{FIRST_ANSWER_MAX, native};
use crate::proto::v1::{CloseSessionRequest, OpenSessionRequest};

/// Names a session before it has a number: the same bytes in each try to open it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token(u128);

impl Token {
    pub(super) fn random() -> Self {
        Self(crate::env::random_u128())
    }

    pub(super) fn bytes(self) -> bytes::Bytes {
        self.0.to_be_bytes().to_vec().into()
    }
}

/// Opens the session of this token by one call to `server`.
pub(super) async fn open(servers: &Servers, server: &str, token: Token) -> Result<u64, Status> {
    let mut client = native(servers.channel(server));
    let request = OpenSessionRequest {
        log: String::new(),
        token: token.bytes(),
    };
    let answer = within(FIRST_ANSWER_MAX, client.open_session(request)).await?;
    Ok(answer.into_inner().session)
}

/// Closes it if `server` answers. A session that stays open is forgotten in time.
pub(super) async fn close(servers: &Servers, server: &str, session: u64) {
    let mut client = native(servers.channel(server));
    let request = CloseSessionRequest {
        log: String::new(),
        session,
    };
    if let Err(status) = within(FIRST_ANSWER_MAX, client.close_session(request)).await {
        tracing::debug!(server, session, %status, "the session stays open");
    }
}
