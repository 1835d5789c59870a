//! What a registry holds: addresses under names, each for a while. In memory only, and bounded.
//!
//! Invariant: never more than [`ADDRESSES_MAX`] addresses, never one past its time.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use slipring_model::Moment;
use thiserror::Error;

use crate::address::is_address;

/// The most addresses, over all names.
pub const ADDRESSES_MAX: usize = 4096;
/// How long an address may be asked to be kept.
pub const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// What a name is, in words.
pub(crate) const NAME: &str = "1 to 64 of a-z, 0-9, -, _ and .";
const NAME_BYTES_MAX: usize = 64;

/// Why an entry is not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The name has another shape.
    #[error("a name is {NAME}")]
    Name,
    /// The address has another shape.
    #[error("an address is host:port")]
    Address,
    /// The time to live is out of its range.
    #[error("ttl_ms is from 1000 to 300000")]
    Ttl,
    /// There is no room; entries that are not renewed make some.
    #[error("the registry holds {ADDRESSES_MAX} addresses, as many as it may")]
    Full,
}

/// Whether a text may be a name.
pub(crate) fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    // A name of dots alone would mean another folder to a client that tidies paths.
    let is_plain = text.bytes().any(|byte| byte != b'.');
    is_plain && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_letter)
}

/// Addresses under names.
#[derive(Clone, Debug, Default)]
pub struct Book {
    names: BTreeMap<String, BTreeMap<String, Moment>>,
}

impl Book {
    /// Keeps `address` under `name` for `ttl` from `now` on, whether it was there or not.
    ///
    /// # Errors
    /// [`Refusal`] says what is wrong with the entry.
    pub fn put(&mut self, now: Moment, name: &str, address: &str, ttl: Duration) -> Result<(), Refusal> {
        if !is_name(name) {
            return Err(Refusal::Name);
        }
        if !is_address(address) {
            return Err(Refusal::Address);
        }
        if !TTL.contains(&ttl) {
            return Err(Refusal::Ttl);
        }
        let is_new = !self.names.get(name).is_some_and(|entries| entries.contains_key(address));
        if is_new && self.len() >= ADDRESSES_MAX {
            self.drop_expired(now);
            if self.len() >= ADDRESSES_MAX {
                return Err(Refusal::Full);
            }
        }
        self.names.entry(name.to_owned()).or_default().insert(address.to_owned(), now.after(ttl));
        Ok(())
    }

    /// The addresses under `name`, in order.
    #[must_use]
    pub fn get(&self, now: Moment, name: &str) -> Vec<&str> {
        let entries = self.names.get(name).into_iter().flatten();
        entries.filter(|(_, until)| **until > now).map(|(address, _)| address.as_str()).collect()
    }

    /// Takes `address` off, if it is there.
    pub fn remove(&mut self, name: &str, address: &str) {
        if let Some(entries) = self.names.get_mut(name) {
            entries.remove(address);
            if entries.is_empty() {
                self.names.remove(name);
            }
        }
    }

    fn len(&self) -> usize {
        self.names.values().map(BTreeMap::len).sum()
    }

    fn drop_expired(&mut self, now: Moment) {
        self.names.retain(|_, entries| {
            entries.retain(|_, until| *until > now);
            !entries.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    #[test]
    fn an_address_is_there_until_its_time_is_up_or_it_is_removed() {
        let mut book = Book::default();
        assert_eq!(book.put(at(0), "blue", "a:1", LIFE), Ok(()));
        assert_eq!(book.put(at(5), "blue", "b:1", LIFE), Ok(()));
        assert_eq!(book.get(at(9), "blue"), ["a:1", "b:1"]);
        assert!(book.get(at(9), "green").is_empty());
        assert_eq!(book.get(at(10), "blue"), ["b:1"]);
        assert_eq!(book.put(at(9), "blue", "a:1", LIFE), Ok(()));
        assert_eq!(book.get(at(14), "blue"), ["a:1", "b:1"]);
        book.remove("blue", "a:1");
        book.remove("green", "a:1");
        assert_eq!(book.get(at(14), "blue"), ["b:1"]);
    }

    #[test]
    fn entries_of_another_shape_are_refused() {
        let mut book = Book::default();
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "A", "a/b", "..", "a b", long.as_str()] {
            assert_eq!(book.put(at(0), name, "a:1", LIFE), Err(Refusal::Name), "{name}");
        }
        assert_eq!(book.put(at(0), "a", "a", LIFE), Err(Refusal::Address));
        for ttl in [Duration::ZERO, Duration::from_secs(301), Duration::MAX] {
            assert_eq!(book.put(at(0), "a", "a:1", ttl), Err(Refusal::Ttl));
        }
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn it_holds_so_many_and_makes_room_of_what_has_lapsed() {
        let mut book = Book::default();
        for index in 0..ADDRESSES_MAX {
            let (name, address) = (format!("n{}", index % 7), format!("h{index}:1"));
            assert_eq!(book.put(at(0), &name, &address, LIFE), Ok(()));
        }
        assert_eq!(book.put(at(9), "n0", "x:1", LIFE), Err(Refusal::Full));
        assert_eq!(book.put(at(9), "n0", "h0:1", LIFE), Ok(()));
        assert_eq!(book.put(at(10), "n0", "x:1", LIFE), Ok(()));
        assert_eq!(book.get(at(10), "n0"), ["h0:1", "x:1"]);
        assert_eq!(book.len(), 2);
    }
}
