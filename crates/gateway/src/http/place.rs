//! The bucket and the key that a path names: every key of any bytes has a path.
//!
//! The key is what follows the bucket, slashes included, with its %-escapes undone; with `key_encoding=base64` it is that
//! text's bytes.

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use slipring_model::limits;

use super::base64;
use super::buckets::no_such;
use super::failure::Failure;

/// Where the paths of keys begin.
const ROOT: &str = "/v1/kv/";

/// How keys are written in paths and lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KeyEncoding {
    /// As they are.
    #[default]
    Text,
    /// In base64.
    Base64,
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeyPlace {
    pub(super) bucket: String,
    pub(super) key: Bytes,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    key_encoding: KeyEncoding,
}

impl<S: Sync> FromRequestParts<S> for KeyPlace {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Query(asked) = Query::<Asked>::try_from_uri(&parts.uri)
            .map_err(|error| Failure::invalid(format!("key_encoding must be text or base64: {error}")))?;
        Self::of(parts.uri.path(), asked.key_encoding)
    }
}

impl KeyPlace {
    fn of(path: &str, encoding: KeyEncoding) -> Result<Self, Failure> {
        let (bucket, key) = path.strip_prefix(ROOT).and_then(|rest| rest.split_once('/')).unwrap_or_default();
        let bucket = String::from_utf8(unescaped(bucket)?).map_err(|_| no_such("�"))?;
        let mut key = unescaped(key)?;
        if encoding == KeyEncoding::Base64 {
            key =
                base64::decode(&key).ok_or_else(|| Failure::invalid("the key in the path is not base64"))?;
        }
        if !(1..=limits::KEY_BYTES_MAX).contains(&key.len()) {
            let message = format!("a key has 1 to {} bytes, not {}", limits::KEY_BYTES_MAX, key.len());
            return Err(Failure::new(StatusCode::URI_TOO_LONG, "invalid", message));
        }
        Ok(Self { bucket, key: key.into() })
    }
}

/// The bytes of a part of a path.
fn unescaped(text: &str) -> Result<Vec<u8>, Failure> {
    let wrong =
        || Failure::invalid("in a path two hexadecimal digits must follow each %; write % itself as %25");
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next())
                .zip(digit(rest.next()))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(wrong)?,
            byte => byte,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, encoding: KeyEncoding) -> Option<Vec<u8>> {
        let place = KeyPlace::of(&format!("/v1/kv/b{path}"), encoding).ok()?;
        assert_eq!(place.bucket, "b");
        Some(place.key.to_vec())
    }

    #[test]
    fn path_names_a_key_of_any_bytes() {
        let text = |path| key(path, KeyEncoding::Text);
        assert_eq!(text("/a/b").as_deref(), Some(&b"a/b"[..]));
        assert_eq!(text("/a%2Fb"), text("/a/b"));
        assert_eq!(text("//").as_deref(), Some(&b"/"[..]));
        assert_eq!(text("/%00%ff+%25").as_deref(), Some(&b"\0\xff+%"[..]));
        assert_eq!(key("/AP8", KeyEncoding::Base64).as_deref(), Some(&b"\0\xff"[..]));
        assert_eq!(key("/AP8%3D", KeyEncoding::Base64), key("/AP8", KeyEncoding::Base64));
        for bad in ["/", "/%", "/%4", "/%4g", "/%+1", "/%é"] {
            assert_eq!(text(bad), None, "{bad}");
        }
        assert_eq!(key("/A", KeyEncoding::Base64), None);
        assert!(KeyPlace::of("/v1/kv/%ff/k", KeyEncoding::Text).is_err());
    }

    #[test]
    fn key_has_a_limit_however_it_is_written() {
        let most = limits::KEY_BYTES_MAX;
        for (bytes, is_taken) in [(most - 1, true), (most, true), (most + 1, false)] {
            let encoded = base64::encode(&vec![0xff; bytes]);
            assert_eq!(key(&format!("/{}", "%ff".repeat(bytes)), KeyEncoding::Text).is_some(), is_taken);
            assert_eq!(key(&format!("/{encoded}"), KeyEncoding::Base64).is_some(), is_taken);
        }
    }
}
