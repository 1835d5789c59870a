//! Any bytes of a peer are a frame, which survives its own encoding, or an error.
#![no_main]

mod seeds;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use slipring_model::{BucketId, ClusterId, ErrorKind, NodeId, Position, Signature, StorageId};
use slipring_wire::{Frame, Greeting, Hello, Message, PROTOCOL_VERSIONS, Reply, Request};

/// Frames with one message of many kinds, one with all of them, and a greeting.
fn examples() -> Vec<Bytes> {
    let (bucket, epoch, key, cell) = (BucketId(3), 7, Bytes::from("key"), Bytes::from("cell"));
    let (from, to) = (Position(0), Position(u64::MAX));
    let requests = [
        Request::Store { bucket, epoch, key: key.clone(), cell: cell.clone() },
        Request::Fetch { bucket, epoch, key: key.clone() },
        Request::Execute {
            bucket,
            epoch,
            read_acks: 2,
            write_acks: 0,
            deadline_ms: 500,
            request: cell.clone(),
        },
        Request::Count { bucket, partitions: vec![1, 2] },
        Request::CountEnding { bucket, bits: 8, partitions: vec![1, 2] },
        Request::Clear { bucket, from, to },
        Request::MergeCleared { bucket, epoch, from, to, cells: vec![(key.clone(), cell.clone())] },
        Request::Roots { bucket, roots: vec![(1, Bytes::from_static(&[7; 16]))] },
        Request::Join(Bytes::from("{}")),
        Request::Status,
        Request::LaterStart {
            storage: StorageId([2; 16]),
            incarnation: 3,
            boot: 4,
            signature: Signature([5; 64]),
        },
    ];
    let replies = [
        Reply::Stored,
        Reply::Cell(Some(cell.clone())),
        Reply::Digest(None),
        Reply::Keys { keys: vec![key.clone()], next: None },
        Reply::Digests { missing: vec![key.clone()], cells: vec![(key, cell)], next: None },
        Reply::Cleared { count: 3, next: Some(to) },
        Reply::StillThere { cells: vec![(Bytes::from("key"), Bytes::from("cell"))], next: None },
        Reply::Members { epoch: 7, nodes: vec![(NodeId([1; 32]), "127.0.0.1:7946".to_owned())] },
        Reply::Failed { kind: ErrorKind::Overloaded, message: "later".to_owned() },
    ];
    let requests = requests.map(|request| Message::Request { id: 1, request });
    let replies = replies.map(|reply| Message::Reply { id: 1, reply });
    let messages: Vec<Message> = requests.into_iter().chain(replies).collect();
    let cluster = ClusterId([5; 16]);
    let hello = Hello {
        versions: PROTOCOL_VERSIONS,
        cluster: Some(cluster),
        node: NodeId([1; 32]),
        storage: StorageId([2; 16]),
        incarnation: 3,
        boot: 4,
        peer_address: "127.0.0.1:7946".to_owned(),
        is_question: false,
        redis_cluster_address: "127.0.0.1:6479".to_owned(),
    };
    let single = messages.iter().map(|message| Frame::new(cluster, 9, vec![message.clone()]).encode());
    let mut all: Vec<Bytes> = single.collect();
    let greeting = Greeting { hello: hello.clone(), nonce: Some([6; 32]) };
    all.extend([Frame::new(cluster, 9, messages).encode(), hello.encode(), greeting.encode()]);
    all
}

fuzz_target!(init: seeds::plant(examples()), |bytes: &[u8]| {
    if let Ok(mut frame) = Frame::decode(Bytes::copy_from_slice(bytes)) {
        frame.unknown.clear();
        assert_eq!(Frame::decode(frame.encode()), Ok(frame));
    }
    if let Ok(greeting) = Greeting::decode(bytes) {
        assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
    }
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
});
