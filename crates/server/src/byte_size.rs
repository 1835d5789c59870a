//! Numbers of bytes as people write them: 67108864, 64MB, 64MiB, 1GB.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Units, the longer names first. As in Redis, MB is a power of ten here, and MiB one of two.
const UNITS: [(&str, u64); 10] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("B", 1),
];

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let unit = UNITS.iter().find_map(|(name, unit)| Some((upper.strip_suffix(name)?, *unit)));
        let (digits, unit) = unit.unwrap_or((&upper, 1));
        let number = digits.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        number
            .map(Self)
            .ok_or_else(|| format!("\"{text}\" must be a number of bytes, such as 268435456 or 256MiB"))
    }
}

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("67108864", 67_108_864),
            ("64MiB", 67_108_864),
            ("64 mb", 64_000_000),
            ("1g", 1 << 30),
            ("7B", 7),
            ("3KiB", 3072),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MB", "-1", "1.5GB", "64XB", "99999999999GB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
