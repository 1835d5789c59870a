//! Compressed messages: those in gzip are made plain before a method sees them.
//!
//! What comes out of a message counts to the clients' memory as it comes, and has the limit of a plain message: a small
//! message that stands for a huge one gets no more.
//! Source: gRPC over HTTP/2, "Message-Encoding" and "Compressed-Flag".

use std::io::Read;

use axum::http::HeaderMap;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use slipring_node::Held;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::REQUEST_BYTES_MAX;
use super::body::{PREFIX_BYTES, too_large};
use super::failure::{failed, invalid, refused};

const ENCODING: &str = "grpc-encoding";
const ACCEPTED: &str = "grpc-accept-encoding";
/// How many bytes are made plain before others on this thread are let through.
const STEP_BYTES: usize = 256 * 1024;

/// The message without compression, and what holds it now; the head no longer says that it has one.
pub(super) async fn undo(
    head: &mut HeaderMap,
    message: Bytes,
    mut held: Held,
) -> Result<(Bytes, Held), Status> {
    match head.get(ENCODING).map(|encoding| encoding.as_bytes()) {
        None | Some(b"identity") => return Ok((message, held)),
        Some(b"gzip") => {}
        Some(_) => {
            let message = "this node reads messages that are plain or in gzip; nothing was done";
            let mut refusal = refused(Code::Unimplemented, message);
            refusal.metadata_mut().insert(ACCEPTED, MetadataValue::from_static("identity,gzip"));
            return Err(refusal);
        }
    }
    head.remove(ENCODING);
    if message.first() != Some(&1) {
        return Ok((message, held));
    }
    let packed = message.get(PREFIX_BYTES..).unwrap_or_default();
    let promised = message.get(1..PREFIX_BYTES).and_then(|length| length.try_into().ok());
    if promised.map(u32::from_be_bytes) != u32::try_from(packed.len()).ok() {
        return Err(invalid("the message is longer or shorter than it says; nothing was done"));
    }
    let plain = inflate(packed, &mut held).await?;
    held.set(plain.len());
    Ok((plain, held))
}

/// A whole plain message with its prefix.
async fn inflate(packed: &[u8], held: &mut Held) -> Result<Bytes, Status> {
    let not_gzip = |_| invalid("the message is not in gzip, as its head says; nothing was done");
    let mut decoder = GzDecoder::new(packed);
    let mut plain = BytesMut::zeroed(PREFIX_BYTES);
    loop {
        let before = plain.len();
        let part = Read::by_ref(&mut decoder).take(STEP_BYTES as u64);
        std::io::copy(&mut { part }, &mut (&mut plain).writer()).map_err(not_gzip)?;
        if plain.len() > REQUEST_BYTES_MAX + PREFIX_BYTES {
            return Err(too_large());
        }
        if !held.try_set(packed.len() + plain.len()) {
            return Err(failed(held.refusal()));
        }
        if plain.len() == before {
            break;
        }
        tokio::task::yield_now().await;
    }
    if !decoder.into_inner().is_empty() {
        return Err(invalid("there are bytes behind the message in gzip; nothing was done"));
    }
    let length = u32::try_from(plain.len() - PREFIX_BYTES).map_err(|_| too_large())?;
    plain.iter_mut().skip(1).zip(length.to_be_bytes()).for_each(|(byte, digit)| *byte = digit);
    Ok(plain.freeze())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::HeaderValue;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use slipring_node::ClientMemory;

    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).expect("memory takes all");
        encoder.finish().expect("memory takes all")
    }

    fn framed(flag: u8, message: &[u8]) -> Bytes {
        let length = u32::try_from(message.len()).expect("a length").to_be_bytes();
        [&[flag][..], &length, message].concat().into()
    }

    async fn undone(memory: &ClientMemory, encoding: &'static str, message: Bytes) -> Result<Bytes, Code> {
        let mut head =
            HeaderMap::from_iter([(ENCODING.parse().expect("a name"), HeaderValue::from_static(encoding))]);
        let held = memory.hold(message.len()).expect("room");
        let (plain, held) = undo(&mut head, message, held).await.map_err(|refusal| refusal.code())?;
        assert_eq!((held.bytes(), head.contains_key(ENCODING)), (plain.len(), encoding == "identity"));
        Ok(plain)
    }

    #[tokio::test]
    async fn message_in_gzip_is_handed_on_plain() {
        let memory = ClientMemory::new(4 * REQUEST_BYTES_MAX);
        for plain in [&b""[..], b"hello", &[7; 3 * STEP_BYTES]] {
            let undone = undone(&memory, "gzip", framed(1, &packed(plain))).await;
            assert_eq!(undone, Ok(framed(0, plain)));
        }
        for encoding in ["gzip", "identity"] {
            assert_eq!(undone(&memory, encoding, framed(0, b"plain")).await, Ok(framed(0, b"plain")));
        }
        assert_eq!(memory.bytes(), 0);
    }

    #[tokio::test]
    async fn plain_message_has_its_limit_however_small_it_came() {
        let memory = ClientMemory::new(4 * REQUEST_BYTES_MAX);
        for (bytes, is_taken) in
            [(REQUEST_BYTES_MAX - 1, true), (REQUEST_BYTES_MAX, true), (REQUEST_BYTES_MAX + 1, false)]
        {
            let undone = undone(&memory, "gzip", framed(1, &packed(&vec![0; bytes]))).await;
            assert_eq!(undone.map(|plain| plain.len()).ok(), is_taken.then_some(bytes + PREFIX_BYTES));
        }
        let little = ClientMemory::new(STEP_BYTES);
        let refused = undone(&little, "gzip", framed(1, &packed(&[0; 2 * STEP_BYTES]))).await;
        assert_eq!((refused, little.bytes()), (Err(Code::ResourceExhausted), 0));
    }

    #[tokio::test]
    async fn message_that_is_no_gzip_is_refused() {
        let memory = ClientMemory::new(REQUEST_BYTES_MAX);
        let good = packed(b"hello");
        let (cut, more) = (good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat());
        let mut wrong = good.clone();
        wrong[good.len() - 5] ^= 1;
        for bad in [&b""[..], b"hello", &cut, &more, &wrong] {
            assert_eq!(undone(&memory, "gzip", framed(1, bad)).await, Err(Code::InvalidArgument), "{bad:?}");
        }
        let short = framed(1, &good).slice(..good.len());
        assert_eq!(undone(&memory, "gzip", short).await, Err(Code::InvalidArgument));
        assert_eq!(undone(&memory, "deflate", framed(1, &good)).await, Err(Code::Unimplemented));
    }
}
