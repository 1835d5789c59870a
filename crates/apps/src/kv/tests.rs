//! The application on cells, without any node.

use slipring_model::{Actor, Dot, Timestamp};
use slipring_service::Cell;

use super::*;

mod preconditions;

/// A key's cell and the requests made to it.
#[derive(Default)]
struct Key {
    bytes: Option<Vec<u8>>,
    counter: u64,
    keeps_siblings: bool,
    now_ms: u64,
    default_ttl_ms: Option<u64>,
}

impl Key {
    fn ask(&mut self, request: Request) -> Response {
        let request: Request = decode(&encode(&request)).expect("its own encoding");
        let context = Context {
            now_ms: self.now_ms,
            random: 0,
            default_ttl_ms: self.default_ttl_ms,
            keeps_siblings: self.keeps_siblings,
        };
        let stored = self.bytes.clone();
        let cell = stored.as_deref().map_or_else(Cell::default, |bytes| Cell::decode(bytes).expect("a cell"));
        let dot = Dot { actor: Actor { assignment: 1, incarnation: 1 }, counter: self.counter + 1 };
        let mut cells = Cells::new(&cell, self.now_ms).before(dot);
        let response = KV.execute(&context, request, &mut cells);
        if let Some(change) = cells.into_change() {
            self.counter = dot.counter;
            let mut bytes = Vec::new();
            cell.clone().changed(&change, dot, Timestamp(self.counter)).encode(&mut bytes);
            self.bytes = Some(bytes);
        }
        decode(&encode(&response)).expect("its own encoding")
    }

