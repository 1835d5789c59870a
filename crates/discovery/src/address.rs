//! The one shape of an address, and lists of them that a source may have made up.

use std::collections::BTreeSet;

use thiserror::Error;

/// The most addresses that one source is believed at a time. Of more, some are drawn anew each time.
pub(crate) const PER_SOURCE_MAX: usize = 128;
/// The longest address, in bytes: a host name of 253, a colon and a port.
const BYTES_MAX: usize = 259;

/// A text that is not `host:port`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is not an address: write host:port, for instance 127.0.0.1:7946 or [::1]:7946")]
pub struct InvalidAddress(pub(crate) String);

/// Whether a text has the shape `host:port`, with IPv6 addresses in brackets and no port 0.
pub(crate) fn is_address(text: &str) -> bool {
    let is_plain = text.len() <= BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
            is_host(host) && is_digits && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(is_letter)
        }
    }
}

/// The addresses among what a source said: each once, others left out with one warning, at most
/// [`PER_SOURCE_MAX`].
pub(crate) fn believable(source: &str, said: impl IntoIterator<Item = String>) -> Vec<String> {
    let (mut seen, mut wrong) = (BTreeSet::new(), None);
    let mut addresses = Vec::new();
    for text in said {
        if !is_address(&text) {
            wrong.get_or_insert(text);
        } else if seen.insert(text.clone()) {
            addresses.push(text);
        }
    }
    if let Some(text) = wrong {
        let text: String = text.chars().take(BYTES_MAX).collect();
        tracing::warn!(source, ?text, "left out of what a source says, for it is no address");
    }
    if addresses.len() > PER_SOURCE_MAX {
        let said = addresses.len();
        tracing::warn!(source, said, kept = PER_SOURCE_MAX, "a source says more than it is believed");
        // Drawn, so that true ones among many false have their turn some time.
        fastrand::shuffle(&mut addresses);
        addresses.truncate(PER_SOURCE_MAX);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(count: usize) -> Vec<String> {
        (1..=count).map(|port| format!("10.0.0.1:{port}")).collect()
    }

    #[test]
    fn what_is_no_address_is_left_out_and_what_comes_twice_comes_once() {
        let said = [
            "a:1", "", "a", "b:0", "c:1 ", "a:1", "é:1", "[::1]:2", "[x]:2", "e:+3", "\u{7}:1", "d/e:1",
            "b:2",
        ];
        assert_eq!(believable("test", said.map(str::to_owned)), ["a:1", "[::1]:2", "b:2"]);
        assert!(believable("test", [format!("{}:1", "a".repeat(1_000_000))]).is_empty());
    }

    #[test]
    fn of_too_many_some_are_drawn_and_none_is_left_out_for_ever() {
        assert_eq!(believable("test", many(PER_SOURCE_MAX)), many(PER_SOURCE_MAX));
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let drawn = believable("test", many(1000));
            assert_eq!(drawn.len(), PER_SOURCE_MAX);
            seen.extend(drawn);
        }
        assert_eq!(seen.len(), 1000);
    }
}
