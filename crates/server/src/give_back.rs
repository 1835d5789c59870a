//! Memory that clients no longer hold goes back to the system.
//!
//! The allocator keeps what was freed until it is next asked for something large. A node that rests after an
//! overload asks for nothing, so this does, when clients hold much less than before.

use std::hint::black_box;
use std::time::Duration;

use slipring_node::ClientMemory;

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(1);
/// So much less is worth the trouble.
const DROP_BYTES: usize = 16 * 1024 * 1024;
/// What is asked for and freed at once. It is never touched, so it takes no memory.
const ASKED_BYTES: usize = 32 * 1024 * 1024;
/// The allocator gives back a part each time, and not at once.
const ROUNDS: u32 = 8;

/// Gives memory back until the process ends.
pub(crate) async fn run(memory: ClientMemory) {
    let mut rounds = 0;
    loop {
        tokio::time::sleep(INTERVAL).await;
        if memory.take_peak() >= memory.bytes() + DROP_BYTES {
            rounds = ROUNDS;
        }
        if rounds > 0 {
            rounds -= 1;
            drop(black_box(Vec::<u8>::with_capacity(ASKED_BYTES)));
        }
    }
}
