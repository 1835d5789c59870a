//! Frames that come a second time, late: what a sender that asks again, or a proxy between, may cause.
//!
//! A request to execute is left out, and so are the words of joining and leaving: a connection promises its
//! user that it says those once.

use bytes::Bytes;
use slipring_wire::{Frame, Message, Request};

/// How much later than the frame itself its second coming may be, in milliseconds.
pub(super) const LATER_MS: std::ops::Range<u64> = 0..400;

/// Of a frame what may be said twice; nothing when that is nothing.
pub(super) fn echo(frame: &Bytes) -> Option<Bytes> {
    let mut frame = Frame::decode(frame.clone()).expect("a node's own frame");
    frame.messages.retain(may_be_repeated);
    (!frame.messages.is_empty()).then(|| frame.encode())
}

fn may_be_repeated(message: &Message) -> bool {
    let Message::Request { request, .. } = message else { return true };
    !matches!(request, Request::Execute { .. } | Request::Join(_) | Request::Goodbye)
}
