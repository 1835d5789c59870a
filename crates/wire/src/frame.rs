//! Frames: many messages of one peer to another.
//!
//! A frame is `version u8, cluster 16 bytes, credit u32`, then per message `length u32, kind u8, id u64, body`;
//! numbers little-endian, bodies in postcard. Lengths are checked before anything is allocated for them.
//!
//! Invariant: decoding is total: any bytes give a frame or a typed error.

use bytes::{Buf, Bytes};
use slipring_model::{ClusterId, Versions, limits};
use thiserror::Error;

use crate::{Message, Reply, Request};

/// The newest version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u8 = PROTOCOL_VERSIONS.newest;
/// The versions that this build speaks. Version 5 is the first whose nodes prove who they are; nothing of an earlier one
/// is understood.
pub const PROTOCOL_VERSIONS: Versions = Versions { oldest: 5, newest: 5 };

const REQUEST: u8 = 0;
const REPLY: u8 = 1;
const HEADER_BYTES: usize = 21;
const MESSAGE_HEADER_BYTES: usize = 9;

/// Many messages of one peer to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// How many more messages the receiver may send.
    pub credit: u32,
    /// The messages, in the order in which they were sent.
    pub messages: Vec<Message>,
    /// Ids of requests this version does not know; they are to be refused.
    pub unknown: Vec<u64>,
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// A frame is not of the version that the two have agreed on, or a greeting of no known form.
    #[error(
        "the peer speaks version {theirs} of the protocol where {expected} was expected: upgrade the older of the two"
    )]
    Version {
        /// What came.
        theirs: u8,
        /// What should have come.
        expected: u8,
    },
    /// The bytes end too early, or a length does not fit.
    #[error("the frame is malformed")]
    Malformed,
    /// More than a frame may hold.
    #[error(
        "the frame is larger than {} bytes or holds more than {} messages",
        limits::FRAME_BYTES_MAX,
        limits::FRAME_MESSAGES_MAX
    )]
    TooLarge,
}

impl Frame {
    /// A frame with nothing but messages.
    #[must_use]
    pub fn new(cluster: ClusterId, credit: u32, messages: Vec<Message>) -> Self {
        Self { cluster, credit, messages, unknown: Vec::new() }
    }

    /// The bytes of this frame in the newest version.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.encode_as(PROTOCOL_VERSION)
    }

    /// The bytes of this frame in the version that two nodes have agreed on. All versions so far are laid out alike.
    #[must_use]
    pub fn encode_as(&self, version: u8) -> Bytes {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.messages.len() * 64);
        out.push(version);
        out.extend_from_slice(&self.cluster.0);
        out.extend_from_slice(&self.credit.to_le_bytes());
        for message in &self.messages {
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            out = encode_message(out, message);
            let length = (out.len() - start - 4) as u32;
            if let Some(slot) = out.get_mut(start..start + 4) {
                slot.copy_from_slice(&length.to_le_bytes());
            }
        }
        out.into()
    }

    /// Reads a frame of the newest version.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Frame::encode`] does not write.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Self::decode_as(PROTOCOL_VERSION, bytes)
    }

    /// Reads a frame of the version that two nodes have agreed on.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Frame::encode_as`] does not write.
    pub fn decode_as(version: u8, mut bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > limits::FRAME_BYTES_MAX {
            return Err(DecodeError::TooLarge);
        }
        match bytes.first() {
            Some(theirs) if *theirs == version => {}
            Some(theirs) => return Err(DecodeError::Version { theirs: *theirs, expected: version }),
            None => return Err(DecodeError::Malformed),
        }
        if bytes.len() < HEADER_BYTES {
            return Err(DecodeError::Malformed);
        }
        bytes.advance(1);
        let cluster = ClusterId::from_slice(&bytes.split_to(16)).ok_or(DecodeError::Malformed)?;
        let credit = bytes.get_u32_le();
        let mut frame = Self::new(cluster, credit, Vec::new());
        while !bytes.is_empty() {
            if frame.messages.len() + frame.unknown.len() >= limits::FRAME_MESSAGES_MAX {
                return Err(DecodeError::TooLarge);
            }
            frame.take_message(&mut bytes)?;
        }
        Ok(frame)
    }

    fn take_message(&mut self, bytes: &mut Bytes) -> Result<(), DecodeError> {
        let length = bytes.try_get_u32_le().map_err(|_| DecodeError::Malformed)? as usize;
        if length < MESSAGE_HEADER_BYTES || length > bytes.len() {
            return Err(DecodeError::Malformed);
        }
        let mut body = bytes.split_to(length);
        let kind = body.get_u8();
        let id = body.get_u64_le();
        match kind {
            REQUEST => match postcard::from_bytes::<Request>(&body) {
                Ok(request) => self.messages.push(Message::Request { id, request }),
                Err(_) => self.unknown.push(id),
            },
            REPLY => {
                // A reply nobody can read is as good as none: its request runs into its deadline.
                if let Ok(reply) = postcard::from_bytes::<Reply>(&body) {
                    self.messages.push(Message::Reply { id, reply });
                }
            }
            _ => return Err(DecodeError::Malformed),
        }
        Ok(())
    }
}

