//! The document under its commands.

use slipring_model::StorageId;
use slipring_model::bucket::EngineKind;

use super::*;

pub(super) fn node(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

pub(super) fn entry(byte: u8, zone: &str) -> NodeEntry {
    NodeEntry {
        storage: StorageId([byte; 16]),
        incarnation: 1,
        boot: 1,
        raft_id: 0,
        addresses: Addresses::default(),
        role: Role { zone: zone.to_owned(), weight: 100, state: NodeState::Active },
        versions: Versions::UNTOLD,
        signature: None,
    }
}

pub(super) fn founded() -> Layout {
    Layout::found(ClusterId([1; 16]), 8, (node(1), NodeEntry { raft_id: 1, ..entry(1, "a") }))
}

pub(super) fn join(layout: &mut Layout, index: u64, byte: u8) {
    let command = Command::AddNode { node: node(byte), entry: entry(byte, "a") };
    assert_eq!(layout.apply(index, &command), Ok(Applied::Node { raft_id: index }));
}

/// Every move under way is over; how many there were.
pub(super) fn arrive(layout: &mut Layout, index: u64) -> usize {
    let moves: Vec<MoveId> = layout.moves().map(|(id, _)| id).collect();
    let count = moves.len();
    assert_eq!(layout.apply(index, &Command::Arrived { moves }), Ok(Applied::Done));
    count
}

pub(super) fn of_four() -> Layout {
    let mut layout = founded();
    for byte in 2..=4 {
        join(&mut layout, u64::from(byte) * 10, byte);
        arrive(&mut layout, u64::from(byte) * 10 + 1);
    }
    layout
}

pub(super) fn change(node_byte: u8, change: NodeChange) -> Command {
    Command::Change { changes: vec![Change { node: node(node_byte), change }], expected_epoch: None }
}

#[test]
fn nodes_join_and_share_the_ring() {
    let mut layout = of_four();
    assert!(!layout.is_moving());
    let load = layout.load();
    // 256 partitions with 3 copies and 2 copies (the cache), over four nodes.
    assert!(load.values().all(|load| load.replicas == 192 + 128), "{load:?}");
    assert!(load.values().all(|load| load.primaries == 64 * 2), "{load:?}");
    let kept = layout.replicas(BucketId(0), PartitionId(0)).to_vec();
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|replica| [1, 20, 30, 40].contains(&(replica.assignment >> 3))));
    join(&mut layout, 50, 5);
    assert_eq!(layout.replicas(BucketId(0), PartitionId(0)), kept, "nothing is given up before it has moved");
}

#[test]
fn a_second_join_turns_the_moves_of_the_first() {
    let mut layout = founded();
    join(&mut layout, 20, 2);
    let first = layout.holders(BucketId(0), PartitionId(3)).and_then(|holders| holders.next.clone());
    assert_eq!(first.expect("moves").session, 20);
    join(&mut layout, 21, 3);
    let stale: Vec<MoveId> =
        layout.moves().map(|(id, _)| MoveId { session: 20, table: TableId(3), ..id }).collect();
    let before = layout.clone();
    layout.apply(22, &Command::Arrived { moves: stale }).expect("passed over");
    assert_eq!(layout, before, "what arrived was no longer where it should be");
    let holders = layout.holders(BucketId(0), PartitionId(3)).expect("held");
    let mut assignments: Vec<u64> = holders.target().iter().map(|replica| replica.assignment >> 3).collect();
    assignments.sort_unstable();
    assert_eq!(assignments, [1, 20, 21], "a copy under way keeps its number");
    assert_eq!(arrive(&mut layout, 23), 512, "256 partitions in each of two tables");
    assert!(!layout.is_moving());
}

