//! Writes and deletions that name the values they want to meet.

use slipring_model::limits;

use super::*;

impl Key {
    fn put_if(&mut self, value: &'static str, only: Precondition) -> Response {
        self.ask(Request::Put { key: key(), value: value.into(), expiry: Expiry::Default, only })
    }

    /// Writes a value; its context.
    fn stored(&mut self, value: &'static str) -> Bytes {
        match self.put_if(value, Precondition::default()) {
            Response::Stored { context: Some(context) } => context,
            other => panic!("{other:?}"),
        }
    }

    fn all(&mut self) -> (Vec<Bytes>, Bytes) {
        match self.ask(Request::GetAll { key: key() }) {
            Response::All { values, context, .. } => (values, context),
            other => panic!("{other:?}"),
        }
    }
}

fn if_match(tags: Tags) -> Precondition {
    Precondition { matches: Some(tags), matches_none: None }
}

fn if_none_match(tags: Tags) -> Precondition {
    Precondition { matches: None, matches_none: Some(tags) }
}

fn these(tags: &[&Bytes]) -> Tags {
    Tags::These(tags.iter().map(|tag| (*tag).clone()).collect())
}

#[test]
fn write_answers_with_the_context_that_a_read_finds() {
    for keeps_siblings in [false, true] {
        let mut k = Key { keeps_siblings, ..Key::default() };
        for value in ["a", "b"] {
            let told = k.stored(value);
            assert_eq!(k.all(), (vec![value.into()], told));
        }
    }
}

#[test]
fn writes_look_at_the_contexts_that_they_name() {
    let mut k = Key::default();
    let (old, foreign) = (k.stored("a"), Bytes::from_static(b"no context"));
    let new = k.stored("b");
    for tags in [these(&[&old]), these(&[&foreign]), these(&[])] {
        assert_eq!(k.put_if("c", if_match(tags.clone())), Response::Conflict);
        assert_eq!(k.ask(Request::Remove { key: key(), only: if_match(tags) }), Response::Conflict);
    }
    for tags in [these(&[&old, &new]), Tags::Any] {
        assert_eq!(k.put_if("c", if_none_match(tags.clone())), Response::Matched);
        assert_eq!(k.ask(Request::Remove { key: key(), only: if_none_match(tags) }), Response::Matched);
    }
    let both = Precondition { matches: Some(these(&[&new])), matches_none: Some(Tags::Any) };
    assert_eq!(k.put_if("c", both), Response::Matched);
    assert_eq!(k.get().as_deref(), Some("b"), "what is refused changes nothing");
    assert!(matches!(k.put_if("c", if_none_match(these(&[&old]))), Response::Stored { .. }));
    assert!(matches!(k.put_if("d", if_match(Tags::Any)), Response::Stored { .. }));
    let last = k.all().1;
    let listed = k.put_if("e", if_match(these(&[&foreign, &old, &last])));
    assert_eq!(listed, Response::Stored { context: Some(k.all().1) });
    let only = if_match(these(&[&k.all().1]));
    assert_eq!(k.ask(Request::Remove { key: key(), only }), written(true, None));
    assert_eq!(k.get(), None);
}

#[test]
fn value_that_is_over_or_never_was_matches_nothing() {
    let mut k = Key { default_ttl_ms: Some(10), ..Key::default() };
    for only in [if_match(Tags::Any), if_match(these(&[&Bytes::new()]))] {
        assert_eq!(k.put_if("a", only), Response::Conflict);
    }
    let seen = k.stored("a");
    k.now_ms = 10;
    for only in [if_match(Tags::Any), if_match(these(&[&seen]))] {
        assert_eq!(k.put_if("b", only.clone()), Response::Conflict, "it does not come back to life");
        assert_eq!(k.ask(Request::Remove { key: key(), only }), written(false, None));
    }
    for only in [if_none_match(Tags::Any), if_none_match(these(&[&seen]))] {
        k.ask(Request::Remove { key: key(), only: Precondition::default() });
        assert!(matches!(k.put_if("b", only), Response::Stored { .. }));
    }
}

#[test]
fn write_beside_an_unseen_value_tells_no_context() {
    let mut k = Key { keeps_siblings: true, ..Key::default() };
    let seen = k.stored("a");
    assert!(matches!(k.put_if("b", if_match(these(&[&seen]))), Response::Stored { context: Some(_) }));
    assert_eq!(k.put_if("c", if_match(these(&[&seen]))), Response::Stored { context: None });
    let (values, all) = k.all();
    assert_eq!(values.len(), 2);
    assert_eq!(k.put_if("d", if_match(these(&[&seen, &all]))), Response::Stored { context: Some(k.all().1) });
    assert_eq!(k.all().0, [Bytes::from_static(b"d")], "the tag that has seen most counts");
}

#[test]
fn resolution_is_taken_when_there_is_no_room_for_a_sibling() {
    let mut k = Key { keeps_siblings: true, ..Key::default() };
    let seen = k.stored("a");
    for _ in 0..limits::SIBLINGS_MAX {
        assert!(matches!(k.put_if("b", if_match(these(&[&seen]))), Response::Stored { .. }));
    }
    assert_eq!(k.put_if("c", if_match(these(&[&seen]))), Response::Conflict);
    let all = k.all().1;
    assert!(matches!(k.put_if("d", if_match(these(&[&all]))), Response::Stored { context: Some(_) }));
    assert_eq!(k.all().0.len(), 1);
}

#[test]
fn put_looks_only_where_it_has_a_condition() {
    let access = |expiry, only| KV.access(&Request::Put { key: key(), value: Bytes::new(), expiry, only });
    assert_eq!(access(Expiry::At(1), Precondition::default()), Access::BlindWrite);
    assert_eq!(access(Expiry::Keep, Precondition::default()), Access::ReadModifyWrite);
    for only in [if_match(Tags::Any), if_none_match(Tags::Any)] {
        assert_eq!(access(Expiry::Default, only), Access::ReadModifyWrite);
    }
    let put = Request::Put {
        key: key(),
        value: Bytes::new(),
        expiry: Expiry::At(5),
        only: Precondition::default(),
    };
    assert!(KV.names_time(&put));
}
