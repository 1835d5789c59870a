//! Patterns as Redis matches them: `*`, `?`, `[a-z]`, `[^x]` and `\`.

/// Whether `text` matches `pattern`. Takes time in proportion to the product of their lengths at most.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::matches;

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

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(2_000).as_bytes()));
    }
}
