//! The machine on its own: what it must not answer, what pauses must not do, what peers must not make it keep.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;
use slipring_model::{ClusterId, Moment, NodeId};

use super::{Effect, Input, Membership, Start, Timer};
use crate::member::{Incarnation, Liveness, Member, Metadata, Zone};
use crate::message::{Claim, DATAGRAM_BYTES_MAX, Envelope, Message, Target, append};
use crate::seal::{ClusterKey, Keyring};
use crate::settings::Settings;

fn address(byte: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, byte], 7_946))
}

fn keys(byte: u8) -> Keyring {
    Keyring::new(ClusterId([1; 16]), &ClusterKey([byte; 32]), None)
}

fn member(byte: u8, incarnation: Incarnation) -> Member {
    Member { node: NodeId([byte; 32]), address: address(byte), incarnation, metadata: Metadata::default() }
}

fn machine(byte: u8, settings: Settings) -> Membership {
    let start = Start {
        node: NodeId([byte; 32]),
        address: address(byte),
        start: 1,
        metadata: Metadata::default(),
        keys: keys(1),
        known_peers: Vec::new(),
        zero_unix_ms: 0,
    };
    let mut machine = Membership::new(start, settings, Rng::with_seed(u64::from(byte))).unwrap();
    feed(&mut machine, Moment(0), Input::Started);
    machine
}

fn feed(machine: &mut Membership, now: Moment, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.handle(now, input, &mut effects);
    effects
}

/// A datagram of the member `byte`, in its first start.
fn datagram(byte: u8, counter: u64, message: Message, claims: &[Claim]) -> Input {
    sealed(&Envelope { counter, from: member(byte, Incarnation::at_start(1)), message }, claims, &keys(1))
}

fn sealed(envelope: &Envelope, claims: &[Claim], keys: &Keyring) -> Input {
    let mut plain = envelope.encode();
    claims.iter().for_each(|claim| assert!(append(&mut plain, claim)));
    Input::Datagram { from: envelope.from.address, bytes: keys.seal([0; 12], &plain) }
}

fn ping() -> Message {
    Message::Ping { token: 5, target: None, incarnation: Incarnation::default() }
}

fn sends(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Send { .. })).count()
}

#[test]
fn what_is_not_authentic_or_not_new_is_counted_and_never_answered() {
    let mut machine = machine(1, Settings::lan());
    let mut offer = |input: Input| {
        let effects = feed(&mut machine, Moment(9), input);
        (sends(&effects), effects.len(), machine.counters())
    };
    assert!(offer(datagram(2, 10, ping(), &[])).0 >= 1, "an authentic ping is answered");
    let again = offer(datagram(2, 10, ping(), &[]));
    assert_eq!((again.0, again.1, again.2.dropped_replayed), (0, 0, 1));
    let older = Envelope { counter: 99, from: member(2, Incarnation::at_start(0)), message: ping() };
    let older = offer(sealed(&older, &[], &keys(1)));
    assert_eq!((older.1, older.2.dropped_replayed), (0, 2));
    let own = Envelope { counter: 7, from: member(1, Incarnation::at_start(9)), message: ping() };
    let own = offer(sealed(&own, &[], &keys(1)));
    assert_eq!((own.1, own.2.dropped_replayed), (0, 3), "its own datagrams, sent back to it");
    let envelope = Envelope { counter: 11, from: member(2, Incarnation::at_start(1)), message: ping() };
    let forged = offer(sealed(&envelope, &[], &keys(2)));
    assert_eq!((forged.1, forged.2.dropped_forged), (0, 1));
    let stranger = Keyring::new(ClusterId([2; 16]), &ClusterKey([1; 32]), None);
    let stranger = offer(sealed(&envelope, &[], &stranger));
    assert_eq!((stranger.1, stranger.2.dropped_forged), (0, 2));
    let garbled = offer(Input::Datagram { from: address(2), bytes: keys(1).seal([0; 12], &[255; 90]) });
    assert_eq!((garbled.1, garbled.2.dropped_malformed), (0, 1));
    let long = offer(Input::Datagram { from: address(2), bytes: vec![1; DATAGRAM_BYTES_MAX + 1] });
    assert_eq!((long.1, long.2.dropped_length), (0, 1));
    let version = offer(Input::Datagram { from: address(2), bytes: vec![2; 100] });
    assert_eq!((version.1, version.2.dropped_version), (0, 1));
    assert_eq!(version.2.received, 1);
}

