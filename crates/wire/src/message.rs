//! What peers ask of each other, and what they answer.
//!
//! New kinds are added at the end and fields never change: a peer of another version refuses what it does
//! not know by name of the message, not by closing the connection.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slipring_model::{BucketId, ErrorKind, NodeId, Position, Room, Signature, StorageId};

/// One message in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A question; its id is the asker's.
    Request {
        /// Comes back in the reply.
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// The answer to one.
    Reply {
        /// That of the request.
        id: u64,
        /// What is answered.
        reply: Reply,
    },
}

/// What a peer may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Merge this cell into the replica's copy. Answer: `Stored`.
    Store {
        /// The key's bucket.
        bucket: BucketId,
        /// The layout the sender works with; one older than the replica's copy is `Stale`.
        epoch: u64,
        /// The key.
        key: Bytes,
        /// The encoded cell.
        cell: Bytes,
    },
    /// The whole cell of a key. Answer: `Cell`.
    Fetch {
        /// The key's bucket.
        bucket: BucketId,
        /// The layout the sender works with.
        epoch: u64,
        /// The key.
        key: Bytes,
    },
    /// The digest of a key's cell. Answer: `Digest`.
    Digest {
        /// The key's bucket.
        bucket: BucketId,
        /// The layout the sender works with.
        epoch: u64,
        /// The key.
        key: Bytes,
    },
    /// Coordinate a client's request. Answer: `Executed`.
    Execute {
        /// The key's bucket.
        bucket: BucketId,
        /// The layout the sender works with.
        epoch: u64,
        /// Answers a read waits for; 0 as the bucket says.
        read_acks: u8,
        /// Acknowledgements a write waits for; 0 as the bucket says.
        write_acks: u8,
        /// Milliseconds the client still waits.
        deadline_ms: u32,
        /// The request, as the bucket's service encodes it.
        request: Bytes,
    },
    /// Live keys of a range. Answer: `Keys`.
    Scan {
        /// The bucket.
        bucket: BucketId,
        /// First position.
        from: Position,
        /// Last position.
        to: Position,
        /// The most keys to answer with, but for keys that share a position.
        limit: u32,
    },
    /// How many live keys some partitions hold, as the ring was cut at the founding. Answer: `Count`.
    Count {
        /// The bucket.
        bucket: BucketId,
        /// The partitions.
        partitions: Vec<u16>,
    },
    /// Which of these partition roots differ, as the ring was cut at the founding. Answer: `Roots`.
    Roots {
        /// The bucket.
        bucket: BucketId,
        /// Partition and its 16-byte root.
        roots: Vec<(u16, Bytes)>,
    },
    /// Compare one page of keys and digests. Answer: `Digests`.
    Digests {
        /// The bucket.
        bucket: BucketId,
        /// First position of the page.
        from: Position,
        /// Last position of the page.
        to: Position,
        /// Keys and the digests of their cells.
        entries: Vec<(Bytes, u64)>,
    },
    /// A message of the layout group, opaque here. Answer: `Layout`.
    Layout(Bytes),
    /// A node asks to join; its descriptor as JSON. Answer: `Joined`.
    Join(Bytes),
    /// What only the node itself knows. Answer: `Status`.
    Status,
    /// The sender stops, and stays a member. Answer: `Done`.
    Goodbye,
    /// The cells of a range that the asker lacks, or has otherwise; it takes the partition over. Answer: `Page`.
    Pull {
        /// The bucket.
        bucket: BucketId,
        /// The layout of the move; who does not know it yet waits until it does.
        epoch: u64,
        /// First position.
        from: Position,
        /// Last position, of the same partition.
        to: Position,
        /// Keys of the range that the asker has, and the digests of their cells.
        entries: Vec<(Bytes, u64)>,
    },
    /// Which partitions the asked node has taken over. Answer: `TakenOver`.
    Moves,
    /// What a node that belongs to no cluster says of itself, as JSON. Answer: `Introduced`.
    Introduce(Bytes),
    /// As `Count`, of a ring that was split. Answer: `Count`.
    CountOfCut {
        /// The bucket.
        bucket: BucketId,
        /// How many bits of a position name its partition.
        bits: u8,
        /// The partitions.
        partitions: Vec<u16>,
    },
    /// As `Roots`, of a ring that was split; refused where it is cut otherwise. Answer: `Roots`.
    RootsOfCut {
        /// The bucket.
        bucket: BucketId,
        /// How many bits of a position name its partition.
        bits: u8,
        /// Partition and its 16-byte root.
        roots: Vec<(u16, Bytes)>,
    },
    /// What the asked node's wall clock shows. Answer: `Clock`.
    Clock,
    /// The asked node has started since from a later copy of its directory: it must stop. Says so by that start, as the
    /// node itself has signed it, whoever sends it. Answer: `Done`.
    LaterStart {
        /// The data directory.
        storage: StorageId,
        /// How often it had started.
        incarnation: u64,
        /// Drawn at that start.
        boot: u64,
        /// The asked node's own.
        signature: Signature,
    },
    /// Who is a member, by the layout that the asked node works with. Answer: `Members`.
    Members,
    /// As `Store`, for a write that must win over every value acknowledged before it. Answer: `Stored`, or
    /// `Overtaken`.
    Overwrite {
        /// The key's bucket.
        bucket: BucketId,
        /// The layout the sender works with; one older than the replica's copy is `Stale`.
        epoch: u64,
        /// The key.
        key: Bytes,
        /// The encoded cell.
        cell: Bytes,
    },
    /// How much more the sender's stores take; said when it changes, and again while it is little. No answer.
    Room {
        /// On its disk.
        disk: Room,
        /// In its memory.
        memory: Room,
    },
    /// How many live keys some partitions hold that will expire. Answer: `Count`.
    CountEnding {
        /// The bucket.
        bucket: BucketId,
        /// How many bits of a position name its partition.
        bits: u8,
        /// The partitions.
        partitions: Vec<u16>,
    },
    /// Delete the keys of a page of a range, here and on the other replicas. Answer: `Cleared`.
    Clear {
        /// The bucket.
        bucket: BucketId,
        /// First position.
        from: Position,
        /// Last position.
        to: Position,
    },
    /// Merge the cells of a range whose keys were deleted. Answer: `StillThere`.
    MergeCleared {
        /// The bucket.
        bucket: BucketId,
        /// The layout the sender works with; one older than the replica's copy is `Stale`.
        epoch: u64,
        /// First position.
        from: Position,
        /// Last position, of the same partition.
        to: Position,
        /// Keys and cells, in the order of positions.
        cells: Vec<(Bytes, Bytes)>,
    },
}

