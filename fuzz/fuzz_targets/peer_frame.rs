//! Any bytes of a peer are a frame, which survives its own encoding, or an error.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use slipring_wire::{Frame, Hello};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut frame) = Frame::decode(Bytes::copy_from_slice(bytes)) {
        frame.unknown.clear();
        assert_eq!(Frame::decode(frame.encode()), Ok(frame));
    }
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
});
