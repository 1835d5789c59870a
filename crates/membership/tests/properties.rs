//! Any bytes, whether sealed or not, are dropped or understood: never a panic, never an answer to a stranger.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::net::SocketAddr;

use fastrand::Rng;
use proptest::prelude::*;
use slipring_membership::{ClusterKey, Effect, Input, Keyring, Membership, Metadata, Settings, Start};
use slipring_model::{ClusterId, Moment, NodeId};

fn keys() -> Keyring {
    Keyring::new(ClusterId([1; 16]), &ClusterKey([1; 32]), None)
}

fn from() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 1))
}

fn machine(node: u8) -> Membership {
    let start = Start {
        node: NodeId([node; 32]),
        address: SocketAddr::from(([10, 0, 0, node], 1)),
        start: 1,
        metadata: Metadata::default(),
        keys: keys(),
        known_peers: Vec::new(),
        zero_unix_ms: 0,
    };
    let mut machine = Membership::new(start, Settings::lan(), Rng::with_seed(1)).unwrap();
    machine.handle(Moment(0), Input::Started, &mut Vec::new());
    machine
}

/// A datagram that machine 2 sends when it learns of a peer.
fn authentic() -> Vec<u8> {
    let mut sender = machine(2);
    let mut effects = Vec::new();
    sender.handle(Moment(0), Input::PeerLearnt(from()), &mut effects);
    sender.handle(Moment(20_000), Input::Expired(slipring_membership::Timer::Rejoin), &mut effects);
    let sent = effects.into_iter().find_map(|effect| match effect {
        Effect::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    sent.expect("a learnt peer is pinged")
}

fn handle(machine: &mut Membership, bytes: Vec<u8>) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.handle(Moment(1), Input::Datagram { from: from(), bytes }, &mut effects);
    effects
}

proptest! {
    #[test]
    fn bytes_of_strangers_are_never_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let mut machine = machine(1);
        prop_assert_eq!(handle(&mut machine, bytes), Vec::new());
        prop_assert_eq!(machine.counters().received, 0);
    }

    #[test]
    fn authentic_datagrams_that_were_changed_are_never_answered(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut machine = machine(1);
        let mut bytes = authentic();
        prop_assert!(!handle(&mut machine, bytes.clone()).is_empty());
        let at = at.index(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip;
        }
        prop_assert_eq!(handle(&mut machine, bytes), Vec::new());
    }

    #[test]
    fn sealed_bytes_of_any_kind_are_dropped_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..1_300)) {
        let mut machine = machine(1);
        handle(&mut machine, keys().seal([3; 12], &bytes));
        let counters = machine.counters();
        prop_assert_eq!(counters.received + counters.dropped_malformed + counters.dropped_replayed + counters.dropped_length, 1);
        prop_assert!(machine.members().count() <= 1 + bytes.len() / 40);
    }
}
