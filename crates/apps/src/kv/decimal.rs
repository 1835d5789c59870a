//! Adding numbers that are written as text.
//!
//! Numbers of ordinary size are added in fixed point, so that 0.1 and 0.2 make 0.3 and money adds up; others
//! (with an exponent, or very large or small) in floating point.

/// Digits after the point that are added exactly, and the number they stand for.
const PLACES: usize = 17;
const UNIT: i128 = 100_000_000_000_000_000;
/// Digits before the point that are added exactly; the sum of two such numbers always fits.
const WHOLE_DIGITS_MAX: usize = 19;

/// Why there is no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSum {
    /// One of them is no number.
    NotANumber,
    /// It is too large to be written.
    Overflow,
}

/// The sum of two numbers, without zeros at its end.
pub(super) fn sum(left: &[u8], right: &[u8]) -> Result<String, NoSum> {
    if let (Some(left), Some(right)) = (fixed(left), fixed(right)) {
        return Ok(written(left + right));
    }
    let sum = floating(left)? + floating(right)?;
    if sum.is_finite() { Ok(sum.to_string()) } else { Err(NoSum::Overflow) }
}

/// A plain decimal number in units of the last place.
fn fixed(text: &[u8]) -> Option<i128> {
    let (is_negative, text) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    let is_plain = !whole.is_empty() && whole.len() <= WHOLE_DIGITS_MAX && fraction.len() <= PLACES;
    if !is_plain || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = std::iter::repeat_n(&b'0', PLACES - fraction.len());
    let digits = whole.iter().chain(fraction).chain(zeros);
    let number = digits.fold(0, |number: i128, digit| number * 10 + i128::from(digit - b'0'));
    Some(if is_negative { -number } else { number })
}

fn written(number: i128) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let (whole, fraction) = (number.abs() / UNIT, number.abs() % UNIT);
    let fraction = format!("{fraction:0PLACES$}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

fn floating(text: &[u8]) -> Result<f64, NoSum> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    number.filter(|number| !number.is_nan()).ok_or(NoSum::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_numbers_add_up_exactly() {
        for (left, right, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("3", "-3", "0"),
            ("-0.5", "0.25", "-0.25"),
            ("0", "-0", "0"),
            ("1", "-1.00000000000000001", "-0.00000000000000001"),
            ("9999999999999999999.99999999999999999", "0.00000000000000001", "10000000000000000000"),
            ("5.0e3", "200", "5200"),
            ("1e3", "-1000", "0"),
        ] {
            assert_eq!(sum(left.as_bytes(), right.as_bytes()).as_deref(), Ok(expected), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_no_number_or_too_large_is_told() {
        for text in ["", "x", " 1", "1 ", "1,5", "--1", "nan"] {
            assert_eq!(sum(text.as_bytes(), b"1"), Err(NoSum::NotANumber), "{text}");
        }
        assert_eq!(sum(b"1.7e308", b"1.7e308"), Err(NoSum::Overflow));
        assert_eq!(sum(b"inf", b"1"), Err(NoSum::Overflow));
    }
}
