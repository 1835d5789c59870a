//! What may come into the log, on a leader that has nobody to ask.

use bytes::Bytes;
use futures::future::BoxFuture;
use redb::Database;
use redb::backends::InMemoryBackend;
use slipring_model::{BucketId, ClusterId, NodeId, StorageId};
use slipring_ring::{Addresses, Changes, Layout, NodeEntry, NodeState, Refused, Role, Spread};

use std::sync::Arc;

use super::*;
use crate::courier::Courier;
use crate::group::Settings;
use crate::log::Log;
use crate::protocol::{Parcel, encode};

const PATIENCE: Duration = Duration::from_secs(10);
const OLDER: u8 = 3;
const NEWER: u8 = 4;

/// Reaches nobody.
struct Nobody;

impl Courier for Nobody {
    fn call(
        &self,
        _to: NodeId,
        _request: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CourierError>> {
        Box::pin(async { Err(CourierError::NotSent) })
    }
}

fn node(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn entry(byte: u8, newest: u8) -> NodeEntry {
    NodeEntry {
        storage: StorageId([byte; 16]),
        incarnation: 1,
        boot: 1,
        raft_id: u64::from(byte),
        addresses: Addresses::default(),
        role: Role { zone: String::new(), weight: 100, state: NodeState::Active },
        versions: Versions { oldest: 2, newest },
        signature: None,
    }
}

/// A group of one, which leads, and its log.
async fn founded(newest: u8) -> (LayoutGroup, Log) {
    let database = Database::builder().create_with_backend(InMemoryBackend::new()).expect("a database");
    let database = Arc::new(database);
    let layout = Layout::found(ClusterId::default(), 3, (node(1), entry(1, newest)));
    let (me, log) = ((node(1), 1), Log(Arc::clone(&database)));
    let group = LayoutGroup::found(database, Settings::default(), me, layout, Arc::new(Nobody)).await;
    (group.expect("it founds"), log)
}

fn join(newest: u8) -> Command {
    Command::AddNode { node: node(2), entry: entry(2, newest) }
}

fn split(bits: u8) -> Command {
    Command::Split { bits, expected_epoch: None }
}

fn reshape(replicas: u8) -> Command {
    let spreads = vec![Spread { bucket: BucketId(0), replicas }];
    Command::Reshape { changes: Changes { nodes: Vec::new(), spreads }, expected_epoch: None }
}

/// The commands in the log that not every release can read.
fn newer(log: &Log) -> Vec<Command> {
    let entries = log.entries(..).expect("the log can be read");
    let command = |payload| match payload {
        openraft::EntryPayload::Normal(Proposal::Change(command)) => Some(*command),
        _ => None,
    };
    let commands = entries.into_iter().filter_map(|entry| command(entry.payload));
    commands.filter(|command| command.level() > Versions::UNTOLD.newest).collect()
}

/// What the leader answers to a member that hands a command on.
async fn handed_on(group: &LayoutGroup, command: Command) -> Answer {
    let call = Call::Propose { command, deadline_ms: 5_000 };
    let parcel = Parcel { lineage: group.lines.ancestry.current(), call };
    let answer = group.answer(encode(&parcel)).await.expect("it answers");
    decode(&answer).expect("it can be read")
}

#[tokio::test]
async fn what_a_member_could_not_read_is_not_appended_whoever_proposes_it() {
    let (group, log) = founded(OLDER).await;
    let refused = Refused::Level { needed: NEWER, level: OLDER };
    for command in [split(4), reshape(2)] {
        let failed = Err(ProposeError::Refused(refused.clone()));
        assert_eq!(group.propose(command.clone(), PATIENCE).await, failed);
        assert_eq!(group.propose_leading(command.clone(), PATIENCE).await, failed);
        let answer = handed_on(&group, command).await;
        assert!(matches!(&answer, Answer::Proposed(Outcome::Refused(why)) if *why == refused), "{answer:?}");
    }
    assert_eq!(newer(&log), []);
}

#[tokio::test]
async fn what_would_be_refused_leaves_the_log_readable_for_older_releases() {
    let (group, log) = founded(NEWER).await;
    for command in [split(9), reshape(0)] {
        let failed = group.propose(command, PATIENCE).await;
        assert!(matches!(failed, Err(ProposeError::Refused(Refused::Impossible(_)))), "{failed:?}");
    }
    assert_eq!(newer(&log), []);
    group.propose(join(OLDER), PATIENCE).await.expect("it can read all there is");
    let (group, log) = founded(NEWER).await;
    assert_eq!(group.propose(split(4), PATIENCE).await, Ok(Applied::Changed { epoch: 2 }));
    assert_eq!(newer(&log), [split(4)]);
    let late = group.propose(join(OLDER), PATIENCE).await;
    let too_old = Refused::TooOld { floor: NEWER, newest: OLDER };
    assert_eq!(late, Err(ProposeError::Refused(too_old)));
}

#[tokio::test]
async fn a_join_under_way_is_waited_for_also_when_its_proposer_does_not() {
    for is_given_up in [false, true] {
        let (group, log) = founded(NEWER).await;
        let mut joining = Box::pin(group.propose_leading(join(OLDER), PATIENCE));
        assert!(futures::poll!(joining.as_mut()).is_pending(), "it is on its way");
        let refused = if is_given_up {
            drop(joining);
            group.propose(split(4), PATIENCE).await
        } else {
            let (joined, refused) = tokio::join!(joining, group.propose(split(4), PATIENCE));
            joined.expect("it joins");
            refused
        };
        let level = Refused::Level { needed: NEWER, level: OLDER };
        assert_eq!(refused, Err(ProposeError::Refused(level)), "given up: {is_given_up}");
        assert_eq!(newer(&log), []);
    }
}