impl Message {
    /// About how many bytes this message takes in a frame.
    #[must_use]
    pub fn weight(&self) -> usize {
        let body = match self {
            Self::Request { request, .. } => match request {
                Request::Store { key, cell, .. } | Request::Overwrite { key, cell, .. } => {
                    key.len() + cell.len()
                }
                Request::Fetch { key, .. } | Request::Digest { key, .. } => key.len(),
                Request::Execute { request, .. } => request.len(),
                Request::Layout(bytes) | Request::Join(bytes) | Request::Introduce(bytes) => bytes.len(),
                Request::Digests { entries, .. } | Request::Pull { entries, .. } => {
                    entries.iter().map(|(key, _)| key.len() + 12).sum()
                }
                Request::Roots { roots, .. } | Request::RootsOfCut { roots, .. } => roots.len() * 20,
                Request::Count { partitions, .. }
                | Request::CountOfCut { partitions, .. }
                | Request::CountEnding { partitions, .. } => partitions.len() * 3,
                Request::MergeCleared { cells, .. } => weight_of(cells),
                Request::Scan { .. }
                | Request::Clear { .. }
                | Request::Status
                | Request::Goodbye
                | Request::Moves
                | Request::Clock
                | Request::Members
                | Request::Room { .. } => 0,
                Request::LaterStart { .. } => 200,
            },
            Self::Reply { reply, .. } => match reply {
                Reply::Cell(Some(bytes)) | Reply::Overtaken { cell: bytes } => bytes.len(),
                Reply::Executed(bytes)
                | Reply::Layout(bytes)
                | Reply::Joined(bytes)
                | Reply::Introduced(bytes)
                | Reply::Status(bytes) => bytes.len(),
                Reply::Keys { keys, .. } => keys.iter().map(|key| key.len() + 4).sum(),
                Reply::Digests { missing, cells, .. } => {
                    let cells = cells.iter().map(|(key, cell)| key.len() + cell.len() + 8);
                    missing.iter().map(|key| key.len() + 4).chain(cells).sum()
                }
                Reply::Failed { message, .. } => message.len(),
                Reply::Roots(partitions) => partitions.len() * 3,
                Reply::Stored | Reply::Cell(None) | Reply::Digest(_) | Reply::Count(_) => 0,
                Reply::Done
                | Reply::RolledBack
                | Reply::Removed
                | Reply::Stale { .. }
                | Reply::Cleared { .. }
                | Reply::Clock { .. } => 0,
                Reply::Page { cells, .. } | Reply::StillThere { cells, .. } => weight_of(cells),
                Reply::TakenOver(moves) => moves.len() * 16,
                Reply::Members { nodes, .. } => nodes.iter().map(|(_, address)| address.len() + 68).sum(),
            },
        };
        body + 48
    }
}

fn weight_of(cells: &[(Bytes, Bytes)]) -> usize {
    cells.iter().map(|(key, cell)| key.len() + cell.len() + 8).sum()
}