#[test]
fn a_move_has_an_assignment_and_a_session_that_never_return() {
    let mut layout = of_four();
    let holders = |layout: &Layout| layout.holders(BucketId(0), PartitionId(7)).expect("held").clone();
    let before = holders(&layout);
    let away = before.replicas.first().expect("a primary").node;
    let byte = away.0.first().copied().expect("32 bytes");
    layout.apply(60, &change(byte, NodeChange::State(NodeState::Drained))).expect("drained");
    let moving = holders(&layout);
    assert_eq!(moving.replicas, before.replicas);
    assert_eq!(moving.next.as_ref().map(|next| next.session), Some(60));
    assert_eq!(moving.since, layout.epoch());
    let stale = MoveId { table: TableId(3), partition: 7, session: 40 };
    let epoch = layout.epoch();
    layout.apply(61, &Command::Arrived { moves: vec![stale] }).expect("passed over");
    assert_eq!((layout.epoch(), holders(&layout)), (epoch, moving));
    arrive(&mut layout, 62);
    assert!(!layout.holds_any(away) && layout.nodes().contains_key(&away), "drained, and a member");
    layout.apply(63, &change(byte, NodeChange::State(NodeState::Active))).expect("back");
    arrive(&mut layout, 64);
    let back = layout.moves().count() == 0 && layout.holds_any(away);
    assert!(back && layout.load().values().all(|load| load.replicas == 320));
    let mine =
        |partition| layout.holders(BucketId(0), PartitionId(partition)).and_then(|holders| holders.of(away));
    assert!((0..256).filter_map(mine).all(|replica| replica.assignment >> 3 == 63), "an old number returned");
}

#[test]
fn who_leaves_is_a_member_until_it_holds_nothing() {
    let mut layout = of_four();
    layout.apply(60, &change(4, NodeChange::State(NodeState::Leaving))).expect("leaves");
    assert!(layout.nodes().contains_key(&node(4)) && !layout.voters().contains(&node(4)));
    arrive(&mut layout, 61);
    assert_eq!(layout.nodes().len(), 3);
    assert!(layout.load().values().all(|load| load.replicas == 256 + 171 || load.replicas == 256 + 170));
    for byte in 1..=3 {
        let left = layout.apply(70, &change(byte, NodeChange::State(NodeState::Leaving)));
        assert_eq!(left.is_err(), byte == 3, "one must stay");
        if let Err(why) = left {
            assert!(why.to_string().contains("no node would be left to hold data"), "{why}");
        }
    }
}

#[test]
fn what_was_changed_is_taken_back_with_its_moves() {
    let before = of_four();
    let mut layout = before.clone();
    join(&mut layout, 50, 5);
    layout.apply(51, &change(1, NodeChange::Weight(300))).expect("heavier");
    layout.apply(52, &Command::Revert).expect("reverted");
    assert!(!layout.is_moving());
    assert_eq!(layout.nodes().get(&node(1)), before.nodes().get(&node(1)));
    assert_eq!(layout.nodes().get(&node(5)).map(|entry| entry.role.state), Some(NodeState::Drained));
    let epoch = layout.epoch();
    layout.apply(53, &Command::Revert).expect("nothing to take back");
    assert_eq!(layout.epoch(), epoch);
    let mut layout = before;
    layout.apply(60, &change(1, NodeChange::State(NodeState::Drained))).expect("drained");
    let half: Vec<MoveId> = layout.moves().map(|(id, _)| id).take(50).collect();
    layout.apply(61, &Command::Arrived { moves: half }).expect("half has arrived");
    layout.apply(62, &Command::Revert).expect("reverted");
    let reverted = layout.clone();
    assert!(layout.is_moving(), "what had arrived goes back");
    layout.apply(63, &Command::Revert).expect("told twice");
    assert_eq!(layout, reverted);
}

#[test]
fn replicas_that_one_command_places_have_numbers_of_their_own() {
    let mut layout = of_four();
    join(&mut layout, 50, 5);
    arrive(&mut layout, 51);
    let policy = BucketPolicy { replicas: 5, ..BucketPolicy::durable() };
    let name = "five".parse().expect("a name");
    let Ok(Applied::Bucket(bucket)) = layout.apply(60, &Command::CreateBucket { name, policy }) else {
        panic!("a bucket");
    };
    let numbers = |bucket, partition| -> BTreeSet<u64> {
        layout.replicas(bucket, PartitionId(partition)).iter().map(|replica| replica.assignment).collect()
    };
    assert!((0..256).all(|partition| numbers(bucket, partition).len() == 5), "two would issue the same dots");
    assert!((0..256).all(|partition| numbers(BucketId(0), partition).len() == 3));
}

#[test]
fn a_plan_tells_what_would_move_and_changes_nothing() {
    let layout = of_four();
    let changes = [Change { node: node(1), change: NodeChange::State(NodeState::Drained) }];
    let plan = layout.plan(&changes.to_vec().into()).expect("possible");
    assert_eq!(layout, of_four());
    assert_eq!(plan.moves.len(), 192 + 128);
    assert!(plan.moves.iter().all(|moved| moved.from.contains(&node(1)) && !moved.to.contains(&node(1))));
    assert_eq!(plan.load_after.get(&node(1)).map(|load| load.replicas), Some(0));
    let late = Command::Change { changes: changes.to_vec(), expected_epoch: Some(plan.epoch - 1) };
    assert_eq!(layout.clone().apply(60, &late), Err(Refused::Moved { epoch: plan.epoch }));
}

