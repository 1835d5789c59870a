//! Replies as bytes, in RESP2 or RESP3 as the connection has chosen.

/// The most bytes that stand around a string.
const FRAMING_BYTES: usize = 32;

/// A connection's reply buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
    /// Whether the client has asked for RESP3.
    pub(crate) is_resp3: bool,
    /// Values replies told of since this was last counted, and how often there was none to tell of.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Writer {
    pub(crate) fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.line(text.as_bytes());
    }

    /// An error; line breaks in it would end it early and are left out.
    pub(crate) fn error(&mut self, text: &str) {
        self.out.push(b'-');
        self.out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.out.extend_from_slice(b"\r\n");
    }

    pub(crate) fn integer(&mut self, number: i64) {
        self.prefixed(b':', number);
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        // A large value at the end of a full buffer would double it.
        self.out.reserve(bytes.len() + FRAMING_BYTES);
        self.prefixed(b'$', bytes.len() as i64);
        self.line(bytes);
    }

    pub(crate) fn null(&mut self) {
        self.out.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub(crate) fn null_array(&mut self) {
        self.out.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    pub(crate) fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    pub(crate) fn array(&mut self, length: usize) {
        self.prefixed(b'*', length as i64);
    }

    /// The beginning of a map with so many pairs; a flat array in RESP2.
    pub(crate) fn map(&mut self, pairs: usize) {
        if self.is_resp3 {
            self.prefixed(b'%', pairs as i64);
        } else {
            self.array(pairs * 2);
        }
    }

    pub(crate) fn set(&mut self, length: usize) {
        self.prefixed(if self.is_resp3 { b'~' } else { b'*' }, length as i64);
    }

    /// Text for people to read.
    pub(crate) fn verbatim(&mut self, text: &str) {
        if self.is_resp3 {
            self.prefixed(b'=', text.len() as i64 + 4);
            self.out.extend_from_slice(b"txt:");
            self.line(text.as_bytes());
        } else {
            self.bulk(text.as_bytes());
        }
    }

    pub(crate) fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// An array of bulk strings.
    pub(crate) fn bulks<T: AsRef<[u8]>>(&mut self, items: &[T]) {
        self.array(items.len());
        items.iter().for_each(|item| self.bulk(item.as_ref()));
    }

    fn line(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    fn prefixed(&mut self, prefix: u8, number: i64) {
        self.out.push(prefix);
        push_decimal(&mut self.out, number);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends a number in decimal without going through formatting.
pub(crate) fn push_decimal(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut rest = number.unsigned_abs();
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend(digits.iter().skip(digits.len() - used));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_formatting_would() {
        for number in [0, 7, -1, 10, 1234567890, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).expect("digits"), number.to_string());
        }
    }

    #[test]
    fn large_value_takes_little_more_than_its_own_bytes() {
        let mut writer = Writer::default();
        writer.array(1);
        writer.bulk(&vec![0; 100_000]);
        assert!(writer.out.capacity() < 100_100, "{}", writer.out.capacity());
    }

    #[test]
    fn types_of_resp3_are_never_sent_to_a_resp2_client() {
        for (is_resp3, expected) in
            [(false, "*2\r\n$-1\r\n$1\r\na\r\n*1\r\n"), (true, "%1\r\n_\r\n=5\r\ntxt:a\r\n~1\r\n")]
        {
            let mut writer = Writer { is_resp3, ..Writer::default() };
            writer.map(1);
            writer.null();
            writer.verbatim("a");
            writer.set(1);
            assert_eq!(String::from_utf8(writer.out).expect("text"), expected);
        }
    }
}
