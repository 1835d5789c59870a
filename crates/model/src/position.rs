//! Where a key lies: one number that is Redis slot, partition, storage order and hash-tree path at once.
//!
//! `position(key) = slot(key) << 50 | xxh3(key) >> 14`, where the slot is that of Redis Cluster.
//!
//! Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

use serde::{Deserialize, Serialize};

/// How many slots the key space has; fixed by the Redis Cluster protocol.
pub const SLOT_COUNT: u16 = 16384;

/// A Redis Cluster slot, `0..SLOT_COUNT`: the top 14 bits of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of a key: CRC16/XMODEM of its hash tag, or of the whole key, modulo 16384.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(hash_tag(key).unwrap_or(key)) % SLOT_COUNT)
    }

    /// The lowest position of this slot.
    #[must_use]
    pub fn start(self) -> Position {
        Position(u64::from(self.0) << 50)
    }

    /// The highest position of this slot.
    #[must_use]
    pub fn end(self) -> Position {
        Position(self.start().0 | u64::MAX >> 14)
    }
}

/// A point on the ring, anywhere in `0..=u64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// The position of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(u64::from(Slot::of(key).0) << 50 | xxhash_rust::xxh3::xxh3_64(key) >> 14)
    }

    /// The slot this position lies in.
    #[must_use]
    pub fn slot(self) -> Slot {
        Slot((self.0 >> 50) as u16)
    }

    /// The partition this position lies in when the ring is cut into `1 << bits` partitions.
    ///
    /// `bits` is `1..=14`.
    #[must_use]
    pub fn partition(self, bits: u8) -> PartitionId {
        PartitionId((self.0 >> (64 - u32::from(bits))) as u16)
    }
}

/// One slice of the ring: the top `bits` bits of its positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(pub u16);

impl PartitionId {
    /// The lowest position of this partition.
    #[must_use]
    pub fn start(self, bits: u8) -> Position {
        Position(u64::from(self.0) << (64 - u32::from(bits)))
    }

    /// The highest position of this partition.
    #[must_use]
    pub fn end(self, bits: u8) -> Position {
        Position(self.start(bits).0 | u64::MAX >> bits)
    }

    /// The index of this partition in a table of all partitions.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The part of the key between the first `{` and the next `}`, when it is not empty.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, no reflection.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let index = usize::from((crc >> 8) as u8 ^ byte);
        crc << 8 ^ CRC16_TABLE.get(index).copied().unwrap_or_default()
    })
}

const CRC16_TABLE: [u16; 256] = crc16_table();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses a bad index")]
const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_the_published_vectors() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12182), ("bar", 5061), ("hello", 866), ("", 0), ("123456789", 12739)] {
            assert_eq!(Slot::of(key.as_bytes()), Slot(slot), "{key}");
        }
    }

    #[test]
    fn hash_tags_follow_the_specification() {
        let same = |a: &str, b: &str| Slot::of(a.as_bytes()) == Slot::of(b.as_bytes());
        assert!(same("{user1000}.following", "{user1000}.followers"));
        assert!(same("{user1000}.following", "user1000"));
        assert_eq!(Slot::of(b"foo{}{bar}").0, crc16(b"foo{}{bar}") % SLOT_COUNT);
        assert_eq!(Slot::of(b"foo{{bar}}zap").0, crc16(b"{bar") % SLOT_COUNT);
        assert!(same("foo{bar}{zap}", "bar"));
        assert_eq!(Slot::of(b"open{only").0, crc16(b"open{only") % SLOT_COUNT);
    }

    #[test]
    fn one_number_gives_slot_and_partition() {
        let position = Position::of(b"foo");
        assert_eq!(position.slot(), Slot(12182));
        assert!(Slot(12182).start() <= position && position <= Slot(12182).end());
        assert_eq!(Slot(SLOT_COUNT - 1).end(), Position(u64::MAX));
        assert_eq!(position.partition(8).0, 12182 >> 6);
        let partition = position.partition(8);
        assert!(partition.start(8) <= position && position <= partition.end(8));
        assert_eq!(PartitionId(255).end(8), Position(u64::MAX));
    }
}