fn encode_message(mut out: Vec<u8>, message: &Message) -> Vec<u8> {
    let (kind, id) = match message {
        Message::Request { id, .. } => (REQUEST, *id),
        Message::Reply { id, .. } => (REPLY, *id),
    };
    out.push(kind);
    out.extend_from_slice(&id.to_le_bytes());
    let encoded = match message {
        Message::Request { request, .. } => postcard::to_extend(request, out),
        Message::Reply { reply, .. } => postcard::to_extend(reply, out),
    };
    encoded.expect("messages are plain data")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slipring_model::{BucketId, ErrorKind, Position};

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn request() -> impl Strategy<Value = Request> {
        let bucket = BucketId(7);
        prop_oneof![
            (any::<u64>(), bytes(), bytes()).prop_map(move |(epoch, key, cell)| Request::Store {
                bucket,
                epoch,
                key,
                cell
            }),
            (any::<u64>(), bytes(), bytes()).prop_map(move |(epoch, key, cell)| Request::Overwrite {
                bucket,
                epoch,
                key,
                cell
            }),
            (any::<u64>(), bytes()).prop_map(move |(epoch, key)| Request::Digest { bucket, epoch, key }),
            (any::<u8>(), bytes()).prop_map(move |(acks, request)| Request::Execute {
                bucket,
                epoch: 1,
                read_acks: acks,
                write_acks: 0,
                deadline_ms: 9,
                request
            }),
            proptest::collection::vec((bytes(), any::<u64>()), 0..4).prop_map(move |entries| {
                Request::Digests { bucket, from: Position(1), to: Position(u64::MAX), entries }
            }),
            bytes().prop_map(Request::Layout),
            Just(Request::Status),
        ]
    }

    fn reply() -> impl Strategy<Value = Reply> {
        prop_oneof![
            Just(Reply::Stored),
            proptest::option::of(bytes()).prop_map(Reply::Cell),
            bytes().prop_map(|cell| Reply::Overtaken { cell }),
            proptest::option::of(any::<u64>()).prop_map(Reply::Digest),
            proptest::collection::vec(bytes(), 0..4)
                .prop_map(|keys| Reply::Keys { keys, next: Some(Position(3)) }),
            ".*".prop_map(|message| Reply::Failed { kind: ErrorKind::Overloaded, message }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_their_encoding(
            credit in any::<u32>(),
            messages in proptest::collection::vec((any::<u64>(), request(), reply()), 0..5),
        ) {
            let messages = messages.into_iter().flat_map(|(id, request, reply)| {
                [Message::Request { id, request }, Message::Reply { id, reply }]
            }).collect();
            let frame = Frame::new(ClusterId([3; 16]), credit, messages);
            prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..300_usize) {
            let _ = Frame::decode(Bytes::from(bytes.clone()));
            let mut versioned = vec![PROTOCOL_VERSION];
            versioned.extend_from_slice(&bytes);
            let _ = Frame::decode(Bytes::from(versioned.clone()));
            let whole = Frame::new(ClusterId::default(), 1, vec![Message::Request { id: 1, request: Request::Layout(bytes.into()) }]).encode();
            if cut < whole.len() && cut != HEADER_BYTES {
                prop_assert_eq!(Frame::decode(whole.slice(..cut)), Err(DecodeError::Malformed));
            }
        }
    }

    #[test]
    fn an_unknown_request_is_set_aside_and_the_rest_is_read() {
        let good = Message::Request { id: 2, request: Request::Status };
        let mut bytes = Frame::new(ClusterId::default(), 0, Vec::new()).encode().to_vec();
        bytes.extend_from_slice(&10_u32.to_le_bytes());
        bytes.push(REQUEST);
        bytes.extend_from_slice(&1_u64.to_le_bytes());
        bytes.push(0x7f);
        bytes.extend_from_slice(
            &Frame::new(ClusterId::default(), 0, vec![good.clone()]).encode()[HEADER_BYTES..],
        );
        let frame = Frame::decode(bytes.into()).expect("a frame");
        assert_eq!((frame.unknown, frame.messages), (vec![1], vec![good]));
    }

    #[test]
    fn another_version_is_named() {
        let (theirs, expected) = (9, PROTOCOL_VERSION);
        assert_eq!(
            Frame::decode(Bytes::from_static(&[9, 9])),
            Err(DecodeError::Version { theirs, expected })
        );
        let older = Frame::new(ClusterId::default(), 0, Vec::new()).encode_as(8);
        assert!(Frame::decode_as(8, older.clone()).is_ok());
        assert_eq!(
            Frame::decode_as(theirs, older),
            Err(DecodeError::Version { theirs: 8, expected: theirs })
        );
    }
}
