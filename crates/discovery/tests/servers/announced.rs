//! A node, as far as its sources know: an address that is announced until it is dropped.

use slipring_discovery::{Discovery, Sources};

use crate::expect::sources;

/// Sources that have been told of an address.
pub(crate) fn announced(source: &str, address: &str) -> Sources {
    let sources = sources(source);
    sources.announce(address);
    sources
}
