//! How errors of the parts become the platform's error, and travel between peers.

use std::borrow::Cow;

use bytes::Bytes;
use slipring_model::{Error, ErrorKind};
use slipring_service::InvalidCell;
use slipring_wire::Reply;

/// Nothing happened; it may work later.
pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

/// The engine's error, as the client is told.
pub(crate) fn stored(error: slipring_storage::Error) -> Error {
    use slipring_storage::Error as Storage;
    let kind = match &error {
        Storage::Damaged { .. } => ErrorKind::Corrupt,
        // Nothing was tried.
        Storage::Stopped(_) => ErrorKind::Unavailable,
        Storage::NoRoom { .. } => ErrorKind::Overloaded,
        // A write that found no room may be there after a restart: whoever tries it again may do it twice.
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
        _ => Err(Error::new(
            ErrorKind::OutcomeUnknown,
            "a peer answered out of turn; the request may have happened",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