#[test]
fn a_probe_meant_for_another_node_is_not_answered() {
    let mut machine = machine(1, Settings::lan());
    feed(&mut machine, Moment(0), datagram(2, 1, Message::Gossip, &[]));
    let incarnation = Incarnation::default();
    let probe = |byte| Message::Ping { token: 5, target: Some(Target(NodeId([byte; 32]))), incarnation };
    assert_eq!(sends(&feed(&mut machine, Moment(1), datagram(2, 2, probe(9), &[]))), 0);
    assert_eq!(sends(&feed(&mut machine, Moment(1), datagram(2, 3, probe(1), &[]))), 1);
}

#[test]
fn keys_change_while_the_machine_runs() {
    let mut machine = machine(1, Settings::lan());
    let both = Keyring::new(ClusterId([1; 16]), &ClusterKey([2; 32]), Some(&ClusterKey([1; 32])));
    feed(&mut machine, Moment(0), Input::KeysChanged(both));
    let effects = feed(&mut machine, Moment(1), datagram(2, 1, ping(), &[]));
    let Some(Effect::Send { bytes, .. }) =
        effects.iter().find(|effect| matches!(effect, Effect::Send { .. }))
    else {
        panic!("the old key still opens")
    };
    assert!(keys(2).open(bytes).is_ok(), "the new key seals");
}

/// A machine that knows members 2 to 5 and has probed one of them at the returned moment.
fn probing(settings: Settings) -> (Membership, Moment, Timer, Moment) {
    let mut machine = machine(1, settings);
    for byte in 2..=5 {
        feed(&mut machine, Moment(0), datagram(byte, 1, Message::Gossip, &[]));
    }
    let mut now = Moment(0);
    loop {
        now = now.after(Duration::from_millis(100));
        feed(&mut machine, now, Input::Expired(Timer::Gossip));
        for effect in feed(&mut machine, now, Input::Expired(Timer::Probe)) {
            if let Effect::Arm { timer: timer @ Timer::Answer { .. }, at } = effect {
                return (machine, now, timer, at);
            }
        }
    }
}

fn suspects(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Suspected(_)))
}

#[test]
fn a_probe_in_flight_over_a_pause_gets_another_chance() {
    for is_health_aware in [true, false] {
        let (mut machine, _, timer, at) = probing(Settings { is_health_aware, ..Settings::lan() });
        let late = at.after(Duration::from_secs(5));
        let mut effects = feed(&mut machine, late, Input::Expired(timer));
        effects.extend(feed(&mut machine, late.after(Duration::from_millis(600)), Input::Expired(timer)));
        assert_eq!(suspects(&effects), !is_health_aware);
        assert_eq!(machine.health_score() > 0, is_health_aware);
    }
}

#[test]
fn a_stream_that_answers_keeps_a_silent_member_alive_and_one_that_does_not_cannot() {
    for is_reachable in [true, false] {
        let settings = Settings { gossip_interval_ms: 60_000, ..Settings::lan() };
        let (mut machine, _, timer, at) = probing(settings);
        let asked = feed(&mut machine, at, Input::Expired(timer));
        let token = asked.iter().find_map(|effect| match effect {
            Effect::ProbeStream { token, .. } => Some(*token),
            _ => None,
        });
        let token = token.expect("a stream is tried");
        feed(&mut machine, at, Input::StreamProbed { token, is_reachable });
        let end = at.after(Duration::from_secs(1));
        assert_eq!(suspects(&feed(&mut machine, end, Input::Expired(timer))), !is_reachable);
    }
}

#[test]
fn the_silence_of_one_life_says_nothing_of_the_next() {
    for starts_again in [false, true] {
        let settings = Settings { is_stream_probing: false, gossip_interval_ms: 60_000, ..Settings::lan() };
        let (mut machine, now, timer, at) = probing(settings);
        if starts_again {
            let lives = (2..=5).map(|byte| Claim::Alive(member(byte, Incarnation::at_start(9))));
            feed(&mut machine, now, datagram(2, 2, Message::Gossip, &lives.collect::<Vec<_>>()));
        }
        feed(&mut machine, at, Input::Expired(timer));
        let end = at.after(Duration::from_secs(1));
        assert_eq!(suspects(&feed(&mut machine, end, Input::Expired(timer))), !starts_again);
    }
}

