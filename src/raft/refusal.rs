//! Refusals of changes of the membership, on their way between nodes.

use tonic::{Code, Status};

use super::error::MembershipError;

/// A refusal, with what the other side needs to tell it from others.
pub fn membership_status(error: &MembershipError) -> Status {
    let code = match error {
        MembershipError::NameTaken { .. }
        | MembershipError::OtherCluster { .. }
        | MembershipError::Removed { .. }
        | MembershipError::LastVoter { .. } => Code::FailedPrecondition,
        MembershipError::NoSuchVoter { .. } => Code::NotFound,
        MembershipError::BadName { .. } => Code::InvalidArgument,
        MembershipError::Refused { code, .. } => Code::from_i32(*code),
        MembershipError::NoLeader { .. } => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

/// The refusal behind a status.
pub fn membership_error(status: &Status) -> MembershipError {
    match status.code() {
        Code::FailedPrecondition
        | Code::NotFound
        | Code::InvalidArgument
        | Code::PermissionDenied => MembershipError::Refused {
            code: status.code() as i32,
            reason: status.message().to_owned(),
        },
        _ => MembershipError::NoLeader {
            reason: status.message().to_owned(),
        },
    }
}
