//! How errors of the parts become the platform's error, and travel between peers.

use std::borrow::Cow;

use bytes::Bytes;
use slipring_model::{Error, ErrorKind};
use slipring_replication::Shortfall;
use slipring_service::InvalidCell;
use slipring_transport::SendError;
use slipring_wire::Reply;

/// Nothing happened; it may work later.
pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

/// Too few replicas can be reached for a request.
pub(crate) fn unreachable(reachable: Shortfall) -> Error {
    let Shortfall { held, needed, members, side } = reachable;
    unavailable(format!(
        "{held} of {members} replicas{side} can be reached and {needed} are needed; nothing was done: try again, and see \
         `slipring status` for the nodes that are away"
    ))
}

/// Too few replicas that can be reached take more messages.
pub(crate) fn overloaded(free: Shortfall) -> Error {
    let Shortfall { held, needed, members, side } = free;
    let message = format!(
        "{held} of {members} replicas{side} can take more requests now and {needed} are needed; nothing was done: back off \
         and try again"
    );
    Error::new(ErrorKind::Overloaded, message)
}

/// Too few replicas answered a read in time, or stored the newest value where they lacked it.
pub(crate) fn too_few(answered: Shortfall) -> Error {
    let Shortfall { held, needed, members, side } = answered;
    unavailable(if held < needed {
        format!(
            "{held} of {members} replicas{side} answered in time and {needed} are needed; nothing was done: try again, and see \
             `slipring status` for the nodes that are away"
        )
    } else {
        format!(
            "{held} of {members} replicas{side} answered, but too few of them stored the newest value in time to make {needed} \
             that hold it; nothing was done: try again"
        )
    })
}

/// Too few replicas acknowledged a write that is applied here.
pub(crate) fn unacknowledged(acked: Shortfall) -> Error {
    let Shortfall { held, needed, members, side } = acked;
    let message = format!(
        "{held} of {members} replicas{side} acknowledged the write in time and {needed} are needed; it may have happened: \
         read the key before trying again"
    );
    Error::new(ErrorKind::OutcomeUnknown, message)
}

/// Why a message to a node was not sent, where that is worth more than that it was not.
pub(crate) fn unsent(refusal: SendError) -> Option<Error> {
    let message = "too many messages wait for the replicas of the key already; nothing was done: back off and try again";
    (refusal == SendError::Overloaded).then(|| Error::new(ErrorKind::Overloaded, message))
}

/// The engine's error, as the client is told.
pub(crate) fn stored(error: slipring_storage::Error) -> Error {
    use slipring_storage::Error as Storage;
    let kind = match &error {
        Storage::Damaged { .. } => ErrorKind::Corrupt,
        // Nothing was tried.
        Storage::Stopped(_) | Storage::Busy { .. } => ErrorKind::Unavailable,
        Storage::NoRoom { .. } => ErrorKind::Overloaded,
        // A write that found no room, or no file, may be there after a restart: a second attempt may apply it twice.
        _ => ErrorKind::OutcomeUnknown,
    };
    Error::new(kind, error.to_string())
}

/// A stored record that is no cell.
pub(crate) fn damaged(error: InvalidCell) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a stored record is damaged and is not served: {error}"))
}

/// An error as the reply to a peer.
pub(crate) fn failed(error: Error) -> Reply {
    Reply::Failed { kind: error.kind, message: error.message.into_owned() }
}

/// A peer's reply to a forwarded request, as the client's answer.
pub(crate) fn executed(reply: Reply) -> Result<Bytes, Error> {
    match reply {
        Reply::Executed(response) => Ok(response),
        Reply::Failed { kind, message } => Err(Error::new(kind, message)),
        Reply::RolledBack => {
            Err(unavailable("another node takes nothing from this one, whose start is not its latest"))
        }
        _ => Err(Error::new(
            ErrorKind::OutcomeUnknown,
            "a peer answered out of turn; the request may have happened",
        )),
    }
}

#[cfg(test)]
mod tests {
    use slipring_replication::Side;

    use super::*;

    #[test]
    fn sentences_about_quorums_say_needed_answered_and_next_step() {
        let shortfall = |held| Shortfall { held, needed: 2, members: 3, side: Side::Only };
        let told = |error: Error| error.message.into_owned();
        for (held, start) in
            [(1, "1 of 3 replicas answered in time and 2 are needed;"), (2, "2 of 3 replicas answered, but")]
        {
            let sentence = told(too_few(shortfall(held)));
            assert!(sentence.starts_with(start) && sentence.contains("try again"), "{sentence}");
        }
        assert!(
            told(unacknowledged(shortfall(1)))
                .starts_with("1 of 3 replicas acknowledged the write in time and 2")
        );
        assert_eq!(overloaded(shortfall(1)).kind, ErrorKind::Overloaded);
        assert_eq!(unsent(SendError::Overloaded).map(|error| error.kind), Some(ErrorKind::Overloaded));
        assert_eq!(unsent(SendError::NotConnected), None);
    }

    #[test]
    fn only_a_write_that_was_not_tried_may_be_tried_elsewhere() {
        let kind = |error| stored(error).kind;
        assert_eq!(kind(slipring_storage::Error::Stopped("earlier".into())), ErrorKind::Unavailable);
        assert_eq!(kind(slipring_storage::Error::NoRoom { place: "here".into() }), ErrorKind::Overloaded);
        for error in [
            slipring_storage::Error::Full { place: "here".into() },
            slipring_storage::Error::Io { place: "here".into(), detail: "no".into() },
        ] {
            assert_eq!(kind(error), ErrorKind::OutcomeUnknown);
        }
    }
}
