//! Every hard limit in one place. Configuration may lower some of them, never raise them.

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest bucket name, in bytes.
pub const BUCKET_NAME_BYTES_MAX: usize = 64;
/// The most copies of one key.
pub const REPLICAS_MAX: u8 = 7;
/// The most bits of a position that name its partition.
pub const PARTITION_BITS_MAX: u8 = 14;
/// The most siblings one cell may hold; further blind writes still replace what they have seen.
pub const SIBLINGS_MAX: usize = 64;
/// The largest frame between peers, in bytes. Leaves room for one value and its cell around it.
pub const FRAME_BYTES_MAX: usize = 24 * 1024 * 1024;
/// The most messages in one frame.
pub const FRAME_MESSAGES_MAX: usize = 4096;
/// Messages that may wait for one peer before senders are told that it is overloaded.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 64 * 1024;
/// Bytes that may wait for one peer before senders are told that it is overloaded.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections to the port for peers that no member has made, or not yet proven to be its own.
pub const GUESTS_MAX: usize = 256;
/// Bytes that one of them may send before it has proven an id.
pub const UNPROVEN_BYTES_MAX: u64 = 16 * 1024;
/// Bytes that it may send after that, while it is no member.
pub const GUEST_BYTES_MAX: u64 = 256 * 1024;
/// Client requests one node coordinates at a time.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64 * 1024;
/// Pipelined commands of one connection that may wait for their replies.
pub const PIPELINE_IN_FLIGHT_MAX: usize = 1024;
/// The most arguments of one Redis command.
pub const COMMAND_ARGUMENTS_MAX: usize = 64 * 1024;
/// The longest pattern that keys and names are matched with, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4 * 1024;
/// The longest inline Redis command, in bytes.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Reply bytes one connection may have waiting before the node stops reading its commands.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Client connections one node accepts on each port.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Connections of the HTTP port beyond that, which may ask for the node's health alone.
pub const HTTP_RESERVE_CONNECTIONS: usize = 16;
/// Connections of other nodes that one node accepts: one of each, and as many for questions.
pub const PEER_CONNECTIONS_MAX: usize = 2 * NODES_MAX;
/// Requests that one HTTP/2 connection may have under way.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 100;
/// Bytes that clients may have in flight on one node when nothing else is said.
pub const CLIENT_MEMORY_BYTES_DEFAULT: usize = 512 * 1024 * 1024;
/// The least that may be said: the largest value as it comes in, as it is kept, and as it goes out.
pub const CLIENT_MEMORY_BYTES_MIN: usize = 4 * VALUE_BYTES_MAX;
/// How often one write is run because its replicas hold later values that its coordinator had not seen.
pub const WRITE_RUNS_MAX: u8 = 8;
/// Hints kept for one absent replica; beyond it the exchange repairs instead.
pub const HINTS_PER_TARGET_MAX: usize = 1_000_000;
/// Records one page of a scan or an exchange may hold.
pub const PAGE_RECORDS_MAX: usize = 1024;
/// Keys that one page of a scan may be asked for.
pub const SCAN_KEYS_MAX: usize = 65_536;
/// Records that one look at a partition reads for a scan before others on its thread are let through.
pub const SCAN_PIECE_RECORDS: usize = 256;
/// The bytes of one look at a partition for a scan, and of the keys of one page; the last may go beyond it.
pub const SCAN_PIECE_BYTES: usize = 1024 * 1024;
/// Nodes that vote in the layout group.
pub const LAYOUT_VOTERS_MAX: usize = 5;
/// Buckets in one cluster.
pub const BUCKETS_MAX: usize = 256;
/// Nodes in one cluster.
pub const NODES_MAX: usize = 1000;
/// The largest share of a node, relative to the others'.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// The longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