#[test]
fn only_the_own_last_probe_declares_a_member_down() {
    let mut machine = machine(1, Settings::lan());
    for byte in 2..=5 {
        feed(&mut machine, Moment(0), datagram(byte, 1, Message::Gossip, &[]));
    }
    let node = Target(NodeId([3; 32]));
    let incarnation = Incarnation::at_start(1);
    let claim = Claim::Suspected { node, incarnation, by: Target(NodeId([2; 32])) };
    feed(&mut machine, Moment(1), datagram(2, 2, Message::Gossip, &[claim]));
    let mut probed = None;
    for round in 0..2_000_u64 {
        let now = Moment(round * 50_000);
        let mut effects = feed(&mut machine, now, Input::Expired(Timer::Gossip));
        effects.extend(feed(&mut machine, now, Input::Expired(Timer::Suspicion { node: node.0 })));
        for effect in &effects {
            if let Effect::Arm { timer: Timer::Answer { .. }, .. } = effect {
                probed = Some(now);
            }
        }
        assert!(!effects.contains(&Effect::Down(node.0)), "a timer alone declares nobody down");
    }
    assert!(probed.is_some(), "the suspicion ended in a probe");
    assert_eq!(machine.liveness(&node.0), Some(Liveness::Suspected));
}

fn any_incarnation() -> impl Strategy<Value = Incarnation> {
    let number = || prop_oneof![0..4_u64, Just(u64::MAX), any::<u64>()];
    (number(), number()).prop_map(|(start, renewal)| Incarnation { start, renewal })
}

fn any_member() -> impl Strategy<Value = Member> {
    let zone = "[a-z]{0,64}".prop_map(|name| Zone::new(&name).unwrap());
    let metadata = (any::<u64>(), any::<u64>(), zone);
    (any::<u8>(), any::<u8>(), any_incarnation(), metadata).prop_map(|(byte, at, incarnation, metadata)| {
        let (layout_epoch, layout_hash, zone) = metadata;
        let metadata = Metadata { layout_epoch, layout_hash, zone };
        Member { node: NodeId([byte; 32]), address: address(at), incarnation, metadata }
    })
}

fn any_target() -> impl Strategy<Value = Target> {
    any::<u8>().prop_map(|byte| Target(NodeId([byte; 32])))
}

