//! What a server objects to, in words, and how long it wants to be left alone.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use kube::Error;
use kube::core::Status;
use kube::runtime::watcher;
use parking_lot::Mutex;

use crate::source::Failure;

/// How much of what a server says is passed on, in characters: it may be a page of a proxy.
const SAID_MAX: usize = 500;

/// The rest that the server has asked for with its last answer, if any.
#[derive(Clone, Debug, Default)]
pub(super) struct Requested(Arc<Mutex<Option<Duration>>>);

impl Requested {
    /// Notes what an answer says; seconds are understood, dates are not.
    pub(super) fn note(&self, headers: &HeaderMap) {
        let said = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        *self.0.lock() = said.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    }

    /// What was noted last, once.
    pub(super) fn taken(&self) -> Option<Duration> {
        self.0.lock().take()
    }
}

/// What ended a watch of the EndpointSlices in a namespace.
pub(super) fn refused(error: &watcher::Error, namespace: &str) -> Failure {
    match error {
        watcher::Error::InitialListFailed(Error::Api(status)) => objection("list", status, namespace),
        watcher::Error::WatchStartFailed(Error::Api(status))
        | watcher::Error::WatchFailed(Error::Api(status))
        | watcher::Error::WatchError(status) => objection("watch", status, namespace),
        other => Failure::new("EndpointSlices", other),
    }
}

fn objection(verb: &str, status: &Status, namespace: &str) -> Failure {
    let said = if status.message.is_empty() { &status.reason } else { &status.message };
    let said: String = said.chars().take(SAID_MAX).collect();
    match status.code {
        401 => Failure::say(format!(
            "the server does not know who asks (401); is the token of its making, and valid? {said}"
        )),
        403 => Failure::say(format!(
            "not allowed to {verb} endpointslices in the namespace {namespace} (403): no Role with the verb \
             {verb} is bound to the account. {said}"
        )),
        410 => {
            Failure::say(format!("what was listed is too old to go on from (410), it is listed anew: {said}"))
        }
        code => Failure::say(format!(
            "cannot {verb} endpointslices in the namespace {namespace} ({code}): {said}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> Box<Status> {
        Box::new(Status { code, message: message.to_owned(), ..Status::failure("", "Reason") })
    }

    #[test]
    fn a_refusal_names_the_right_that_is_missing() {
        let list = watcher::Error::InitialListFailed(Error::Api(status(403, "User x cannot")));
        let text = refused(&list, "blue").to_string();
        for word in ["not allowed to list", "namespace blue", "Role with the verb list", "User x cannot"] {
            assert!(text.contains(word), "{text}");
        }
        let watch = watcher::Error::WatchStartFailed(Error::Api(status(403, "")));
        assert!(refused(&watch, "blue").to_string().contains("not allowed to watch"));
    }

    #[test]
    fn what_a_server_says_is_passed_on_within_reason() {
        let error = watcher::Error::WatchError(status(500, &"a".repeat(1_000_000)));
        let text = refused(&error, "blue").to_string();
        assert!(text.contains("(500): aaa") && text.len() < 2 * SAID_MAX, "{} bytes", text.len());
    }

    #[test]
    fn a_rest_is_read_in_seconds_and_asked_for_once() {
        let requested = Requested::default();
        let note = |value: &str| {
            requested.note(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("a value"))]));
        };
        note("7");
        assert_eq!((requested.taken(), requested.taken()), (Some(Duration::from_secs(7)), None));
        for other in ["-1", "", "Wed, 21 Oct 2026 07:28:00 GMT", "99999999999999999999"] {
            note("7");
            note(other);
            assert_eq!(requested.taken(), None, "{other}");
        }
        note("7");
        requested.note(&HeaderMap::new());
        assert_eq!(requested.taken(), None);
    }
}
