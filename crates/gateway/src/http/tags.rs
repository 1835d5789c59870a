//! Entity tags: a causal context in hexadecimal, and the lists of them in If-Match and If-None-Match.
//!
//! A tag that no node made, or a weak one where strong ones are compared, equals none: it is kept out of the list.
//! Source: RFC 9110, 5.6.1, 8.8.3 and 13.1.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue};
use slipring_apps::kv::{Precondition, Tags};

use super::failure::Failure;

/// The tag of a causal context.
pub(super) fn tag(context: &[u8]) -> String {
    let digits: String = context.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// What If-Match and If-None-Match ask for.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Failure> {
    Ok(Precondition {
        matches: tags(headers, "if-match", true)?,
        matches_none: tags(headers, "if-none-match", false)?,
    })
}

/// Whether a value with this context is among `tags`.
pub(super) fn name(tags: &Tags, context: &Bytes) -> bool {
    match tags {
        Tags::Any => true,
        Tags::These(tags) => tags.contains(context),
    }
}

/// The list in one header, however many lines it has; weak tags count unless `only_strong`.
fn tags(headers: &HeaderMap, header: &str, only_strong: bool) -> Result<Option<Tags>, Failure> {
    let lines: Vec<&[u8]> = headers.get_all(header).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let list = lines.join(&b',');
    if list.trim_ascii() == b"*" {
        return Ok(Some(Tags::Any));
    }
    let tags = parse(&list).ok_or_else(|| {
        Failure::invalid(format!(
            "the header {header} must be * or a list of ETags such as \"0a1b\", \"0c2d\""
        ))
    })?;
    let counted = tags.into_iter().filter(|(is_weak, _)| !(*is_weak && only_strong));
    Ok(Some(Tags::These(counted.filter_map(|(_, digits)| context(digits)).collect())))
}

/// Each tag of a list, and whether it is weak; nothing when this is no list of tags.
fn parse(list: &[u8]) -> Option<Vec<(bool, &[u8])>> {
    let (mut tags, mut rest) = (Vec::new(), list.trim_ascii_start());
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
            continue;
        }
        let weak = rest.strip_prefix(b"W/");
        let opened = weak.unwrap_or(rest).strip_prefix(b"\"")?;
        let end = opened.iter().position(|byte| *byte == b'"')?;
        let (digits, closed) = opened.split_at(end);
        if digits.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
            return None;
        }
        tags.push((weak.is_some(), digits));
        rest = closed.strip_prefix(b"\"")?.trim_ascii_start();
        if !(rest.is_empty() || rest.starts_with(b",")) {
            return None;
        }
    }
    (!tags.is_empty()).then_some(tags)
}

/// The context that a tag of a node stands for.
fn context(digits: &[u8]) -> Option<Bytes> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&'static str], only_strong: bool) -> Option<Option<Tags>> {
        let lines = lines.iter().map(|line| (axum::http::header::IF_MATCH, HeaderValue::from_static(line)));
        tags(&lines.collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), appended), "if-match", only_strong)
            .ok()
    }

    fn appended(mut headers: HeaderMap, (name, value): (axum::http::HeaderName, HeaderValue)) -> HeaderMap {
        headers.append(name, value);
        headers
    }

    fn these(contexts: &[&'static [u8]]) -> Option<Option<Tags>> {
        Some(Some(Tags::These(contexts.iter().map(|context| Bytes::from_static(context)).collect())))
    }

    #[test]
    fn lists_are_read_as_the_standard_writes_them() {
        assert_eq!(read(&[], true), Some(None));
        assert_eq!(read(&[" * "], true), Some(Some(Tags::Any)));
        assert_eq!(read(&["\"0aff\""], true), these(&[b"\x0a\xff"]));
        assert_eq!(
            read(&["\"0a\", \"0b\" ,\"\"", ", \"0c\","], true),
            these(&[b"\x0a", b"\x0b", b"", b"\x0c"])
        );
        assert_eq!(read(&["W/\"0a\", \"0b\""], true), these(&[b"\x0b"]), "a weak tag is no strong one");
        assert_eq!(read(&["W/\"0a\", \"0b\""], false), these(&[b"\x0a", b"\x0b"]));
        assert_eq!(read(&["\"xyz\", \"0A\", \"abc\", \"+1\", \"a,b\""], false), these(&[]), "tags of others");
    }

    #[test]
    fn header_that_lists_no_tags_is_refused() {
        for bad in [
            "",
            ",",
            "0a",
            "\"0a",
            "0a\"",
            "\"0a\" \"0b\"",
            "\"0a\"x",
            "w/\"0a\"",
            "W/ \"0a\"",
            "*, \"0a\"",
            "\"a b\"",
        ] {
            assert_eq!(read(&[bad], true), None, "{bad}");
        }
        assert_eq!(read(&["*", "*"], true), None);
    }

    #[test]
    fn tag_names_the_context_it_was_made_of() {
        let made = Bytes::from_static(b"\x00\x7f\xff");
        let text = tag(&made);
        let read = parse(text.as_bytes()).expect("a list");
        assert_eq!(read.iter().map(|(_, digits)| context(digits)).collect::<Vec<_>>(), [Some(made.clone())]);
        let others = Tags::These(vec![Bytes::new(), made.clone()]);
        assert!(name(&Tags::Any, &made) && name(&others, &made) && !name(&others, &Bytes::from_static(b"x")));
    }
}
