//! Greetings, and what the two sides of a connection sign to prove who they are.
//!
//! Each side greets with what it says of itself and a nonce that it has drawn for this connection. Then each signs both
//! greetings, its side of the connection and the version that the two have agreed on, with the key that its id names.
//! A nonce is never drawn twice, so what was signed for one connection proves nothing on another one; both ids are
//! signed, so it proves nothing to another node; and the side is signed, so it cannot be sent back.
//!
//! Invariant: decoding is total: any bytes give a greeting or a typed error.

use bytes::Bytes;
use slipring_model::{ClusterId, NodeId, StorageId, Versions};

use crate::DecodeError;

/// How greetings are laid out, whatever versions they tell of: fields are only ever added at the end.
const GREETING: u8 = 2;
/// The longest greeting, without its first byte.
const BYTES_MAX: usize = 1024;
/// What a signature is for: nothing that is signed for another purpose begins like this.
const PURPOSE: &[u8] = b"slipring: greetings of two peers\0";

/// What makes the greetings of a connection its own.
pub type Nonce = [u8; 32];

/// What a node says of itself before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The versions that the sender speaks; the two use the newest that both do.
    pub versions: Versions,
    /// Its cluster; absent while it belongs to none.
    pub cluster: Option<ClusterId>,
    /// Its id.
    pub node: NodeId,
    /// Its data directory.
    pub storage: StorageId,
    /// How often it has started.
    pub incarnation: u64,
    /// Drawn at this start: another one with the same incarnation began from a copy of the directory.
    pub boot: u64,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Whether the sender will be a peer, or only asks one question.
    pub is_question: bool,
    /// Where Redis Cluster clients reach it; empty in what a node of an older release says. Told behind the nonce.
    pub redis_cluster_address: String,
}

/// How a connection begins: what its sender says of itself, and its nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What it says of itself.
    pub hello: Hello,
    /// Drawn for this connection. Absent from what a node of an older version says.
    pub nonce: Option<Nonce>,
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The node that dialled.
    Dialler,
    /// The node that was dialled.
    Acceptor,
}

/// The greetings of a connection as they were sent, and the version that the two sides have agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greetings {
    /// What the node said that dialled.
    pub dialler: Bytes,
    /// What the other one said.
    pub acceptor: Bytes,
    /// The version.
    pub version: u8,
}

impl Greetings {
    /// What the node on this side signs.
    #[must_use]
    pub fn statement(&self, side: Side) -> Vec<u8> {
        let side = match side {
            Side::Dialler => 0,
            Side::Acceptor => 1,
        };
        let length = (self.dialler.len() as u32).to_le_bytes();
        [PURPOSE, &[self.version, side], &length, &self.dialler, &self.acceptor].concat()
    }
}

impl Greeting {
    /// The bytes of this greeting.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let hello = self.hello.encode();
        let Some(nonce) = &self.nonce else { return hello };
        let address = match self.hello.redis_cluster_address.as_str() {
            "" => Vec::new(),
            address => postcard::to_allocvec(address).expect("an address is plain data"),
        };
        [&hello, &nonce[..], &address].concat().into()
    }

    /// Reads a greeting; what a later one adds at its end is passed over.
    ///
    /// # Errors
    /// [`DecodeError`] when it is of another form or no greeting at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (hello, rest) = Hello::split(bytes)?;
        let Some((nonce, rest)) = rest.split_first_chunk() else { return Ok(Self { hello, nonce: None }) };
        let redis_cluster_address =
            postcard::take_from_bytes(rest).map(|(address, _)| address).unwrap_or_default();
        Ok(Self { hello: Hello { redis_cluster_address, ..hello }, nonce: Some(*nonce) })
    }
}

