//! Any bytes of a Redis client are commands, incomplete, or an error; however they are cut.
#![no_main]

mod seeds;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use slipring_resp::{Command, Parser};

const SEEDS: [&str; 8] = [
    "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    "*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n",
    "PING\r\nSET key \"quoted \\x41\\n\" 'single'\r\n",
    "*2\r\n$4\r\nMGET\r\n$0\r\n\r\n",
    "*1000000000\r\n",
    "*1\r\n$99999999999\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "\r\n\r\n*2\r\n:1\r\n",
];

fn commands(chunks: &[&[u8]]) -> (Vec<Command>, bool) {
    let (mut parser, mut buffer, mut found) = (Parser::default(), BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match parser.next(&mut buffer) {
                Ok(Some(command)) => found.push(command),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

fuzz_target!(init: seeds::plant(SEEDS), |bytes: &[u8]| {
    let whole = commands(&[bytes]);
    let cut = bytes.first().map_or(0, |first| usize::from(*first) % bytes.len());
    let (left, right) = bytes.split_at(cut);
    assert_eq!(commands(&[left, right]), whole, "the cut made a difference");
});
