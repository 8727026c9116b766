//! What the command line adds to an error of the client: which nodes answer, and which flag or command comes next.

use super::commands::cluster::survey::{Seen, Survey};
use super::connection::ConnectionArgs;
use super::output::counted;
use crate::client::{ClientError, Reason};

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
        ClientError::InvalidArgument {
            reason: Some(Reason::TimestampRequired),
            ..
        } => {
            "`ferrolog produce` gives each record one with --timestamps, or takes it from --input json"
        }
        ClientError::InvalidArgument {
            reason: Some(Reason::KeyRequired),
            ..
        } => {
            "`ferrolog produce` takes it from each line with --key-delimiter, or from --input json"
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

/// After a call that no node carried out in time: which voters do not answer, and how many have to. `None` if all answer
/// and one of them leads, or no node is there to ask.
pub(super) async fn who_answers(connection: &ConnectionArgs) -> Option<String> {
    let client = connection.client(None).ok()?;
    let survey = Survey::take(&client, &connection.addrs()).await.ok()?;
    unanswered(&survey)
}

fn unanswered(survey: &Survey) -> Option<String> {
    let quorum = survey.quorum();
    let down = survey.members().filter(Seen::is_voter);
    let down = down.filter(|seen| seen.own.is_none());
    let down: Vec<_> = down
        .map(|seen| format!("{} ({})", seen.node.name, seen.node.addr))
        .collect();
    let next = match quorum.needed.saturating_sub(quorum.up) {
        _ if down.is_empty() => None,
        0 => Some("`ferrolog doctor` says more".to_owned()),
        missing => {
            let nodes = counted(missing as u64, "node", "nodes");
            Some(format!(
                "start {nodes} of these; `ferrolog doctor` says more"
            ))
        }
    };
    match next {
        None if quorum.is_led => None,
        None => Some(quorum.to_string()),
        Some(next) => Some(format!(
            "{quorum}; no answer from {}: {next}",
            down.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::cli::commands::cluster::survey::tests::survey;

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

    #[test]
    fn the_voters_that_do_not_answer_are_named() {
        assert_eq!(unanswered(&survey(&[1, 2, 3])), None);
        let one = unanswered(&survey(&[1, 2])).unwrap();
        assert!(
            one.contains("quorum: yes; no answer from n3 (127.0.0.1:3)"),
            "{one}"
        );
        let two = unanswered(&survey(&[1])).unwrap();
        let said = "1 of 3 voters up, quorum: no, 2 are needed; no answer from n2 (127.0.0.1:2), n3 (127.0.0.1:3): \
                    start 1 node of these";
        assert!(two.contains(said), "{two}");
    }
}
