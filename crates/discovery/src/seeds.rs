//! Addresses an operator wrote down.

use futures::future::BoxFuture;

use crate::Discovery;
use crate::address::{InvalidAddress, is_address};

/// A fixed list of peer addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticSeeds(Vec<String>);

impl StaticSeeds {
    /// Checks each address for the shape `host:port`; names are resolved only when they are dialled.
    ///
    /// # Errors
    /// [`InvalidAddress`] names the first that has another shape.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Result<Self, InvalidAddress> {
        let check =
            |address: String| if is_address(&address) { Ok(address) } else { Err(InvalidAddress(address)) };
        addresses.into_iter().map(check).collect::<Result<_, _>>().map(Self)
    }

    /// The list, as it was given.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.0
    }
}

impl Discovery for StaticSeeds {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn candidates(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(std::future::ready(self.0.clone()))
    }

    fn places(&self) -> Vec<String> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let good = ["127.0.0.1:7946", "node-1.example:1", "[::1]:7946"].map(str::to_owned);
        let seeds = StaticSeeds::new(good.clone()).expect("addresses");
        assert_eq!(seeds.addresses(), good);
        for bad in ["127.0.0.1", ":7946", "host:0", "host:99999", "::1:7946"] {
            assert_eq!(StaticSeeds::new([bad.to_owned()]), Err(InvalidAddress(bad.to_owned())));
        }
    }
}
