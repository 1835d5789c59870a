//! What clients do: a mix of operations on a few hot keys and many cold ones.
//!
//! Keys are new every few seconds: the rules compare each read with each write of its key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use slipring_sim::{Action, BucketKind};

use crate::client::Client;
use crate::story::Story;

/// The buckets that clients use.
pub(crate) const BUCKETS: [BucketKind; 3] = [BucketKind::Buffered, BucketKind::Fsync, BucketKind::Cache];
/// Registers that half of the operations meet on.
const HOT_KEYS: usize = 3;
/// Registers of the other half.
const COLD_KEYS: usize = 40;
const COUNTERS: usize = 3;
/// How long the same keys are used, in milliseconds.
const SEASON_MS: u64 = 8_000;
/// Rests of one client between two operations, in milliseconds.
const REST_MS: std::ops::Range<u64> = 1..20;
const TTL_MS: std::ops::Range<u64> = 50..4_000;

/// Works until told to stop.
pub(crate) fn work(mut client: Client<'_>, mut rng: Rng, story: &Story, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(rng.u64(REST_MS)));
        let (bucket, key, action) = draw(&mut client, &mut rng, story.now_ms());
        client.perform(bucket, key, action, false);
    }
}

fn draw(client: &mut Client<'_>, rng: &mut Rng, now_ms: u64) -> (BucketKind, String, Action) {
    let bucket = match rng.u8(..20) {
        0..=8 => BucketKind::Buffered,
        9..=16 => BucketKind::Fsync,
        _ => BucketKind::Cache,
    };
    let season = now_ms / SEASON_MS;
    let register = if rng.bool() { rng.usize(..HOT_KEYS) } else { HOT_KEYS + rng.usize(..COLD_KEYS) };
    let register = format!("register-{season}-{register}");
    let counter = format!("counter-{season}-{}", rng.usize(..COUNTERS));
    match rng.u8(..20) {
        0..=6 => (bucket, register, Action::Set { value: client.fresh_value(), expires_at: None }),
        7 => {
            let expires_at = Some(now_ms + rng.u64(TTL_MS));
            (bucket, register, Action::Set { value: client.fresh_value(), expires_at })
        }
        8 | 9 => (bucket, register, Action::Delete),
        10..=14 => (bucket, register, Action::Get),
        15..=18 => (bucket, counter, Action::Add(rng.i64(1..10))),
        _ => (bucket, counter, Action::Total),
    }
}