fn any_claim() -> impl Strategy<Value = Claim> {
    prop_oneof![
        any_member().prop_map(Claim::Alive),
        (any_target(), any_incarnation(), any_target())
            .prop_map(|(node, incarnation, by)| Claim::Suspected { node, incarnation, by }),
        (any_target(), any_incarnation()).prop_map(|(node, incarnation)| Claim::Down { node, incarnation }),
        (any_target(), any_incarnation()).prop_map(|(node, incarnation)| Claim::Left { node, incarnation }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u64>(), proptest::option::of(any_target()), any_incarnation())
            .prop_map(|(token, target, incarnation)| Message::Ping { token, target, incarnation }),
        (any::<u64>(), any_target()).prop_map(|(token, target)| Message::PingRequest { token, target }),
        any::<u64>().prop_map(|token| Message::Ack { token }),
        any::<u64>().prop_map(|token| Message::Nack { token }),
        Just(Message::Gossip),
        (any::<u64>(), any::<bool>()).prop_map(|(digest, is_answer)| Message::Pull { digest, is_answer }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever holders of the key say, in whatever order timers come due, what is kept stays within its limits.
    #[test]
    fn peers_cannot_make_it_keep_or_send_more_than_its_limits(
        said in proptest::collection::vec((any_member(), any_message(), proptest::collection::vec(any_claim(), 0..6)), 1..120),
        waits in proptest::collection::vec(0..700_u64, 120),
    ) {
        let settings = Settings { members_max: 20, known_peers_max: 10, ..Settings::lan() };
        let mut machine = machine(1, settings);
        let (mut now, mut counter) = (Moment(0), 0);
        let mut timers = Vec::new();
        for ((from, message, claims), wait) in said.into_iter().zip(waits) {
            now = now.after(Duration::from_millis(wait));
            counter += 1;
            let input = sealed(&Envelope { counter, from, message }, &claims, &keys(1));
            let mut effects = feed(&mut machine, now, input);
            for (timer, _) in timers.extract_if(.., |(_, at)| *at <= now).collect::<Vec<_>>() {
                effects.extend(feed(&mut machine, now, Input::Expired(timer)));
                let again = feed(&mut machine, now, Input::Expired(timer));
                prop_assert_eq!(again, Vec::new(), "a stale {:?} does nothing", timer);
            }
            prop_assert!(sends(&effects) <= 500, "{} datagrams", sends(&effects));
            for effect in &effects {
                match effect {
                    Effect::Arm { timer, at } => timers.push((*timer, *at)),
                    Effect::Send { bytes, .. } => prop_assert!(bytes.len() <= DATAGRAM_BYTES_MAX),
                    _ => {}
                }
            }
            prop_assert!(machine.members().count() <= 20);
            prop_assert!(machine.backlog() <= 21, "{} news", machine.backlog());
            prop_assert!(machine.known_peers().len() <= 10);
            prop_assert!(machine.replays.len() <= 20);
            prop_assert!(machine.probes.len() <= 20 && machine.relays.len() <= 120);
            prop_assert_eq!(machine.is_alive(&NodeId([1; 32])), true);
            let present = machine.members().filter(|(_, liveness)| !liveness.is_gone()).count();
            prop_assert_eq!(present, machine.table.present(), "those probed are those present");
        }
    }
}

fn roster(bytes: &[u8]) -> Input {
    let listed = bytes.iter().map(|byte| (NodeId([*byte; 32]), Some(address(*byte))));
    Input::RosterChanged(listed.collect())
}

#[test]
fn nobody_outside_the_roster_is_taken_in_answered_or_passed_on() {
    let mut machine = machine(1, Settings::lan());
    feed(&mut machine, Moment(1), datagram(9, 1, ping(), &[]));
    assert!(machine.is_alive(&NodeId([9; 32])), "without a roster anybody may be a member");
    feed(&mut machine, Moment(2), roster(&[1, 2]));
    assert_eq!(machine.liveness(&NodeId([9; 32])), None, "who is no member any more is forgotten");
    assert!(machine.known_peers().iter().all(|peer| peer.address != address(9)));
    let effects = feed(&mut machine, Moment(3), datagram(9, 2, ping(), &[]));
    assert!(matches!(effects.as_slice(), [Effect::Stranger(_)]), "{effects:?}");
    assert_eq!(machine.counters().dropped_strangers, 1);
    let rumour = [Claim::Alive(member(9, Incarnation::at_start(7)))];
    feed(&mut machine, Moment(4), datagram(2, 1, Message::Gossip, &rumour));
    assert_eq!(machine.liveness(&NodeId([9; 32])), None);
}

#[test]
fn a_listed_node_counts_as_alive_until_probes_fail_and_stays_where_it_is_listed() {
    let mut machine = machine(1, Settings { is_stream_probing: false, ..Settings::local() });
    feed(&mut machine, Moment(1), roster(&[1, 2, 3]));
    let told_elsewhere = Member { address: address(77), ..member(2, Incarnation::at_start(1)) };
    let envelope = Envelope { counter: 1, from: told_elsewhere, message: Message::Gossip };
    let effects = feed(&mut machine, Moment(2), sealed(&envelope, &[], &keys(1)));
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Up(member) if member.address == address(2)))
    );
    assert_eq!(machine.liveness(&NodeId([3; 32])), Some(Liveness::Alive));
    run_until_down(&mut machine, NodeId([3; 32]));
    let effects = feed(&mut machine, Moment(3_600_000_000), Input::Met(NodeId([3; 32])));
    let pings = |effect: &Effect| matches!(effect, Effect::Send { to, .. } if *to == address(3));
    assert!(effects.iter().any(pings), "it is told what was believed of it");
    assert_eq!(machine.liveness(&NodeId([3; 32])), Some(Liveness::Alive), "a stream shows that it is there");
}

/// Fires every timer in its order until a node is down.
fn run_until_down(machine: &mut Membership, node: NodeId) {
    let mut timers: std::collections::BTreeSet<(Moment, Timer)> =
        [Timer::Probe, Timer::Gossip, Timer::Pull].map(|timer| (Moment(6_000_000), timer)).into();
    for _ in 0..100_000 {
        let Some((at, timer)) = timers.pop_first() else { break };
        for effect in feed(machine, at, Input::Expired(timer)) {
            match effect {
                Effect::Arm { timer, at } => drop(timers.insert((at, timer))),
                Effect::Down(down) if down == node => return,
                _ => {}
            }
        }
    }
    panic!("no node went down");
}
