//! What each kind of source does: follow a list that is kept elsewhere, and put an address on it.

use std::fmt::Display;
use std::time::Duration;

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;

use crate::address::believable;

/// Why a source cannot be used at present; it will be tried again.
#[derive(Debug, Error)]
#[error("{text}")]
pub(crate) struct Failure {
    text: String,
    /// How long the source asks to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that is told with its causes.
    pub(crate) fn new(what: &str, error: &dyn std::error::Error) -> Self {
        let mut text = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::say(text)
    }

    /// A failure in words.
    pub(crate) fn say(what: impl Display) -> Self {
        Self { text: what.to_string(), retry_after: None }
    }

    /// The same failure, of a source that asks for a rest.
    #[cfg(any(feature = "kubernetes", test))]
    pub(crate) fn asking(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }
}

/// Hears that an address is on a list.
pub(crate) type Kept<'a> = dyn Fn() + Send + Sync + 'a;

/// One place where addresses are kept.
///
/// Both methods are cancelled by dropping what they return, and are called again after a failure.
pub(crate) trait Source: Send + Sync + 'static {
    /// Publishes the list and each change of it; returns only when it cannot go on.
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure>;

    /// Whether an address can be put on the list.
    fn can_announce(&self) -> bool {
        false
    }

    /// Puts an address on the list, keeps it there, and takes it off when it is withdrawn.
    ///
    /// `kept` is called each time that the address is known to be on the list.
    fn announce<'a>(
        &'a self,
        address: &'a str,
        withdrawn: Withdrawn,
        kept: &'a Kept<'a>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let _ = (address, withdrawn, kept);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Where a source's list is published. Only what may be an address gets in, and only so many.
#[derive(Debug)]
pub(crate) struct Found {
    source: String,
    list: watch::Sender<Option<Vec<String>>>,
}

impl Found {
    /// Nothing is known yet.
    pub(crate) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), list: watch::Sender::new(None) }
    }

    /// Replaces what is known.
    pub(crate) fn publish(&self, said: impl IntoIterator<Item = String>) {
        let list = believable(&self.source, said);
        tracing::debug!(source = self.source, addresses = list.len(), "a source was heard");
        self.list.send_replace(Some(list));
    }

    /// The source has failed: who waits for its first answer waits no longer.
    pub(crate) fn fail(&self) {
        self.list.send_if_modified(|list| {
            let is_first = list.is_none();
            list.get_or_insert_default();
            is_first
        });
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        self.list.send_replace(None);
    }

    /// The list, and whether it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Vec<String>>> {
        self.list.subscribe()
    }
}

/// Renews what holds an address on a list, now and after each rest, until the address is withdrawn.
///
/// # Errors
/// The first of `renew`.
pub(crate) async fn keep_up<R>(
    rest: Duration,
    withdrawn: &mut Withdrawn,
    kept: &Kept<'_>,
    mut renew: impl FnMut() -> R,
) -> Result<(), Failure>
where
    R: Future<Output = Result<(), Failure>>,
{
    while !withdrawn.is_set() {
        renew().await?;
        kept();
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = withdrawn.wait() => {}
        }
    }
    Ok(())
}

/// Tells when what was announced is to be taken back.
#[derive(Clone, Debug)]
pub(crate) struct Withdrawn(watch::Receiver<bool>);

impl Withdrawn {
    /// Follows a flag that turns `true` once.
    pub(crate) fn new(flag: watch::Receiver<bool>) -> Self {
        Self(flag)
    }

    /// Waits until it is so.
    pub(crate) async fn wait(&mut self) {
        // A sender that is gone means the same as one that says so.
        let _ = self.0.wait_for(|is_withdrawn| *is_withdrawn).await;
    }

    /// Whether it is so.
    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
