//! Every engine against a plain ordered map: the same writes, the same answers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use slipring_model::{BucketId, Position};
use slipring_storage::faults::FaultyEngine;
use slipring_storage::{DiskEngine, Engine, MemoryEngine, RecordKey, Write};

type Key = (u32, u64, Vec<u8>);
type Model = BTreeMap<Key, Vec<u8>>;

fn key() -> impl Strategy<Value = Key> {
    // Few positions, so that several keys share one; at both ends of the ring.
    let position = prop_oneof![Just(0), 1..4_u64, Just(u64::MAX - 1), Just(u64::MAX), Just(1 << 56)];
    (prop_oneof![0..2_u32, Just(u32::MAX)], position, proptest::collection::vec(0..3_u8, 0..3))
}

fn writes() -> impl Strategy<Value = Vec<Vec<(Key, Option<Vec<u8>>)>>> {
    let write = (key(), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)));
    proptest::collection::vec(proptest::collection::vec(write, 1..4), 0..20)
}

fn at(key: &Key) -> RecordKey<'_> {
    RecordKey { bucket: BucketId(key.0), position: Position(key.1), key: &key.2 }
}

fn apply(engine: &dyn Engine, model: &mut Model, batches: &[Vec<(Key, Option<Vec<u8>>)>]) {
    for batch in batches {
        let writes: Vec<Write<'_>> =
            batch.iter().map(|(key, record)| Write { at: at(key), record: record.as_deref() }).collect();
        engine.apply(&writes).expect("applied");
        for (key, record) in batch {
            match record {
                Some(record) => drop(model.insert(key.clone(), record.clone())),
                None => drop(model.remove(key)),
            }
        }
    }
}

fn read(engine: &dyn Engine, key: &Key) -> Option<Vec<u8>> {
    let mut found = None;
    engine.read(at(key), &mut |record| found = record.map(<[u8]>::to_vec)).expect("read");
    found
}

fn scan(engine: &dyn Engine, from: &Key, to: u64, limit: usize) -> Vec<(Key, Vec<u8>)> {
    let mut found = Vec::new();
    let after = Some((Position(from.1), from.2.as_slice()));
    engine
        .scan(BucketId(from.0), Position(from.1)..=Position(to), after, &mut |position, key, record| {
            found.push(((from.0, position.0, key.to_vec()), record.expect("whole").to_vec()));
            found.len() < limit
        })
        .expect("scanned");
    found
}

fn compare(engine: &dyn Engine, model: &Model, keys: &[Key], limit: usize) -> Result<(), TestCaseError> {
    for key in keys.iter().chain(model.keys()) {
        prop_assert_eq!(read(engine, key), model.get(key).cloned());
    }
    for key in keys {
        let to = key.1.saturating_add(2);
        let expected: Vec<(Key, Vec<u8>)> = model
            .range((std::ops::Bound::Excluded(key.clone()), std::ops::Bound::Unbounded))
            .take_while(|((bucket, position, _), _)| *bucket == key.0 && *position <= to)
            .take(limit)
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect();
        prop_assert_eq!(scan(engine, key, to, limit), expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn memory_holds_what_was_written(batches in writes(), keys in proptest::collection::vec(key(), 1..6), limit in 1..5_usize) {
        let (engine, mut model) = (MemoryEngine::new(), Model::new());
        apply(&engine, &mut model, &batches);
        compare(&engine, &model, &keys, limit)?;
    }

    #[test]
    fn power_takes_what_was_not_synced_and_nothing_else(kept in writes(), lost in writes()) {
        let (engine, mut model) = (FaultyEngine::new(), Model::new());
        apply(&engine, &mut model, &kept);
        engine.sync().expect("synced");
        apply(&engine, &mut model.clone(), &lost);
        let keys: Vec<Key> = lost.iter().flatten().map(|(key, _)| key.clone()).collect();
        let _ = engine.lose_power(0);
        compare(&engine, &model, &keys, usize::MAX)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_disk_holds_what_was_written_also_after_opening_it_again(
        batches in writes(),
        keys in proptest::collection::vec(key(), 1..6),
        limit in 1..5_usize,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut model = Model::new();
        {
            let engine = DiskEngine::open(folder.path()).expect("opened");
            apply(&engine, &mut model, &batches);
            compare(&engine, &model, &keys, limit)?;
        }
        let engine = DiskEngine::open(folder.path()).expect("opened again");
        compare(&engine, &model, &keys, limit)?;
    }
}
