//! Adding numbers that are written as text.
//!
//! Numbers of ordinary size are added in fixed point, so that 0.1 and 0.2 make 0.3 and money adds up; very
//! large or small ones in floating point. Either way a sum has at most 17 digits after its point.

/// Digits after the point that are added exactly, and the number they stand for.
const PLACES: usize = 17;
const UNIT: i128 = 100_000_000_000_000_000;
/// What is added exactly lies below this; the sum of two such numbers always fits.
const FIXED_MAX: i128 = 10_i128.pow(37);

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
    if !sum.is_finite() {
        return Err(NoSum::Overflow);
    }
    let text = format!("{sum:.PLACES$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    Ok(if text == "-0" { "0" } else { text }.to_owned())
}

/// A decimal number, with an exponent or without, in units of the last place; `None` when it is none or does
/// not fit.
fn fixed(text: &[u8]) -> Option<i128> {
    let (is_negative, text) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let mut parts = text.splitn(2, |byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = (parts.next()?, parts.next());
    let exponent: i32 =
        exponent.map_or(Ok(0), |text| std::str::from_utf8(text).unwrap_or("").parse()).ok()?;
    let mut parts = mantissa.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut number = 0_i128;
    for digit in whole.iter().chain(fraction) {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number = Some(number * 10 + i128::from(digit)).filter(|number| *number < FIXED_MAX)?;
    }
    let shift = i64::from(exponent) + PLACES as i64 - fraction.len() as i64;
    let power = 10_i128.checked_pow(u32::try_from(shift.unsigned_abs()).ok()?);
    let number = match (number, power) {
        (0, _) => 0,
        (_, None) => return None,
        (number, Some(power)) if shift >= 0 => number.checked_mul(power).filter(|fits| *fits < FIXED_MAX)?,
        (number, Some(power)) => (number % power == 0).then_some(number / power)?,
    };
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
            (".5", "9223372036854775807", "9223372036854775807.5"),
            ("5.", "+.5E1", "10"),
            ("19223372036854775807", "-1", "19223372036854775806"),
            ("1e17", "9223372036854776", "109223372036854776"),
            ("1e-17", "-1e-17", "0"),
            ("0e999999999", "1", "1"),
        ] {
            assert_eq!(sum(left.as_bytes(), right.as_bytes()).as_deref(), Ok(expected), "{left} + {right}");
        }
    }

    #[test]
    fn other_numbers_are_added_as_well_as_they_can_be() {
        for (left, right, expected) in [
            ("1e-20", "0", "0"),
            ("-1e-20", "0", "0"),
            ("0.000000000000000019", "0", "0.00000000000000002"),
            ("1e30", "1e30", "2000000000000000039769249677312"),
        ] {
            assert_eq!(sum(left.as_bytes(), right.as_bytes()).as_deref(), Ok(expected), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_no_number_or_too_large_is_told() {
        for text in ["", "x", " 1", "1 ", "1,5", "--1", "nan", ".", "-", "1e", "e1", "1.2.3", "1e1.5"] {
            assert_eq!(sum(text.as_bytes(), b"1"), Err(NoSum::NotANumber), "{text}");
        }
        assert_eq!(sum(b"1.7e308", b"1.7e308"), Err(NoSum::Overflow));
        assert_eq!(sum(b"inf", b"1"), Err(NoSum::Overflow));
    }
}
