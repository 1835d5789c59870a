//! The cluster's secret, as an operator gives it: one line, or two while it is being changed.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use slipring_membership::{ClusterKey, Keyring};
use thiserror::Error;

use crate::core::Core;

/// The shortest line, in bytes: 16 random bytes in hexadecimal have 32, and less is not asked for.
const LINE_BYTES_MIN: usize = 16;
/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 4_096;

/// The keys that follow from a secret: datagrams are sealed with the first and opened with either.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret {
    pub(crate) first: ClusterKey,
    pub(crate) second: Option<ClusterKey>,
}

/// A secret that cannot be used. What it held is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidSecret {
    /// No line, or more than two.
    #[error(
        "a cluster key has one line, or two while it is being changed: the one to use, and the other one"
    )]
    Lines,
    /// A line that is too short to be a secret, or too long.
    #[error(
        "a cluster key has {LINE_BYTES_MIN} to {LINE_BYTES_MAX} bytes; `openssl rand -hex 32` makes a good one"
    )]
    Length,
}

impl ClusterSecret {
    /// The keys of a text of one or two lines; empty lines and white space around lines do not count.
    ///
    /// # Errors
    /// [`InvalidSecret`].
    pub fn new(text: &str) -> Result<Self, InvalidSecret> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = derive(lines.next().ok_or(InvalidSecret::Lines)?)?;
        let second = lines.next().map(derive).transpose()?;
        match lines.next() {
            None => Ok(Self { first, second }),
            Some(_) => Err(InvalidSecret::Lines),
        }
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSecret").field("has_second", &self.second.is_some()).finish_non_exhaustive()
    }
}

impl Core {
    /// The keys for this node's datagrams: from the secret that is set, else the one its founder drew.
    pub(super) fn gossip_keys(&self) -> Option<Keyring> {
        let cluster = *self.cluster.get()?;
        match &self.secret {
            Some(secret) => Some(Keyring::new(cluster, &secret.first, secret.second.as_ref())),
            None => self.cluster_key.get().map(|key| Keyring::new(cluster, key, None)),
        }
    }

    /// The key that a node is told when it is admitted: only one that no operator sets.
    pub(crate) fn key_to_hand_over(&self) -> Option<[u8; 32]> {
        self.cluster_key.get().filter(|_| self.secret.is_none()).map(|key| key.0)
    }
}

/// The key for datagrams; another use of the same secret takes another label and gets an unrelated key.
fn derive(line: &str) -> Result<ClusterKey, InvalidSecret> {
    if !(LINE_BYTES_MIN..=LINE_BYTES_MAX).contains(&line.len()) {
        return Err(InvalidSecret::Length);
    }
    let mut key = [0; 32];
    let extracted = Salt::new(HKDF_SHA256, b"slipring cluster secret").extract(line.as_bytes());
    extracted
        .expand(&[b"gossip datagrams, version 1"], HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut key))
        .expect("32 bytes are one block of this function");
    Ok(ClusterKey(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "correct horse battery";
    const NEW: &str = "staple it, they said";

    #[test]
    fn white_space_does_not_change_a_key_and_two_lines_are_a_change_of_keys() {
        let plain = ClusterSecret::new(OLD).expect("a secret");
        assert_eq!(ClusterSecret::new(&format!("\n  {OLD}\r\n\n")), Ok(plain.clone()));
        let both = ClusterSecret::new(&format!("{NEW}\n{OLD}\n")).expect("two secrets");
        assert_eq!(both.second.as_ref(), Some(&plain.first));
        assert_ne!(both.first, plain.first);
    }

    #[test]
    fn what_is_no_secret_is_refused_and_none_is_ever_shown() {
        assert_eq!(ClusterSecret::new(" \n"), Err(InvalidSecret::Lines));
        assert_eq!(ClusterSecret::new(&format!("{OLD}\n{NEW}\n{OLD}")), Err(InvalidSecret::Lines));
        assert_eq!(ClusterSecret::new("short"), Err(InvalidSecret::Length));
        assert_eq!(ClusterSecret::new(&"x".repeat(4_097)), Err(InvalidSecret::Length));
        let shown = format!("{:?}", ClusterSecret::new(OLD));
        assert!(!shown.contains("horse") && shown.contains("has_second: false"), "{shown}");
    }
}
