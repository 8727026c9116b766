//! What the command line adds to an error of the client: which flag or command comes next.

use crate::client::ClientError;

/// The next step in the words of the command line, if there is one beside what the error says.
pub(super) fn of(error: &anyhow::Error) -> Option<&'static str> {
    let mut causes = error.chain();
    let error = causes.find_map(|cause| cause.downcast_ref::<ClientError>())?;
    Some(match error {
        ClientError::NoServers => {
            "give some with --servers HOST:PORT,HOST:PORT or FERROLOG_SERVERS"
        }
        ClientError::Stalled { .. } => "see `ferrolog cluster status`",
        ClientError::Tls { .. } => {
            "give files of one authority with --tls-ca, --tls-cert and --tls-key (made by `ferrolog certs`), or \
             --insecure if the nodes run so"
        }
        ClientError::Unauthenticated { .. } => {
            "give a client certificate with --tls-cert and --tls-key"
        }
        ClientError::NoSuchLog { .. } => {
            "see `ferrolog log list`, and make one with `ferrolog log create NAME`"
        }
        ClientError::LogExists | ClientError::LogEpochDiffers { .. } => {
            "see `ferrolog log show NAME`"
        }
        ClientError::Batch { .. } => "run `ferrolog log verify` on that node",
        ClientError::ChangeInDoubt { .. } => {
            "see `ferrolog cluster status`, `ferrolog log list`, `ferrolog log retention`, `ferrolog cursor list`"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_next_step_is_told_in_flags_by_the_command_line_alone() {
        let tls = ClientError::Tls {
            server: "a:1".into(),
            cause: "x".into(),
        };
        assert!(!tls.to_string().contains("--"), "{tls}");
        let error: Result<(), _> = Err(tls);
        let error = error.context("produce").unwrap_err();
        assert!(of(&error).unwrap().contains("--tls-ca"));
        assert_eq!(of(&ClientError::Closed.into()), None);
    }
}