#[test]
fn each_change_raises_the_epoch_by_one_and_marks_what_it_moved() {
    let mut layout = of_four();
    let mut epoch = layout.epoch();
    let mut raises = |layout: &mut Layout, index, command: &Command| {
        layout.apply(index, command).expect("possible");
        epoch += 1;
        assert_eq!(layout.epoch(), epoch, "{command:?}");
        // Whoever knows an older layout must hear of what changed, and of nothing else.
        layout.tables.values().flatten().filter(|holders| holders.since == epoch).count()
    };
    let name: BucketName = "one".parse().expect("a name");
    let policy = BucketPolicy { replicas: 1, ..BucketPolicy::durable() };
    assert_eq!(raises(&mut layout, 60, &Command::CreateBucket { name: name.clone(), policy }), 256);
    assert_eq!(raises(&mut layout, 61, &Command::DeleteBucket { name }), 0);
    let heavier = raises(&mut layout, 62, &change(1, NodeChange::Weight(200)));
    let moves: Vec<MoveId> = layout.moves().map(|(id, _)| id).collect();
    assert!(heavier > 0 && heavier == moves.len());
    let some: Vec<MoveId> = moves.into_iter().take(20).collect();
    assert_eq!(raises(&mut layout, 63, &Command::Arrived { moves: some }), 20);
    assert!(raises(&mut layout, 64, &Command::Revert) >= heavier - 20, "what turned back has changed, too");
}

#[test]
fn a_node_that_is_lost_stays_lost() {
    let state = |layout: &Layout| layout.nodes().get(&node(4)).map(|entry| entry.role.state);
    let mut layout = of_four();
    layout.apply(60, &change(1, NodeChange::Weight(300))).expect("heavier");
    layout.apply(61, &change(4, NodeChange::State(NodeState::Lost))).expect("lost");
    let epoch = layout.epoch();
    let again = layout.apply(62, &change(4, NodeChange::State(NodeState::Lost)));
    assert_eq!(again, Ok(Applied::Changed { epoch }), "told twice");
    let back = layout.apply(63, &change(4, NodeChange::State(NodeState::Active)));
    assert!(matches!(back, Err(Refused::Impossible(_))), "{back:?}");
    layout.apply(64, &Command::Revert).expect("reverted");
    assert_eq!(state(&layout), Some(NodeState::Lost));
}

#[test]
fn a_move_keeps_its_session_until_it_is_aimed_elsewhere_or_back() {
    let replicas =
        |nodes: &[u8]| nodes.iter().map(|byte| Replica { node: node(*byte), assignment: 8 }).collect();
    let ids = |nodes: &[u8]| nodes.iter().map(|byte| node(*byte)).collect::<Vec<_>>();
    let aimed = |next: Option<&[u8]>, at: &[u8]| {
        let next = next.map(|nodes| Move { replicas: replicas(nodes), session: 60 });
        let mut holders = Holders { replicas: replicas(&[1, 2]), next, since: 5 };
        holders.aim(&ids(at), 70, 9);
        let nodes =
            |replicas: &[Replica]| replicas.iter().map(|replica| replica.node.0[0]).collect::<Vec<_>>();
        let session = holders.next.as_ref().map(|next| next.session);
        (nodes(&holders.replicas), nodes(holders.target()), session, holders.since)
    };
    let same = |nodes: &[u8]| nodes.to_vec();
    assert_eq!(aimed(None, &[2, 1]), (same(&[2, 1]), same(&[2, 1]), None, 5), "another order is no move");
    assert_eq!(aimed(None, &[2, 3]), (same(&[1, 2]), same(&[2, 3]), Some(70), 9));
    assert_eq!(aimed(Some(&[2, 3]), &[3, 2]), (same(&[1, 2]), same(&[3, 2]), Some(60), 5));
    assert_eq!(aimed(Some(&[2, 3]), &[3, 4]), (same(&[1, 2]), same(&[3, 4]), Some(70), 9));
    assert_eq!(aimed(Some(&[2, 3]), &[2, 1]), (same(&[2, 1]), same(&[2, 1]), None, 9), "aimed back");
}

