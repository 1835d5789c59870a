//! Patterns as Redis matches them: `*`, `?`, `[a-z]`, `[^x]` and `\`.
//!
//! A pattern is read once. Then each byte of a text moves every place in the pattern at which the text so far may end,
//! 64 places with one step. So a text takes time in proportion to its length, whatever the pattern is made of.
//!
//! Invariant: one byte of a text costs at most `PATTERN_BYTES_MAX / 64 + 1` steps.

use slipring_model::limits;

/// The values of a byte.
const BYTES: usize = 256;
const BITS: usize = u64::BITS as usize;

/// A pattern that was read.
pub(crate) struct Pattern {
    /// Elements that match one byte each; stars are not among them.
    elements: usize,
    /// For each value of a byte the places behind the elements that match it, one bit for each.
    behind: Vec<u64>,
    /// The places that have a star: a text may stay there.
    stars: Vec<u64>,
    /// Where the text so far may end.
    places: Vec<u64>,
}

/// The pattern is longer than any may be.
#[derive(Debug)]
pub(crate) struct TooLong;

impl TooLong {
    pub(crate) fn message(&self) -> String {
        format!("ERR a pattern has at most {} bytes", limits::PATTERN_BYTES_MAX)
    }
}

/// What one element of a pattern matches.
enum Element {
    Byte(u8),
    Class(Box<[bool; BYTES]>),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is too long.
    pub(crate) fn read(pattern: &[u8]) -> Result<Self, TooLong> {
        if pattern.len() > limits::PATTERN_BYTES_MAX {
            return Err(TooLong);
        }
        let (mut elements, mut stars) = (Vec::new(), vec![0; pattern.len() / BITS + 1]);
        let mut at = 0;
        while let Some(first) = pattern.get(at) {
            if *first == b'*' {
                set(&mut stars, elements.len());
                at += 1;
            } else {
                let (element, next) = element(pattern, at);
                elements.push(element);
                at = next;
            }
        }
        let words = elements.len() / BITS + 1;
        stars.truncate(words);
        let mut behind = vec![0; BYTES * words];
        for (index, element) in elements.iter().enumerate() {
            let mut add = |byte: usize| set(&mut behind, byte * words * BITS + index + 1);
            match element {
                Element::Byte(byte) => add(usize::from(*byte)),
                Element::Class(class) => {
                    class.iter().enumerate().filter(|(_, is_in)| **is_in).for_each(|(byte, _)| add(byte));
                }
            }
        }
        Ok(Self { elements: elements.len(), behind, stars, places: vec![0; words] })
    }

    /// Whether a whole text matches.
    pub(crate) fn matches(&mut self, text: &[u8]) -> bool {
        let words = self.places.len();
        self.places.fill(0);
        set(&mut self.places, 0);
        let is_open = is_set(&self.stars, self.elements);
        for byte in text {
            if is_open && is_set(&self.places, self.elements) {
                return true;
            }
            let behind = self.behind.chunks_exact(words).nth(usize::from(*byte)).unwrap_or_default();
            let (mut carried, mut any) = (0, 0);
            for ((place, behind), star) in self.places.iter_mut().zip(behind).zip(&self.stars) {
                let moved = *place << 1 | carried;
                carried = *place >> (BITS - 1);
                *place = moved & behind | *place & star;
                any |= *place;
            }
            if any == 0 {
                return false;
            }
        }
        is_set(&self.places, self.elements)
    }
}

fn set(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / BITS) {
        *word |= 1 << (at % BITS);
    }
}

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / BITS).is_some_and(|word| word >> (at % BITS) & 1 == 1)
}

/// The element at `at`, which is no star, and where the next one begins.
fn element(pattern: &[u8], at: usize) -> (Element, usize) {
    match (pattern.get(at).copied().unwrap_or_default(), pattern.get(at + 1)) {
        (b'?', _) => (Element::Class(Box::new([true; BYTES])), at + 1),
        (b'\\', Some(escaped)) => (Element::Byte(*escaped), at + 2),
        (b'[', _) => class(pattern, at + 1),
        (byte, _) => (Element::Byte(byte), at + 1),
    }
}

