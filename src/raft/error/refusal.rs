//! Refusals on their way between nodes, and what becomes of a call that a leader did not answer.

use tonic::{Code, Status};

use crate::net::stream_layer::was_unreached;
use crate::reason::{Done, Reason};

use super::{MembershipError, WriteFailure};

/// A refusal, with what the other side needs to tell it from others.
pub fn membership_status(error: &MembershipError) -> Status {
    error.reason().status(&error.to_string())
}

/// This node does not lead, and did nothing.
pub fn not_leader() -> Status {
    Reason::NoLeader.status("this node does not lead")
}

/// What is known of a call that ended with this status.
pub fn write_failure(status: &Status) -> WriteFailure {
    let message = status.message().to_owned();
    let reason = Reason::of(status);
    if was_unreached(status) || reason.is_some_and(|reason| reason.done() == Done::Nothing) {
        WriteFailure::Nothing(message)
    } else {
        WriteFailure::Unknown(message)
    }
}

/// The refusal behind a status.
pub fn membership_error(status: &Status) -> MembershipError {
    let refused = |reason| MembershipError::Refused {
        reason,
        message: status.message().to_owned(),
    };
    match (Reason::of(status), status.code()) {
        (Some(Reason::ChangeUnderWay), _) => MembershipError::UnderWay {
            reason: status.message().to_owned(),
        },
        (
            Some(Reason::NoLeader | Reason::Starting | Reason::Stopping | Reason::OutcomeUnknown),
            _,
        ) => write_failure(status).into(),
        (Some(reason), _) => refused(reason),
        (
            None,
            code @ (Code::FailedPrecondition
            | Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied),
        ) => refused(Reason::of_code(code)),
        (None, _) => write_failure(status).into(),
    }
}

/// Whether a call that ended with this status was refused for good, and did not only come at a wrong time.
pub fn is_final(status: &Status) -> bool {
    !matches!(
        membership_error(status),
        MembershipError::UnderWay { .. }
            | MembershipError::NoLeader { .. }
            | MembershipError::Unknown { .. }
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::net::stream_layer::DialError;

    #[test]
    fn a_refusal_comes_back_as_it_went() {
        let reason = || "x".to_owned();
        for error in [
            MembershipError::UnderWay { reason: reason() },
            MembershipError::NoLeader { reason: reason() },
            MembershipError::Unknown { reason: reason() },
            MembershipError::LastVoter { name: reason() },
            MembershipError::NoSuchVoter { name: reason() },
        ] {
            let back = membership_error(&membership_status(&error));
            assert_eq!(back.reason(), error.reason(), "{error:?}");
            let refused = matches!(back, MembershipError::Refused { .. });
            assert_eq!(is_final(&membership_status(&error)), refused, "{error:?}");
        }
    }

    /// Only what surely did not reach the leader, or what it refused itself, has surely done nothing.
    #[test]
    fn a_lost_answer_is_a_doubt_and_a_lost_call_is_none() {
        let dial = DialError::Connect {
            addr: "n1:1".to_owned(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        let told = |status: &Status| membership_error(status).reason();
        assert_eq!(told(&Status::from_error(Box::new(dial))), Reason::NoLeader);
        assert_eq!(told(&not_leader()), Reason::NoLeader);
        assert_eq!(told(&Status::unavailable("reset")), Reason::OutcomeUnknown);
        assert_eq!(told(&Status::unknown("reset")), Reason::OutcomeUnknown);
    }
}
