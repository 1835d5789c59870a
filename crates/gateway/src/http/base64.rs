//! Bytes as text: base64 with the alphabet for addresses, without padding when written, with or without when read.
//!
//! Source: RFC 4648, 4 and 5.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text of some bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..=part.len() {
            let digit = bits >> (18 - 6 * place) & 63;
            text.extend(DIGITS.get(digit).map(|digit| char::from(*digit)));
        }
    }
    text
}

/// The bytes of a text, in either alphabet; nothing when it is the text of none.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = text.get(..text.len() - padding)?;
    if padding > 0 && (!text.len().is_multiple_of(4) || padding > 2) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for part in digits.chunks(4) {
        let bits = part.iter().try_fold(0_u32, |bits, digit| Some(bits << 6 | value(*digit)?))?;
        let (whole, rest) = (part.len() * 6 / 8, part.len() * 6 % 8);
        // A digit alone, or bits behind the last byte, are no text that was written from bytes.
        if whole == 0 || bits & ((1 << rest) - 1) != 0 {
            return None;
        }
        bytes.extend_from_slice((bits >> rest).to_be_bytes().get(4 - whole..)?);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' | b'+' => 62,
        b'_' | b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_texts_are_those_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            let padded = format!("{text:=<width$}", width = text.len().div_ceil(4) * 4);
            for text in [text, &padded] {
                assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes.as_bytes()), "{text}");
            }
        }
        assert_eq!(
            (encode(b"\xfb\xff"), decode(b"+/8="), decode(b"-_8")),
            ("-_8".into(), decode(b"-_8="), decode(b"+/8"))
        );
        assert_eq!(decode(b"-_8").as_deref(), Some(&b"\xfb\xff"[..]));
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&all).as_bytes()), Some(all));
    }

    #[test]
    fn text_that_no_bytes_have_is_refused() {
        for bad in ["Z", "Zg=", "Zg===", "Zm9vZ", "Zh", "Zm9", "Z g", "Zg==Zg==", "=", "====", "Zm9v=", "é"]
        {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