/// What a peer may answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The cell is merged and as durable as the bucket promises.
    Stored,
    /// The cell; `None` when the key was never seen.
    Cell(Option<Bytes>),
    /// The digest; `None` when the key was never seen.
    Digest(Option<u64>),
    /// The service's encoded response.
    Executed(Bytes),
    /// Keys in position order; `next` where to go on, if anything is left in the range.
    Keys {
        /// The keys.
        keys: Vec<Bytes>,
        /// The position to go on from.
        next: Option<Position>,
    },
    /// A count.
    Count(u64),
    /// The partitions that differ.
    Roots(Vec<u16>),
    /// How the pages differ.
    Digests {
        /// Keys the answerer wants.
        missing: Vec<Bytes>,
        /// Keys and cells the asker lacks, or has otherwise.
        cells: Vec<(Bytes, Bytes)>,
        /// Where to go on, if not all of the page was compared.
        next: Option<Position>,
    },
    /// An answer of the layout group, opaque here.
    Layout(Bytes),
    /// The admission, as JSON.
    Joined(Bytes),
    /// The status, as JSON.
    Status(Bytes),
    /// Done.
    Done,
    /// It was not done.
    Failed {
        /// What the asker should do.
        kind: ErrorKind,
        /// Why, for people.
        message: String,
    },
    /// The asker's start is not its latest: nothing that it asks is answered. `LaterStart` shows it why.
    RolledBack,
    /// The request was made under an older layout of its partition and did nothing.
    Stale {
        /// The layout the answerer works with.
        epoch: u64,
    },
    /// Cells of a range, in position order.
    Page {
        /// Keys and cells the asker lacks, or has otherwise.
        cells: Vec<(Bytes, Bytes)>,
        /// Where to go on, if anything is left in the range.
        next: Option<Position>,
    },
    /// Moves whose data is here: table, partition, session.
    TakenOver(Vec<(u32, u16, u64)>),
    /// The cluster goes on without the asker: it must stop.
    Removed,
    /// What the answerer says of itself, as JSON.
    Introduced(Bytes),
    /// What the answerer's wall clock shows, whether right or wrong.
    Clock {
        /// Unix microseconds.
        wall_us: u64,
    },
    /// The members by the answerer's layout, and where peers reach them.
    Members {
        /// The layout.
        epoch: u64,
        /// The members that are not given up.
        nodes: Vec<(NodeId, String)>,
    },
    /// The cell is merged, but a value that the asker has not seen wins over it.
    Overtaken {
        /// The merged cell.
        cell: Bytes,
    },
    /// A page is cleared, on as many replicas as must store a write.
    Cleared {
        /// How many keys were deleted.
        count: u64,
        /// Where to go on, if anything is left in the range.
        next: Option<Position>,
    },
    /// The cells are merged and as durable as the bucket promises; these keys of the range have a value all the same.
    StillThere {
        /// The keys, and their cells without the values.
        cells: Vec<(Bytes, Bytes)>,
        /// Where to go on, if not all of the range was looked at.
        next: Option<Position>,
    },
}
