//! Addresses an operator wrote down.

use thiserror::Error;

use crate::Discovery;

/// A text that is not `host:port`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is not an address: write host:port, for instance 127.0.0.1:7946 or [::1]:7946")]
pub struct InvalidAddress(String);

/// A fixed list of peer addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticSeeds(Vec<String>);

impl StaticSeeds {
    /// Checks each address for the shape `host:port`; names are resolved only when they are dialled.
    ///
    /// # Errors
    /// [`InvalidAddress`] names the first that has another shape.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Result<Self, InvalidAddress> {
        let checked = addresses.into_iter().map(|address| {
            let is_address = address.rsplit_once(':').is_some_and(|(host, port)| {
                let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
                !host.is_empty() && !is_bare_v6 && port.parse::<u16>().is_ok_and(|port| port != 0)
            });
            if is_address { Ok(address) } else { Err(InvalidAddress(address)) }
        });
        checked.collect::<Result<_, _>>().map(Self)
    }
}

impl Discovery for StaticSeeds {
    fn candidates(&self) -> Vec<String> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let good = ["127.0.0.1:7946", "node-1.example:1", "[::1]:7946"].map(str::to_owned);
        assert_eq!(StaticSeeds::new(good.clone()).map(|seeds| seeds.candidates()), Ok(good.to_vec()));
        for bad in ["127.0.0.1", ":7946", "host:0", "host:99999", "::1:7946"] {
            assert_eq!(StaticSeeds::new([bad.to_owned()]), Err(InvalidAddress(bad.to_owned())));
        }
    }
}
