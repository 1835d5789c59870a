//! The contract between whoever finds addresses and whoever dials them.

use std::sync::Arc;

use futures::future::BoxFuture;

/// A source of addresses to try.
pub trait Discovery: Send + Sync + 'static {
    /// Whether it is nobody, now and for ever: a node that may ask nobody founds a cluster of its own.
    fn is_empty(&self) -> bool;

    /// Peer addresses (`host:port`) that may belong to members, in no particular order.
    ///
    /// An empty list means "nobody yet". The caller's own address can be among them. It answers within some
    /// seconds, from what it knows by then, and may be asked as often as one likes.
    fn candidates(&self) -> BoxFuture<'_, Vec<String>>;

    /// Where it looks, as people are told; nothing where there is nothing to tell.
    fn places(&self) -> Vec<String> {
        Vec::new()
    }

    /// Tells others of this peer address (`host:port`) from now on, until [`withdraw`](Self::withdraw).
    ///
    /// Returns at once; where nothing can be told, or that is announced already, nothing happens.
    fn announce(&self, address: &str) {
        let _ = address;
    }

    /// Takes back what was announced, as far as that can be done in about a second; the rest lapses by itself.
    fn withdraw(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl<D: Discovery + ?Sized> Discovery for Arc<D> {
    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }

    fn candidates(&self) -> BoxFuture<'_, Vec<String>> {
        (**self).candidates()
    }

    fn places(&self) -> Vec<String> {
        (**self).places()
    }

    fn announce(&self, address: &str) {
        (**self).announce(address);
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        (**self).withdraw()
    }
}