impl Hello {
    /// The bytes of this greeting, without what a [`Greeting`] tells behind its nonce.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let told = (
            (self.versions.newest, self.cluster, self.node, self.storage, self.incarnation, self.boot),
            (&self.peer_address, self.is_question),
            self.versions.oldest,
        );
        let body = postcard::to_allocvec(&told).expect("a greeting is plain data");
        [&[GREETING][..], &body].concat().into()
    }

    /// Reads a greeting; what a later one adds at its end is passed over.
    ///
    /// # Errors
    /// [`DecodeError`] when it is of another form or no greeting at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::split(bytes).map(|(hello, _)| hello)
    }

    fn split(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        match bytes.split_first() {
            Some((&GREETING, body)) if body.len() <= BYTES_MAX => Self::read(body),
            Some((&GREETING, _)) => Err(DecodeError::TooLarge),
            Some((other, _)) => Err(DecodeError::Version { theirs: *other, expected: GREETING }),
            None => Err(DecodeError::Malformed),
        }
    }

    /// The greeting, and what follows it.
    fn read(body: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        type Told = ((u8, Option<ClusterId>, NodeId, StorageId, u64, u64), (String, bool));
        let (told, rest): (Told, &[u8]) =
            postcard::take_from_bytes(body).map_err(|_| DecodeError::Malformed)?;
        let ((newest, cluster, node, storage, incarnation, boot), (peer_address, is_question)) = told;
        // Who does not tell the oldest speaks one version.
        let (oldest, rest) = rest.split_first().map_or((newest, rest), |(oldest, rest)| (*oldest, rest));
        let versions = Versions { oldest, newest };
        if !versions.is_range() {
            return Err(DecodeError::Malformed);
        }
        let redis_cluster_address = String::new();
        let hello = Self {
            versions,
            cluster,
            node,
            storage,
            incarnation,
            boot,
            peer_address,
            is_question,
            redis_cluster_address,
        };
        Ok((hello, rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(versions: Versions) -> Hello {
        Hello {
            versions,
            cluster: Some(ClusterId([3; 16])),
            node: NodeId([4; 32]),
            storage: StorageId([5; 16]),
            incarnation: 6,
            boot: 7,
            peer_address: "host:1".to_owned(),
            is_question: true,
            redis_cluster_address: String::new(),
        }
    }

    #[test]
    fn greetings_tell_a_range_and_those_of_before_and_after_are_read() {
        let told = hello(Versions { oldest: 3, newest: 4 });
        assert_eq!(Hello::decode(&told.encode()), Ok(told.clone()));
        let mut later = told.encode().to_vec();
        later.extend_from_slice(b"added later");
        assert_eq!(Hello::decode(&later), Ok(told.clone()));
        // Version 2 told no range: its greeting ended before the oldest version.
        let before = told.encode();
        let one = Hello::decode(&before[..before.len() - 1]).map(|hello| hello.versions);
        assert_eq!(one, Ok(Versions { oldest: 4, newest: 4 }));
        let reversed = hello(Versions { oldest: 4, newest: 3 });
        assert_eq!(Hello::decode(&reversed.encode()), Err(DecodeError::Malformed));
    }

    #[test]
    fn a_greeting_of_version_2_is_laid_out_as_ever() {
        // What a node of the first release of version 2 says.
        let (cluster, node, storage) = ("03".repeat(16), "04".repeat(32), "05".repeat(16));
        let text = format!("\x02\x02\x01\x20{cluster}\x40{node}\x20{storage}\x06\x07\x06host:1\x01");
        let bytes = text.into_bytes();
        let told = hello(Versions { oldest: 2, newest: 2 });
        assert_eq!(Hello::decode(&bytes), Ok(told.clone()));
        assert!(told.encode().starts_with(&bytes), "who reads only that reads it still");
    }

    #[test]
    fn greetings_of_another_form_are_named() {
        assert_eq!(Hello::decode(&[9]), Err(DecodeError::Version { theirs: 9, expected: GREETING }));
        assert_eq!(Hello::decode(&[]), Err(DecodeError::Malformed));
    }

    #[test]
    fn nonces_come_last_and_are_missing_from_what_older_nodes_say() {
        let hello = hello(Versions { oldest: 5, newest: 5 });
        let greeting = Greeting { hello: hello.clone(), nonce: Some([9; 32]) };
        assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting.clone()));
        assert_eq!(Greeting::decode(&hello.encode()).map(|read| read.nonce), Ok(None));
        let whole = greeting.encode();
        let cut = Greeting::decode(&whole[..whole.len() - 1]);
        assert_eq!(cut.map(|read| read.nonce), Ok(None), "half a nonce is none");
    }

    #[test]
    fn cluster_address_is_told_behind_the_nonce() {
        let redis_cluster_address = "host:2".to_owned();
        let told = hello(Versions { oldest: 5, newest: 5 });
        let nonce = Some([9; 32]);
        let before = Greeting { hello: told.clone(), nonce };
        let after = Greeting { hello: Hello { redis_cluster_address, ..told }, nonce };
        assert_eq!(Greeting::decode(&after.encode()), Ok(after.clone()));
        assert!(after.encode().starts_with(&before.encode()), "older nodes read what they know");
        let whole = after.encode();
        assert_eq!(Greeting::decode(&whole[..whole.len() - 1]), Ok(before), "half an address is none");
    }

    #[test]
    fn greetings_have_a_longest_form() {
        let of = |length: usize| {
            let hello = hello(Versions { oldest: 5, newest: 5 });
            let peer_address = "x".repeat(length);
            Greeting { hello: Hello { peer_address, ..hello }, nonce: Some([1; 32]) }
        };
        let rest = of(200).encode().len() - 200 - 1;
        for (length, is_read) in [(BYTES_MAX - 1, true), (BYTES_MAX, true), (BYTES_MAX + 1, false)] {
            let read = Greeting::decode(&of(length - rest).encode());
            assert_eq!(read.is_ok(), is_read, "{length}");
        }
    }

    #[test]
    fn statements_differ_in_all_that_matters() {
        let of = |dialler: &'static str, acceptor: &'static str, version, side| {
            let (dialler, acceptor) = (Bytes::from(dialler), Bytes::from(acceptor));
            Greetings { dialler, acceptor, version }.statement(side)
        };
        let all = [
            of("one", "other", 5, Side::Dialler),
            of("one", "other", 5, Side::Acceptor),
            of("one", "other", 6, Side::Dialler),
            of("other", "one", 5, Side::Dialler),
            of("oneo", "ther", 5, Side::Dialler),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_greeting_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Greeting::decode(&bytes);
            let _ = Greeting::decode(&[&[GREETING][..], &bytes].concat());
        }
    }
}