#[test]
fn who_joins_again_is_the_same_member_and_an_impostor_is_not() {
    let mut layout = founded();
    join(&mut layout, 20, 2);
    let before = layout.clone();
    let add = |entry| Command::AddNode { node: node(2), entry };
    assert_eq!(layout.apply(30, &add(entry(2, "a"))), Ok(Applied::Node { raft_id: 20 }));
    assert_eq!(layout.apply(31, &add(entry(9, "a"))), Err(Refused::OtherStorage { node: node(2) }));
    assert_eq!(layout, before);
}

#[test]
fn a_change_planned_for_another_epoch_is_refused_unless_it_is_done_already() {
    let mut layout = of_four();
    let epoch = layout.epoch();
    let heavier = |expected| Command::Change {
        changes: vec![Change { node: node(1), change: NodeChange::Weight(300) }],
        expected_epoch: Some(expected),
    };
    assert_eq!(layout.apply(60, &heavier(epoch - 1)), Err(Refused::Moved { epoch }));
    assert_eq!(layout.apply(61, &heavier(epoch)), Ok(Applied::Changed { epoch: epoch + 1 }));
    assert_eq!(layout.apply(62, &heavier(epoch)), Ok(Applied::Changed { epoch: epoch + 1 }), "told twice");
}

#[test]
fn a_change_out_of_its_range_is_refused() {
    let layout = of_four();
    let refused = |asked: NodeChange, reason: &str| match layout.clone().apply(60, &change(1, asked.clone()))
    {
        Err(Refused::Impossible(why)) => assert!(why.contains(reason), "{why}"),
        other => panic!("{asked:?}: {other:?}"),
    };
    refused(NodeChange::Weight(0), "1..=1000000; drain");
    refused(NodeChange::Weight(1_000_001), "1..=1000000");
    refused(NodeChange::Zone(String::new()), "1 to 64 bytes");
    refused(NodeChange::Zone("z".repeat(65)), "1 to 64 bytes");
    for asked in [NodeChange::Weight(1), NodeChange::Weight(1_000_000), NodeChange::Zone("z".repeat(64))] {
        layout.clone().apply(60, &change(1, asked)).expect("at the edge");
    }
}

#[test]
fn changes_of_one_node_that_contradict_each_other_are_refused() {
    let layout = of_four();
    let plan = |changes: &[(u8, NodeChange)]| {
        let nodes = changes.iter().map(|(byte, change)| Change { node: node(*byte), change: change.clone() });
        layout.plan(&nodes.collect::<Vec<_>>().into()).map(drop).map_err(|refused| refused.to_string())
    };
    let (drain, restore) = (NodeChange::State(NodeState::Drained), NodeChange::State(NodeState::Active));
    let (light, heavy) = (NodeChange::Weight(50), NodeChange::Weight(300));
    let (here, there) = (NodeChange::Zone("a".to_owned()), NodeChange::Zone("b".to_owned()));
    for (one, other, kind) in
        [(&drain, &restore, "state"), (&light, &heavy, "weight"), (&here, &there, "zone")]
    {
        let why = plan(&[(1, one.clone()), (1, other.clone())]).expect_err("refused");
        assert!(why.contains(&node(1).short()) && why.contains(&format!("more than one {kind}")), "{why}");
    }
    assert_eq!(plan(&[(1, drain), (1, light.clone()), (1, there), (2, light)]), Ok(()));
}

#[test]
fn a_full_cluster_takes_no_more() {
    let mut layout = founded();
    for index in layout.nodes.len()..limits::NODES_MAX {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(index as u64).to_le_bytes());
        let role = Role { weight: 0, ..entry(0, "a").role };
        layout.nodes.insert(NodeId(id), NodeEntry { role, ..entry(0, "a") });
    }
    let added = layout.apply(20, &Command::AddNode { node: node(2), entry: entry(2, "a") });
    assert!(matches!(added, Err(Refused::Impossible(_))), "{added:?}");
    let name = |number: usize| format!("b{number}").parse::<BucketName>().expect("a name");
    for number in layout.buckets.len()..limits::BUCKETS_MAX {
        let bucket = BucketEntry::new(name(number), BucketPolicy::durable());
        layout.buckets.insert(BucketId(number as u32), bucket);
    }
    let create = Command::CreateBucket { name: name(0), policy: BucketPolicy::durable() };
    assert!(matches!(layout.apply(21, &create), Err(Refused::Impossible(_))));
    let missing = Command::DeleteBucket { name: name(0) };
    assert_eq!(layout.apply(22, &missing), Err(Refused::NoSuchBucket { name: name(0) }));
}

