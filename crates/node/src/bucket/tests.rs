//! How stamps and winners come about when cells meet.

use std::sync::Arc;

use slipring_model::{Actor, BucketId, BucketPolicy, Dot, ErrorKind, Position, Room, Timestamp};
use slipring_service::{Cell, Change, Context};
use slipring_storage::MemoryEngine;

use super::{Bucket, Locus, Refusal};

const AT: Position = Position(7);
const HERE: Actor = Actor { assignment: 1, incarnation: 1 };
const THERE: Actor = Actor { assignment: 2, incarnation: 1 };

fn bucket() -> Bucket {
    let name = "default".parse().expect("a name");
    Bucket::open(BucketId(0), name, BucketPolicy::durable(), Arc::new(MemoryEngine::new()), 1)
        .expect("a bucket")
}

/// A cell that another replica wrote.
fn theirs(counter: u64, stamp: Timestamp) -> Vec<u8> {
    let change = Change::Put { value: "theirs".into(), expires_at: None, seen: None };
    let mut bytes = Vec::new();
    Cell::default().changed(&change, Dot { actor: THERE, counter }, stamp).encode(&mut bytes);
    bytes
}

/// Writes a key here when the clock says 5 ms; its stamp.
fn write(bucket: &Bucket, key: &[u8]) -> Timestamp {
    let locus = Locus { position: AT, key, actor: HERE, is_alone: false, others: Room::Ample, wall_ms: 5 };
    let context = Context { now_ms: 5, random: 0, default_ttl_ms: None, keeps_siblings: false };
    let executed = bucket.execute(&locus, context, 1, |_, cells| cells.put("ours", None)).expect("written");
    assert!(executed.overwrite.is_some_and(|dot| dot.actor == HERE));
    Cell::decode(&executed.cell.expect("it changed")).expect("a cell").last_stamp()
}

#[test]
fn a_write_is_stamped_after_all_that_its_partition_has_merged() {
    let bucket = bucket();
    let heard = Timestamp::from_unix_ms(9_000);
    bucket.merge(AT, b"other", &theirs(1, heard), 1).expect("merged");
    assert!(write(&bucket, b"k") > heard);
}

#[test]
fn a_merge_tells_of_a_winner_that_the_other_replica_has_not_seen() {
    let bucket = bucket();
    let ours = write(&bucket, b"k");
    let look = |cell: &[u8]| bucket.merge_and_look(AT, b"k", cell, 1).expect("merged");
    let winner = look(&theirs(1, Timestamp(1))).expect("the later one is here");
    let winner = Cell::decode(&winner).expect("a cell");
    assert_eq!(winner.winner().map(|dot| dot.actor), Some(HERE));
    assert_eq!(winner.siblings.len(), 2, "it is stored all the same");
    assert!(look(&theirs(1, Timestamp(1))).is_some(), "though it is known by now");
    assert_eq!(look(&theirs(2, Timestamp(ours.0 + 1))), None);
}

#[test]
fn a_stamp_beyond_the_latest_is_refused_and_the_latest_leaves_a_key_writable() {
    let bucket = bucket();
    for stamp in [Timestamp::LATEST.0 + 1, u64::MAX] {
        let Err(Refusal::Failed(error)) = bucket.merge(AT, b"k", &theirs(1, Timestamp(stamp)), 1) else {
            panic!("a peer's stamp of {stamp} was taken")
        };
        assert_eq!(error.kind, ErrorKind::Invalid);
    }
    assert_eq!(write(&bucket, b"k"), Timestamp::from_unix_ms(5), "nothing is left of it");
    bucket.merge(AT, b"k", &theirs(1, Timestamp::LATEST), 1).expect("merged");
    for _ in 0..2 {
        assert_eq!(write(&bucket, b"k"), Timestamp::LATEST);
        let cell = bucket.cell(AT, b"k").expect("read").expect("there");
        let cell = Cell::decode(&cell).expect("a cell");
        assert_eq!((cell.siblings.len(), cell.winner().map(|dot| dot.actor)), (1, Some(HERE)));
    }
}
