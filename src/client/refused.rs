//! Which error a server's status becomes, and which one after a try whose outcome is not known.
//!
//! The module `told` decides what a status means.

use tonic::{Code, Status};

use super::ClientError;
use super::told::{Doubt, Told, describe, is_distrust, is_verdict, is_without_log};
use crate::reason::Reason;

impl ClientError {
    /// The error of a change that a try may have made and that is not given again.
    pub(super) fn in_doubt(last: &Status) -> Self {
        Self::ChangeInDoubt {
            cause: describe(last),
        }
    }

    /// The error of a change of the cluster that an earlier try may have made. An error that says how things stand
    /// settles that; every other one leaves the doubt.
    pub(super) fn after_doubt(self, in_doubt: bool) -> Self {
        match self {
            Self::EpochDiffers { .. }
            | Self::CursorDiffers { .. }
            | Self::NoSuchLog { .. }
            | Self::LogExists
            | Self::LogDeleted => self,
            other if in_doubt => Self::ChangeInDoubt {
                cause: other.to_string(),
            },
            other => other,
        }
    }

    /// The error that ends a call. An earlier try may have appended the batch, whatever a later one met: then it is
    /// [`Self::OutcomeUnknown`], unless the last status settles the doubt.
    pub(super) fn unless_in_doubt(self, doubt: Doubt, last: &Status) -> Self {
        let is_settled = match doubt {
            Doubt::None => true,
            // Whatever an earlier try appended was deleted with the log.
            Doubt::OfOneLog => is_verdict(last) || is_without_log(last),
            Doubt::OfSeveral => is_verdict(last),
        };
        if is_settled {
            return self;
        }
        tracing::warn!(cause = %self, "the outcome of an earlier try stays unknown");
        Self::OutcomeUnknown
    }

    /// The error of one call to `server` that is not tried again.
    pub(super) fn of_status(server: &str, status: &Status) -> Self {
        if let Some(typed) = Told::of(status).and_then(|told| Self::of_reason(&told)) {
            return typed;
        }
        let (server, message) = (server.to_owned(), describe(status));
        let reason = Reason::of(status);
        // These variants carry the same facts about a status, and differ in their words.
        macro_rules! told {
            ($variant:ident) => {
                Self::$variant {
                    server,
                    reason,
                    message,
                }
            };
        }
        match status.code() {
            _ if is_distrust(status) => Self::Tls {
                server,
                cause: message,
            },
            Code::InvalidArgument => told!(InvalidArgument),
            Code::PermissionDenied => told!(PermissionDenied),
            Code::Unauthenticated => told!(Unauthenticated),
            Code::FailedPrecondition => told!(FailedPrecondition),
            Code::OutOfRange => told!(OutOfRange),
            Code::Unimplemented => told!(Unimplemented),
            code => Self::Failed {
                server,
                code,
                reason,
                message,
            },
        }
    }

    /// The error that this reason alone determines.
    fn of_reason(told: &Told) -> Option<Self> {
        Some(match told.reason {
            Reason::Fenced => Self::Fenced {
                name: told.text("name"),
                epoch: told.number("epoch").unwrap_or_default(),
            },
            Reason::SessionExpired => Self::SessionExpired,
            Reason::EpochDiffers => Self::EpochDiffers {
                current: told.number("epoch").unwrap_or_default(),
            },
            Reason::CursorDiffers => Self::CursorDiffers {
                current: told.number("offset"),
            },
            Reason::NoSuchCursor => Self::NoSuchCursor {
                name: told.text("name"),
            },
            Reason::NoSuchLog => Self::NoSuchLog {
                name: told.text("log"),
            },
            Reason::LogDeleted => Self::LogDeleted,
            Reason::LogExists => Self::LogExists,
            Reason::LogEpochDiffers => Self::LogEpochDiffers {
                current: told.number("epoch").unwrap_or_default(),
            },
            Reason::ResumeTooOld => Self::ResumeTooOld,
            Reason::OutcomeUnknown => Self::OutcomeUnknown,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// An error of its own says as much as the status did.
    #[test]
    fn no_reason_is_lost_on_the_way_to_an_error() {
        for reason in Reason::ALL {
            let error = ClientError::of_status("a:1", &reason.status("x"));
            match reason {
                Reason::OutcomeUnknown => assert!(error.is_doubt()),
                reason => assert_eq!(error.reason(), Some(*reason), "{error:?}"),
            }
        }
    }

    #[test]
    fn what_a_server_tells_of_a_log_comes_along() {
        let of = |reason: Reason, key: &str, value: &str| {
            let metadata = HashMap::from([(key.to_owned(), value.to_owned())]);
            ClientError::of_status("a:1", &reason.status_with("x", metadata))
        };
        let missing = of(Reason::NoSuchLog, "log", "orders");
        assert!(
            missing.to_string().contains("no log \"orders\""),
            "{missing}"
        );
        let differs = of(Reason::LogEpochDiffers, "epoch", "7");
        assert!(matches!(
            differs,
            ClientError::LogEpochDiffers { current: 7 }
        ));
        // Another epoch may be this caller's own doing; that another has the name, or nobody, may not.
        assert!(differs.after_doubt(true).is_doubt());
        assert!(!missing.after_doubt(true).is_doubt());
        assert!(!ClientError::LogExists.after_doubt(true).is_doubt());
    }

    #[test]
    fn a_log_that_is_gone_settles_what_became_of_its_own_batches_alone() {
        let gone = Reason::LogDeleted.status("x");
        let fenced = Reason::Fenced.status("x");
        let after = |doubt, status: &Status| {
            ClientError::of_status("a:1", status)
                .unless_in_doubt(doubt, status)
                .is_doubt()
        };
        assert!(!after(Doubt::None, &gone));
        assert!(!after(Doubt::OfOneLog, &gone));
        assert!(after(Doubt::OfSeveral, &gone), "the other log has it");
        assert!(!after(Doubt::OfSeveral, &fenced), "the log itself says so");
        // It is told only while an outcome is unknown.
        assert!(ClientError::SessionExpired.is_doubt());
    }
}