#[test]
fn what_single_failures_would_take_away_is_counted() {
    let exposed = |layout: &Layout| -> Vec<(String, u64, u64)> {
        let all = layout.exposures().into_iter();
        all.map(|found| (found.what, found.without_quorum, found.without_copy)).collect()
    };
    let named = |byte: u8| format!("node {}", node(byte).short());
    let of = |zones: [&str; 3], count: u8| {
        let mut layout = founded();
        layout.nodes.get_mut(&node(1)).expect("the founder").role.zone = zones[0].to_owned();
        for (byte, zone) in (2..=count).zip(&zones[1..]) {
            let command = Command::AddNode { node: node(byte), entry: entry(byte, zone) };
            layout.apply(u64::from(byte) * 10, &command).expect("joins");
            assert!(
                layout.under_replicated() == if byte == 2 { 512 } else { 256 },
                "nothing has arrived yet"
            );
            arrive(&mut layout, u64::from(byte) * 10 + 1);
        }
        layout
    };
    let alone = of(["a", "", ""], 1);
    assert_eq!(exposed(&alone), [(named(1), 512, 512), ("zone a".to_owned(), 512, 512)]);
    let two = of(["", "", ""], 2);
    assert_eq!(exposed(&two), [(named(1), 256, 0), (named(2), 256, 0)], "the cache asks for one copy");
    let three = of(["a", "a", "b"], 3);
    assert_eq!(exposed(&three), [("zone a".to_owned(), 256, 0)]);
    assert_eq!([alone, two, three].map(|layout| layout.under_replicated()), [512, 256, 0]);
}

#[test]
fn an_older_start_of_a_node_is_refused() {
    let mut layout = founded();
    let update = |incarnation, storage| Command::UpdateNode {
        node: node(1),
        storage: StorageId([storage; 16]),
        incarnation,
        boot: 7 * incarnation,
        addresses: Addresses::default(),
        versions: Versions::UNTOLD,
        signature: None,
    };
    assert_eq!(layout.apply(2, &update(3, 1)), Ok(Applied::Done));
    assert_eq!(layout.apply(3, &update(2, 1)), Err(Refused::RolledBack { registered: 3, incarnation: 2 }));
    assert_eq!(layout.apply(4, &update(4, 9)), Err(Refused::OtherStorage { node: node(1) }));
    assert_eq!(layout.epoch(), 2);
    assert_eq!(layout.apply(5, &update(3, 1)), Ok(Applied::Done), "told again");
    let Command::UpdateNode { node: who, storage, incarnation, addresses, versions, .. } = update(3, 1)
    else {
        panic!("an update");
    };
    let copied = Command::UpdateNode {
        node: who,
        storage,
        incarnation,
        boot: 1,
        addresses,
        versions,
        signature: None,
    };
    assert_eq!(layout.apply(6, &copied), Err(Refused::RolledBack { registered: 3, incarnation: 3 }));
}

#[test]
fn the_level_is_what_every_member_speaks_and_those_that_do_not_tell_speak_the_first() {
    let mut layout = founded();
    join(&mut layout, 2, 2);
    let update = |byte: u8, newest| Command::UpdateNode {
        node: node(byte),
        storage: StorageId([byte; 16]),
        incarnation: 1 + u64::from(newest),
        boot: 1,
        addresses: Addresses::default(),
        versions: Versions { oldest: 2, newest },
        signature: None,
    };
    assert_eq!(layout.level(), 2);
    layout.apply(3, &update(1, 3)).expect("it started");
    assert_eq!(layout.level(), 2, "the other cannot read more");
    layout.apply(4, &update(2, 4)).expect("it started");
    assert_eq!(layout.level(), 3);
    // A document and a command of nodes that knew no versions.
    let mut document = serde_json::to_value(&layout).expect("plain data");
    let nodes = document["nodes"].as_object_mut().expect("nodes");
    nodes.values_mut().for_each(|entry| drop(entry.as_object_mut().expect("an entry").remove("versions")));
    let read: Layout = serde_json::from_value(document).expect("it is read");
    assert_eq!((read.level(), read.epoch()), (2, layout.epoch()));
    let mut command = serde_json::to_value(update(1, 9)).expect("plain data");
    command["UpdateNode"].as_object_mut().expect("fields").remove("versions");
    let read: Command = serde_json::from_value(command).expect("it is read");
    layout.apply(5, &read).expect("it started");
    assert_eq!(layout.level(), 2, "it was started as an older one");
}

