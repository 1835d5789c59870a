//! The platform's errors as gRPC statuses. The one place where they are translated.
//!
//! A status made here says in its metadata whether anything has happened; one that a client library or a
//! proxy made does not, and must be taken as unknown.

use slipring_model::{Error, ErrorKind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The metadata that names the kind of an error.
pub(super) const KIND: &str = "slipring-kind";
/// The metadata that says whether a request has changed anything: [`UNCHANGED`] or [`UNKNOWN`].
pub(super) const OUTCOME: &str = "slipring-outcome";
/// Nothing has happened.
pub(super) const UNCHANGED: &str = "unchanged";
/// It may have happened.
pub(super) const UNKNOWN: &str = "unknown";

/// The platform's error, as the client is told.
pub(super) fn failed(error: Error) -> Status {
    let (code, kind, outcome) = match error.kind {
        ErrorKind::Invalid => (Code::InvalidArgument, "invalid", UNCHANGED),
        ErrorKind::Conflict => (Code::Aborted, "conflict", UNCHANGED),
        ErrorKind::Unavailable => (Code::Unavailable, "unavailable", UNCHANGED),
        ErrorKind::Overloaded => (Code::ResourceExhausted, "overloaded", UNCHANGED),
        ErrorKind::OutcomeUnknown => (Code::Unknown, "outcome_unknown", UNKNOWN),
        ErrorKind::Corrupt => (Code::DataLoss, "corrupt", UNKNOWN),
        ErrorKind::Internal => (Code::Internal, "internal", UNKNOWN),
    };
    status(code, kind, outcome, error.message)
}

/// A request that was refused before anything happened.
pub(super) fn refused(code: Code, message: impl Into<String>) -> Status {
    let kind = match code {
        Code::NotFound => "not_found",
        Code::PermissionDenied => "forbidden",
        Code::Aborted | Code::FailedPrecondition => "conflict",
        _ => "invalid",
    };
    status(code, kind, UNCHANGED, message)
}

/// A request that is wrong in itself.
pub(super) fn invalid(message: impl Into<String>) -> Status {
    refused(Code::InvalidArgument, message)
}

/// A change that the layout group refused: the cluster, not the request, has to change first.
pub(super) fn proposal_failed(error: Error) -> Status {
    match error.kind {
        ErrorKind::Conflict => refused(Code::FailedPrecondition, error.message),
        _ => failed(error),
    }
}

/// The client's time is up.
pub(super) fn late(outcome: &'static str, message: &'static str) -> Status {
    status(Code::DeadlineExceeded, "late", outcome, message)
}

/// The application gave an answer that does not belong to the request.
pub(super) fn out_of_turn() -> Status {
    status(Code::Internal, "internal", UNKNOWN, "the application answered out of turn")
}

fn status(code: Code, kind: &'static str, outcome: &'static str, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    status.metadata_mut().insert(KIND, MetadataValue::from_static(kind));
    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static(outcome));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_did_not_happen_is_called_unchanged() {
        let outcome = |kind| {
            let status = failed(Error::new(kind, "why"));
            assert_eq!(status.message(), "why");
            (status.code(), status.metadata().get(OUTCOME).cloned().expect("an outcome"))
        };
        for (kind, code) in [
            (ErrorKind::Invalid, Code::InvalidArgument),
            (ErrorKind::Conflict, Code::Aborted),
            (ErrorKind::Unavailable, Code::Unavailable),
            (ErrorKind::Overloaded, Code::ResourceExhausted),
        ] {
            assert_eq!(outcome(kind), (code, MetadataValue::from_static(UNCHANGED)));
        }
        for (kind, code) in [
            (ErrorKind::OutcomeUnknown, Code::Unknown),
            (ErrorKind::Corrupt, Code::DataLoss),
            (ErrorKind::Internal, Code::Internal),
        ] {
            assert_eq!(outcome(kind), (code, MetadataValue::from_static(UNKNOWN)));
        }
    }
}
