//! Any bytes of a Redis client are commands, incomplete, or an error; however they are cut.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use slipring_gateway::resp::{Command, Parser};

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

fuzz_target!(|bytes: &[u8]| {
    let whole = commands(&[bytes]);
    let cut = bytes.first().map_or(0, |first| usize::from(*first) % bytes.len());
    let (left, right) = bytes.split_at(cut);
    assert_eq!(commands(&[left, right]), whole, "the cut made a difference");
});
