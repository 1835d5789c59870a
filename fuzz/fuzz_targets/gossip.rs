//! Whatever is in a sealed datagram, membership drops or understands it, and keeps within its limits.
#![no_main]

mod seeds;

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use slipring_membership::{
    ClusterKey, DATAGRAM_BYTES_MAX, Effect, Input, Keyring, Membership, Metadata, Settings, Start, Timer,
};
use slipring_model::{ClusterId, Moment, NodeId};

const MEMBERS_MAX: u64 = 8;

fn keys() -> Keyring {
    Keyring::new(ClusterId([1; 16]), &ClusterKey([1; 32]), None)
}

fn address(node: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node], 7_946))
}

fn machine(node: u8) -> Membership {
    let start = Start {
        node: NodeId([node; 32]),
        address: address(node),
        start: 1,
        metadata: Metadata::default(),
        keys: keys(),
        known_peers: Vec::new(),
        zero_unix_ms: 0,
    };
    let settings = Settings { members_max: MEMBERS_MAX, known_peers_max: MEMBERS_MAX, ..Settings::lan() };
    let mut machine = Membership::new(start, settings, fastrand::Rng::with_seed(1)).expect("valid settings");
    machine.handle(Moment(0), Input::Started, &mut Vec::new());
    machine
}

/// Plain texts that two machines exchange when they meet.
fn examples() -> Vec<Vec<u8>> {
    let (mut machines, mut plain) = ([machine(1), machine(2)], Vec::new());
    let mut effects = Vec::new();
    machines[0].handle(Moment(0), Input::PeerLearnt(address(2)), &mut effects);
    machines[0].handle(Moment(20_000), Input::Expired(Timer::Rejoin), &mut effects);
    for round in 0..8 {
        let sent = std::mem::take(&mut effects).into_iter().filter_map(|effect| match effect {
            Effect::Send { bytes, .. } => Some(bytes),
            _ => None,
        });
        for bytes in sent {
            plain.push(keys().open(&bytes).expect("sealed with these keys"));
            let input = Input::Datagram { from: address(2 - round % 2), bytes };
            machines[usize::from((round + 1) % 2)].handle(Moment(30_000), input, &mut effects);
        }
    }
    plain
}

fuzz_target!(init: seeds::plant(examples()), |bytes: &[u8]| {
    let mut machine = machine(9);
    let mut effects = Vec::new();
    let stranger = Input::Datagram { from: address(3), bytes: bytes.to_vec() };
    machine.handle(Moment(1), stranger, &mut effects);
    assert!(effects.is_empty(), "a stranger caused {effects:?}");
    machine.handle(Moment(2), Input::Datagram { from: address(3), bytes: keys().seal([0; 12], bytes) }, &mut effects);
    for second in 1..20 {
        let due: Vec<Timer> = effects.iter().filter_map(|effect| match effect {
            Effect::Arm { timer, .. } => Some(*timer),
            _ => None,
        }).collect();
        for timer in due.into_iter().chain([Timer::Gossip, Timer::Probe, Timer::Pull, Timer::Rejoin]) {
            machine.handle(Moment(second * 1_000_000), Input::Expired(timer), &mut effects);
        }
    }
    for effect in &effects {
        if let Effect::Send { bytes, .. } = effect {
            assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
        }
    }
    assert!(machine.members().count() as u64 <= MEMBERS_MAX);
    assert!(machine.backlog() as u64 <= MEMBERS_MAX + 1);
});