#[test]
fn who_cannot_read_what_the_layout_needs_is_no_member() {
    let mut layout = founded();
    layout.floor = 4;
    let spoken = |newest| NodeEntry { versions: Versions { oldest: 2, newest }, ..entry(2, "") };
    let add = |newest| Command::AddNode { node: node(2), entry: spoken(newest) };
    let too_old = Err(Refused::TooOld { floor: 4, newest: 3 });
    assert_eq!(layout.apply(2, &add(3)), too_old);
    assert_eq!(layout.apply(3, &add(4)), Ok(Applied::Node { raft_id: 3 }));
    let update = |newest, incarnation| Command::UpdateNode {
        node: node(2),
        storage: StorageId([2; 16]),
        incarnation,
        boot: 1,
        addresses: Addresses::default(),
        versions: Versions { oldest: 2, newest },
        signature: None,
    };
    assert_eq!(layout.apply(4, &update(3, 9)), too_old, "it came back as an older build");
    assert_eq!(layout.apply(5, &update(5, 9)), Ok(Applied::Done));
}

#[test]
fn a_bucket_number_is_never_used_again() {
    let mut layout = founded();
    let name: BucketName = "users".parse().expect("a name");
    let create = Command::CreateBucket { name: name.clone(), policy: BucketPolicy::durable() };
    assert_eq!(layout.apply(2, &create), Ok(Applied::Bucket(BucketId(2))));
    assert_eq!(layout.apply(3, &create), Ok(Applied::Bucket(BucketId(2))));
    let other = BucketPolicy { engine: EngineKind::Memory, ..BucketPolicy::cache() };
    let clash = Command::CreateBucket { name: name.clone(), policy: other };
    assert_eq!(layout.apply(4, &clash), Err(Refused::NameTaken { name: name.clone() }));
    assert_eq!(layout.apply(5, &Command::DeleteBucket { name }), Ok(Applied::Done));
    assert_eq!(layout.apply(6, &create), Ok(Applied::Bucket(BucketId(3))));
    let default = Command::DeleteBucket { name: "default".parse().expect("a name") };
    assert_eq!(layout.apply(7, &default), Err(Refused::DefaultBucket));
}

#[test]
fn voters_are_odd_and_spread_over_zones() {
    let mut layout = founded();
    assert_eq!(layout.voters(), BTreeSet::from([node(1)]));
    for (index, zone) in ["a", "b", "c", "c"].iter().enumerate() {
        let byte = index as u8 + 2;
        let entry = entry(byte, zone);
        let command = Command::AddNode { node: node(byte), entry };
        layout.apply(u64::from(byte), &command).expect("joins");
        if byte == 4 {
            assert_eq!(layout.voters(), BTreeSet::from([node(1), node(3), node(4)]), "one of each zone");
        }
    }
    assert_eq!(layout.voters().len(), 5);
}

#[test]
fn the_document_survives_its_text() {
    let mut layout = founded();
    join(&mut layout, 9, 2);
    let json = serde_json::to_string(&layout).expect("plain data");
    assert_eq!(serde_json::from_str::<Layout>(&json).expect("its own text"), layout);
}

#[test]
fn addresses_of_older_releases_have_no_cluster_port() {
    let older = r#"{"peer":"a:1","redis":"a:2","http":"a:3"}"#;
    let read: Addresses = serde_json::from_str(older).expect("it is read");
    assert_eq!((read.redis.as_str(), read.redis_cluster.as_str()), ("a:2", ""));
    assert_eq!(serde_json::to_string(&read).expect("plain data"), older, "and written as it was");
    let newer = Addresses { redis_cluster: "a:4".into(), ..read };
    let text = serde_json::to_string(&newer).expect("plain data");
    assert_eq!(serde_json::from_str::<Addresses>(&text).ok(), Some(newer));
}

#[test]
fn members_are_called_by_each_of_their_addresses() {
    let addresses = Addresses {
        peer: "a:1".into(),
        redis: "a:2".into(),
        http: "a:3".into(),
        redis_cluster: "a:4".into(),
    };
    let entry = NodeEntry { addresses, ..entry(1, "") };
    let layout = Layout::found(ClusterId::default(), 4, (node(1), entry));
    for name in ["a:1", "a:2", "a:3", "a:4"] {
        assert_eq!(layout.member_called(name), Ok(node(1)), "{name}");
    }
    assert!(layout.member_called("").is_err() && layout.member_called("a:5").is_err());
}