/// The class whose first byte is at `at`; one that is not closed ends with the pattern.
fn class(pattern: &[u8], mut at: usize) -> (Element, usize) {
    let is_negated = pattern.get(at) == Some(&b'^');
    at += usize::from(is_negated);
    let mut class = [false; BYTES];
    let mut add = |from: u8, to: u8| {
        class.iter_mut().take(usize::from(to) + 1).skip(usize::from(from)).for_each(|is_in| *is_in = true);
    };
    let next = loop {
        match (pattern.get(at), pattern.get(at + 1), pattern.get(at + 2)) {
            (None, ..) => break at,
            (Some(b']'), ..) => break at + 1,
            (Some(b'\\'), Some(escaped), _) => {
                add(*escaped, *escaped);
                at += 2;
            }
            (Some(from), Some(b'-'), Some(to)) if *to != b']' => {
                add(*from.min(to), *from.max(to));
                at += 3;
            }
            (Some(other), ..) => {
                add(*other, *other);
                at += 1;
            }
        }
    };
    class.iter_mut().for_each(|is_in| *is_in = *is_in != is_negated);
    (Element::Class(Box::new(class)), next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        Pattern::read(pattern).expect("short enough").matches(text)
    }

    /// A matcher that goes back after each star: plain, and slow on purpose-made patterns.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        let (mut p, mut t) = (0, 0);
        // Where to go on when what follows the last star does not match here.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (pattern.get(p), text.get(t)) {
                (Some(b'*'), _) => {
                    retry = Some((p + 1, t + 1));
                    p += 1;
                }
                (None, None) => return true,
                (Some(_), Some(byte)) if single(pattern, p, *byte).0 => {
                    p = single(pattern, p, *byte).1;
                    t += 1;
                }
                _ => match retry {
                    Some((after, from)) if from <= text.len() => {
                        (p, t) = (after, from);
                        retry = Some((after, from + 1));
                    }
                    _ => return false,
                },
            }
        }
    }

    /// Whether the pattern's element at `at` matches one byte, and where the next element begins.
    fn single(pattern: &[u8], at: usize, byte: u8) -> (bool, usize) {
        match pattern.get(at) {
            Some(b'?') => (true, at + 1),
            Some(b'\\') if at + 1 < pattern.len() => (pattern.get(at + 1) == Some(&byte), at + 2),
            Some(b'[') => class(pattern, at + 1, byte),
            other => (other == Some(&byte), at + 1),
        }
    }

    fn class(pattern: &[u8], mut at: usize, byte: u8) -> (bool, usize) {
        let is_negated = pattern.get(at) == Some(&b'^');
        at += usize::from(is_negated);
        let mut is_in = false;
        loop {
            match (pattern.get(at), pattern.get(at + 1), pattern.get(at + 2)) {
                (None, ..) => return (is_in != is_negated, at),
                (Some(b']'), ..) => return (is_in != is_negated, at + 1),
                (Some(b'\\'), Some(escaped), _) => {
                    is_in |= *escaped == byte;
                    at += 2;
                }
                (Some(from), Some(b'-'), Some(to)) if *to != b']' => {
                    is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                    at += 3;
                }
                (Some(other), ..) => {
                    is_in |= *other == byte;
                    at += 1;
                }
            }
        }
    }

    #[test]
    fn patterns_match_as_redis_matches_them() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("user:*:x", "user:1:2:x", true),
            ("user:*:x", "user:1:2:y", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("", "a", false),
            ("a*", "b", false),
            ("[", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_a_plain_matcher_says(
            pattern in prop::collection::vec(prop::sample::select(&b"ab*?[]^-\\c\xff"[..]), 0..24),
            text in prop::collection::vec(prop::sample::select(&b"abc*]\\^-\xff"[..]), 0..24),
        ) {
            prop_assert_eq!(matches(&pattern, &text), naive(&pattern, &text));
        }

        #[test]
        fn patterns_of_several_words_match_as_a_plain_matcher_says(
            parts in prop::collection::vec(prop::sample::select(&["a", "*", "?", "[ab]", "ab", "b"][..]), 60..140),
            text in prop::collection::vec(prop::sample::select(&b"ab"[..]), 50..160),
        ) {
            let pattern = parts.concat().into_bytes();
            prop_assert_eq!(matches(&pattern, &text), naive(&pattern, &text));
        }
    }

    #[test]
    fn patterns_have_a_limit() {
        let read = |bytes: usize| Pattern::read(&vec![b'a'; bytes]);
        let max = limits::PATTERN_BYTES_MAX;
        assert!(read(max - 1).is_ok() && read(max).expect("as long as may be").matches(&vec![b'a'; max]));
        assert!(read(max + 1).is_err_and(|error| error.message().contains("4096 bytes")));
    }

    /// Steps, not time: each byte of a text moves each word of places once, and nothing goes back.
    #[test]
    fn long_patterns_have_few_words() {
        for pattern in ["a*".repeat(2048), "?".repeat(4096), format!("*[{}]", "b".repeat(4093))] {
            let mut read = Pattern::read(pattern.as_bytes()).expect("short enough");
            assert!(read.places.len() <= limits::PATTERN_BYTES_MAX / BITS + 1);
            assert_eq!(read.behind.len(), BYTES * read.places.len());
            assert_eq!(read.stars.len(), read.places.len());
            assert!(!read.matches(&[b'c'; 4095]));
        }
    }
}