    fn get(&mut self) -> Option<String> {
        match self.ask(Request::Get { key: key() }) {
            Response::Value(found) => found.map(|found| String::from_utf8_lossy(&found.value).into_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn expires_at(&mut self) -> Option<u64> {
        match self.ask(Request::Get { key: key() }) {
            Response::Value(Some(found)) => found.expires_at,
            other => panic!("{other:?}"),
        }
    }

    fn set_until(&mut self, expiry: Expiry) {
        let (value, condition) = (Bytes::from_static(b"v"), Condition::Always);
        let request =
            Request::Set { key: key(), value, expiry, condition, returns_previous: false, seen: None };
        assert_eq!(self.ask(request), written(true, None));
    }

    fn set_if(&mut self, value: &'static str, condition: Condition) -> Response {
        let (expiry, value) = (Expiry::Default, Bytes::from(value));
        self.ask(Request::Set { key: key(), value, expiry, condition, returns_previous: true, seen: None })
    }
}

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn written(done: bool, previous: Option<&'static str>) -> Response {
    Response::Written { done, previous: previous.map(Bytes::from) }
}

#[test]
fn conditions_look_at_the_value() {
    let mut k = Key::default();
    assert_eq!(k.set_if("a", Condition::IfPresent), written(false, None));
    assert_eq!(k.set_if("a", Condition::IfAbsent), written(true, None));
    assert_eq!(k.set_if("b", Condition::IfAbsent), written(false, Some("a")));
    assert_eq!(k.set_if("b", Condition::IfEquals("x".into())), written(false, Some("a")));
    assert_eq!(k.set_if("b", Condition::IfEquals("a".into())), written(true, Some("a")));
    assert_eq!(k.get().as_deref(), Some("b"));
}

#[test]
fn numbers_add_up_and_say_when_they_cannot() {
    let mut k = Key::default();
    assert_eq!(k.ask(Request::Add { key: key(), delta: 5 }), Response::Integer(5));
    assert_eq!(k.ask(Request::Add { key: key(), delta: -7 }), Response::Integer(-2));
    assert_eq!(k.ask(Request::Add { key: key(), delta: i64::MIN }), Response::Overflow);
    let float = Request::AddFloat { key: key(), delta: "2.5".into() };
    let half = Some(Found { value: "0.5".into(), expires_at: None });
    assert_eq!(k.ask(float.clone()), Response::Value(half));
    assert_eq!(k.ask(Request::Add { key: key(), delta: 1 }), Response::NotANumber);
    k.set_if("x", Condition::Always);
    assert_eq!(k.ask(float), Response::NotANumber);
}

#[test]
fn parts_are_written_and_lengths_told() {
    let mut k = Key::default();
    assert_eq!(k.ask(Request::Append { key: key(), tail: "ab".into() }), Response::Integer(2));
    assert_eq!(k.ask(Request::SetRange { key: key(), offset: 4, part: "z".into() }), Response::Integer(5));
    assert_eq!(k.get().as_deref(), Some("ab\0\0z"));
    let far = Request::SetRange { key: key(), offset: u64::MAX, part: "z".into() };
    assert_eq!(k.ask(far), Response::TooLarge);
}

#[test]
fn expiry_is_set_kept_and_taken_away() {
    let mut k = Key { now_ms: 1_000, ..Key::default() };
    let any = ExpireIf { none: false, some: false, later: false, earlier: false };
    let expire = |at, only| Request::Expire { key: key(), at, only };
    assert_eq!(k.ask(expire(5_000, any)), written(false, None));
    k.set_if("1", Condition::Always);
    assert_eq!(k.ask(expire(5_000, ExpireIf { some: true, ..any })), written(false, None));
    assert_eq!(
        k.ask(expire(5_000, ExpireIf { later: true, ..any })),
        written(false, None),
        "never is latest"
    );
    assert_eq!(k.ask(expire(5_000, ExpireIf { earlier: true, ..any })), written(true, None));
    assert_eq!(k.ask(Request::Add { key: key(), delta: 1 }), Response::Integer(2));
    let kept = Response::Value(Some(Found { value: "2".into(), expires_at: Some(5_000) }));
    assert_eq!(k.ask(Request::Get { key: key() }), kept, "an increment keeps the expiry");
    assert_eq!(k.ask(Request::Persist { key: key() }), written(true, None));
    assert_eq!(k.ask(Request::Persist { key: key() }), written(false, None));
    assert_eq!(k.ask(expire(1_000, any)), written(true, None));
    assert_eq!(k.get(), None, "a time that is past deletes");
}

#[test]
fn a_write_keeps_the_expiry_only_when_told_to() {
    let mut k = Key { now_ms: 1_000, ..Key::default() };
    k.set_until(Expiry::At(5_000));
    k.set_until(Expiry::Keep);
    assert_eq!(k.expires_at(), Some(5_000));
    k.set_until(Expiry::Default);
    assert_eq!(k.expires_at(), None);
    k.set_until(Expiry::At(1_000));
    assert_eq!(k.get(), None, "it has expired as soon as it was written");
}

#[test]
fn new_values_get_the_time_to_live_of_their_bucket() {
    let fresh = || Key { now_ms: 1_000, default_ttl_ms: Some(100), ..Key::default() };
    let makers: [Request; 5] = [
        Request::Add { key: key(), delta: 1 },
        Request::set(key(), "1".into()),
        Request::Append { key: key(), tail: "1".into() },
        Request::SetRange { key: key(), offset: 0, part: "1".into() },
        Request::AddFloat { key: key(), delta: "1".into() },
    ];
    for maker in makers {
        let mut k = fresh();
        k.ask(maker.clone());
        assert_eq!(k.expires_at(), Some(1_100), "{maker:?}");
        k.now_ms = 1_050;
        k.ask(Request::Append { key: key(), tail: "2".into() });
        assert_eq!((k.expires_at(), k.get().as_deref()), (Some(1_100), Some("12")), "{maker:?}");
        k.now_ms = 1_100;
        assert_eq!(k.get(), None, "{maker:?}");
    }
}

#[test]
fn a_value_is_taken_once() {
    let mut k = Key::default();
    let taken = |value: Option<&'static str>| {
        Response::Value(value.map(|value| Found { value: value.into(), expires_at: None }))
    };
    k.set_if("a", Condition::Always);
    assert_eq!(k.ask(Request::Take { key: key() }), taken(Some("a")));
    assert_eq!(k.ask(Request::Take { key: key() }), taken(None));
    assert_eq!(k.ask(Request::Delete { key: key(), seen: None }), written(false, None));
}

#[test]
fn reading_may_move_the_expiry() {
    let mut k = Key { now_ms: 1_000, ..Key::default() };
    let read = |expiry| Request::GetAndExpire { key: key(), expiry };
    assert_eq!(k.ask(read(Expiry::At(9_000))), Response::Value(None));
    k.set_until(Expiry::At(5_000));
    k.ask(read(Expiry::Keep));
    assert_eq!(k.expires_at(), Some(5_000));
    k.ask(read(Expiry::At(9_000)));
    assert_eq!(k.expires_at(), Some(9_000));
    k.ask(read(Expiry::Default));
    assert_eq!(k.expires_at(), None);
    k.ask(read(Expiry::At(1_000)));
    assert_eq!(k.get(), None);
}

#[test]
fn appending_nothing_makes_an_empty_value_and_changes_no_other() {
    let mut k = Key::default();
    let nothing = Request::Append { key: key(), tail: Bytes::new() };
    assert_eq!(k.ask(nothing.clone()), Response::Integer(0));
    assert_eq!(k.get().as_deref(), Some(""));
    k.set_if("a", Condition::Always);
    assert_eq!(k.ask(nothing), Response::Integer(1));
    let mut other = Key::default();
    let part = Request::SetRange { key: key(), offset: 3, part: Bytes::new() };
    assert_eq!((other.ask(part), other.get()), (Response::Integer(0), None));
}

#[test]
fn values_have_a_limit_however_they_grow() {
    let mut k = Key::default();
    let largest = Bytes::from(vec![b'x'; slipring_model::limits::VALUE_BYTES_MAX]);
    assert_eq!(k.ask(Request::set(key(), largest.clone())), written(true, None));
    assert_eq!(k.ask(Request::Append { key: key(), tail: "y".into() }), Response::TooLarge);
    let over = Bytes::from([&largest[..], b"y"].concat());
    assert_eq!(k.ask(Request::set(key(), over)), Response::TooLarge);
    assert_eq!(k.get().map(|value| value.len()), Some(largest.len()));
}

#[test]
fn only_writes_that_need_not_look_are_blind() {
    let access = |request| KV.access(&request);
    assert_eq!(access(Request::set(key(), "v".into())), Access::BlindWrite);
    assert_eq!(access(Request::Get { key: key() }), Access::Read);
    assert_eq!(access(Request::Delete { key: key(), seen: None }), Access::ReadModifyWrite);
    assert_eq!(access(Request::Add { key: key(), delta: 1 }), Access::ReadModifyWrite);
    let set = |expiry, condition, returns_previous, seen| Request::Set {
        key: key(),
        value: "v".into(),
        expiry,
        condition,
        returns_previous,
        seen,
    };
    for request in [
        set(Expiry::Keep, Condition::Always, false, None),
        set(Expiry::Default, Condition::IfAbsent, false, None),
        set(Expiry::Default, Condition::Always, true, None),
        set(Expiry::Default, Condition::Always, false, Some(Bytes::new())),
    ] {
        assert_eq!(access(request), Access::ReadModifyWrite);
    }
}

#[test]
fn messages_of_another_version_or_cut_short_are_refused() {
    let bytes = encode(&Request::set(key(), "value".into()));
    let other = Bytes::from([&[VERSION + 1], &bytes[1..]].concat());
    assert!(KV.decode_request(other).is_err_and(|error| error.kind == ErrorKind::Invalid));
    for end in 0..bytes.len() {
        assert!(KV.decode_request(bytes.slice(..end)).is_err(), "{end}");
    }
}

#[test]
fn a_stale_context_conflicts_or_leaves_a_sibling() {
    for keeps_siblings in [false, true] {
        let mut k = Key { keeps_siblings, ..Key::default() };
        k.set_if("a", Condition::Always);
        let Response::All { context, .. } = k.ask(Request::GetAll { key: key() }) else { panic!("all") };
        let write = |value: &'static str| Request::Set {
            key: key(),
            value: value.into(),
            expiry: Expiry::Default,
            condition: Condition::Always,
            returns_previous: false,
            seen: Some(context.clone()),
        };
        assert_eq!(k.ask(write("b")), written(true, None));
        let expected = if keeps_siblings { written(true, None) } else { Response::Conflict };
        assert_eq!(k.ask(write("c")), expected);
        let Response::All { values, .. } = k.ask(Request::GetAll { key: key() }) else { panic!("all") };
        assert_eq!(values.len(), if keeps_siblings { 2 } else { 1 });
    }
}

#[test]
fn a_request_names_a_time_when_a_clock_was_read_for_it() {
    let set = |expiry| Request::Set {
        key: key(),
        value: Bytes::new(),
        expiry,
        condition: Condition::Always,
        returns_previous: false,
        seen: None,
    };
    let only = ExpireIf { none: false, some: false, later: false, earlier: false };
    let table = [
        (set(Expiry::At(5)), true),
        (set(Expiry::Keep), false),
        (set(Expiry::Default), false),
        (Request::Expire { key: key(), at: 5, only }, true),
        (Request::GetAndExpire { key: key(), expiry: Expiry::At(5) }, true),
        (Request::GetAndExpire { key: key(), expiry: Expiry::Default }, false),
        (Request::Persist { key: key() }, false),
        (Request::Add { key: key(), delta: 1 }, false),
    ];
    for (request, names_time) in table {
        assert_eq!(KV.names_time(&request), names_time, "{request:?}");
    }
}
