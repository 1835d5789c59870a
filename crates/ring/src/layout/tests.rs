//! The document under its commands.

use slipring_model::bucket::EngineKind;

use super::*;

fn node(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn entry(byte: u8, zone: &str) -> NodeEntry {
    NodeEntry {
        storage: StorageId([byte; 16]),
        incarnation: 1,
        boot: 1,
        raft_id: 0,
        addresses: Addresses::default(),
        zone: zone.to_owned(),
        weight: 100,
    }
}

fn founded() -> Layout {
    Layout::found(ClusterId([1; 16]), 8, (node(1), NodeEntry { raft_id: 1, ..entry(1, "a") }))
}

fn join(layout: &mut Layout, index: u64, byte: u8) {
    let command =
        Command::AddNode { node: node(byte), entry: entry(byte, "a"), expected_epoch: layout.epoch() };
    assert_eq!(layout.apply(index, &command), Ok(Applied::Node { raft_id: index }));
}

#[test]
fn nodes_join_and_share_the_ring() {
    let mut layout = founded();
    join(&mut layout, 10, 2);
    join(&mut layout, 11, 3);
    join(&mut layout, 12, 4);
    assert_eq!(layout.epoch(), 4);
    let load = layout.load();
    // 256 partitions with 3 copies and 2 copies (the cache), over four nodes.
    assert!(load.values().all(|load| load.replicas == 192 + 128), "{load:?}");
    assert!(load.values().all(|load| load.primaries == 64 * 2), "{load:?}");
    let kept = layout.replicas(BucketId(0), PartitionId(0));
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|replica| [1, 10, 11, 12].contains(&replica.assignment)));
}

#[test]
fn a_join_for_another_epoch_is_refused() {
    let mut layout = founded();
    let command = Command::AddNode { node: node(2), entry: entry(2, "a"), expected_epoch: 7 };
    assert_eq!(layout.apply(5, &command), Err(Refused::Moved { epoch: 1 }));
    assert_eq!(layout, founded());
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
    };
    assert_eq!(layout.apply(2, &update(3, 1)), Ok(Applied::Done));
    assert_eq!(layout.apply(3, &update(2, 1)), Err(Refused::RolledBack { registered: 3, incarnation: 2 }));
    assert_eq!(layout.apply(4, &update(4, 9)), Err(Refused::OtherStorage { node: node(1) }));
    assert_eq!(layout.epoch(), 2);
    assert_eq!(layout.apply(5, &update(3, 1)), Ok(Applied::Done), "told again");
    let Command::UpdateNode { node: who, storage, incarnation, addresses, .. } = update(3, 1) else {
        panic!("an update");
    };
    let copied = Command::UpdateNode { node: who, storage, incarnation, boot: 1, addresses };
    assert_eq!(layout.apply(6, &copied), Err(Refused::RolledBack { registered: 3, incarnation: 3 }));
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
        let command = Command::AddNode { node: node(byte), entry, expected_epoch: layout.epoch() };
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
