//! Sealed datagrams: authenticated and encrypted under the cluster's key.
//!
//! A sealed datagram is one byte of format version, 12 bytes of nonce, the ciphertext and 16 bytes of tag. Version and
//! cluster id are authenticated with it, so that one key used by two clusters still keeps them apart.
//! The cipher is AES-256-GCM-SIV (RFC 8452): should a nonce ever be used twice, all that shows is whether
//! the two datagrams were the same.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use slipring_model::ClusterId;

/// The format of sealed datagrams and of what is in them.
const VERSION: u8 = 1;
const TAG_BYTES: usize = 16;
/// What sealing adds to the plain text, in bytes.
pub(crate) const SEAL_BYTES: usize = 1 + NONCE_LEN + TAG_BYTES;

/// The 32 secret bytes that all nodes of a cluster share. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(pub [u8; 32]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

/// Why a datagram was not opened. Nothing is ever answered to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// Too short or too long to be one of ours.
    Length,
    /// A format this build does not speak.
    Version,
    /// Wrong key, wrong cluster, or changed on the way.
    Forged,
}

/// The keys of one cluster: datagrams are sealed with the first and opened with either.
///
/// To change the key of a running cluster, hand every node `[old, new]`, then `[new, old]`, then `[new]`.
pub struct Keyring {
    first: LessSafeKey,
    second: Option<LessSafeKey>,
    associated: [u8; 32],
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("has_second", &self.second.is_some()).finish_non_exhaustive()
    }
}

impl Keyring {
    /// The keys of `cluster`.
    #[must_use]
    pub fn new(cluster: ClusterId, first: &ClusterKey, second: Option<&ClusterKey>) -> Self {
        let mut associated = *b"slipring-gossip\0................";
        associated.iter_mut().skip(16).zip(cluster.0).for_each(|(to, from)| *to = from);
        Self { first: prepare(first), second: second.map(prepare), associated }
    }

    /// Seals a plain text. The nonce must not be used again by any holder of the key.
    #[must_use]
    pub fn seal(&self, nonce: [u8; 12], plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plain.len().saturating_add(SEAL_BYTES));
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        self.first
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), self.associated(), &mut body)
            .expect("a datagram is far below the cipher's limit");
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens a sealed datagram with either key.
    ///
    /// # Errors
    /// Why it was not opened.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (version, rest) = sealed.split_first().ok_or(SealError::Length)?;
        if *version != VERSION {
            return Err(SealError::Version);
        }
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Length)?;
        if body.len() < TAG_BYTES {
            return Err(SealError::Length);
        }
        let keys = std::iter::once(&self.first).chain(self.second.as_ref());
        keys.into_iter().find_map(|key| self.open_with(key, *nonce, body)).ok_or(SealError::Forged)
    }

    fn open_with(&self, key: &LessSafeKey, nonce: [u8; NONCE_LEN], body: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = key.open_in_place(nonce, self.associated(), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }

    fn associated(&self) -> Aad<[u8; 33]> {
        let mut associated = [VERSION; 33];
        associated.iter_mut().zip(self.associated).for_each(|(to, from)| *to = from);
        Aad::from(associated)
    }
}

fn prepare(key: &ClusterKey) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &key.0).expect("a key of this cipher has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([3; 16]);

    fn ring(first: u8, second: Option<u8>) -> Keyring {
        Keyring::new(CLUSTER, &ClusterKey([first; 32]), second.map(|byte| ClusterKey([byte; 32])).as_ref())
    }

    #[test]
    fn keys_change_while_datagrams_of_both_are_on_their_way() {
        let old = ring(1, None).seal([0; 12], b"news");
        let new = ring(2, Some(1)).seal([0; 12], b"news");
        assert_eq!(ring(2, Some(1)).open(&old).unwrap(), b"news");
        assert_eq!(ring(1, Some(2)).open(&new).unwrap(), b"news");
        assert_eq!(ring(1, None).open(&new), Err(SealError::Forged));
        assert_eq!(ring(2, None).open(&old), Err(SealError::Forged));
    }

    #[test]
    fn another_cluster_another_version_and_every_changed_bit_are_refused() {
        let sealed = ring(1, None).seal([7; 12], b"news");
        let stranger = Keyring::new(ClusterId([4; 16]), &ClusterKey([1; 32]), None);
        assert_eq!(stranger.open(&sealed), Err(SealError::Forged));
        for index in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[index / 8] ^= 1 << (index % 8);
            let expected = if index < 8 { SealError::Version } else { SealError::Forged };
            assert_eq!(ring(1, None).open(&changed), Err(expected));
        }
        for length in 1..SEAL_BYTES {
            assert_eq!(ring(1, None).open(&sealed[..length]), Err(SealError::Length));
        }
        assert_eq!(sealed.len(), 4 + SEAL_BYTES);
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", ClusterKey([9; 32])), "ClusterKey(secret)");
        assert_eq!(format!("{:?}", ring(9, None)), "Keyring { has_second: false, .. }");
    }
}
