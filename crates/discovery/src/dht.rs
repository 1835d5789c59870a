//! libp2p: nodes that find each other in a Kademlia table, which they make up themselves.
//!
//! A node that is announced takes part in the table and provides its ring's name there (`member`). Whoever looks asks
//! the table who provides the name, and connects to each of these (`lookup`), which tells the node's address in its
//! introduction. So an address is believed only from the key that owns it, and only from somebody who answers now:
//! what the table itself says is never more than whom to ask.
//!
//! Source: Kademlia (Maymounkov and Mazières, IPTPS 2002); provider records as in libp2p's specification.

mod behaviour;
mod identity;
mod lookup;
mod member;
mod place;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::Multiaddr;
use libp2p::kad::RecordKey;

use crate::location::{InvalidLocation, Location};
use crate::registry::book;
use crate::source::{Failure, Found, Kept, Source, Withdrawn};

/// How often the table is asked.
const POLL: Duration = Duration::from_secs(3);
/// The most peers that a source names to begin with.
const BOOTSTRAP_MAX: usize = 16;
/// What a source looks like.
const FORM: &str = "write libp2p://name?bootstrap=/ip4/10.0.0.1/tcp/7950&listen=/ip4/10.0.0.2/tcp/7950";

/// A ring's name in a table.
pub(crate) struct Dht {
    ring: Ring,
    /// Where a peer of the table is to be found.
    bootstrap: Vec<Multiaddr>,
    /// Where this node takes part, once it is announced; it only looks where there is none.
    listen: Option<Multiaddr>,
    /// Where others reach it, when that is not where it listens.
    advertise: Option<Multiaddr>,
    /// Where its key is kept; it takes another one at each start where there is none.
    key_file: Option<PathBuf>,
}

/// What nodes of one cluster look for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ring(String);

impl Dht {
    /// `libp2p://name?bootstrap=multiaddr[,multiaddr]&listen=multiaddr&advertise=multiaddr`; an identity is kept in
    /// `folder`.
    pub(crate) fn new(location: &Location, folder: Option<&Path>) -> Result<Self, InvalidLocation> {
        location.expect_options(&["advertise", "bootstrap", "listen"])?;
        let name = location.host()?;
        if !location.path.is_empty() || !book::is_name(name) {
            return Err(location.invalid(format!("{FORM}; a name is {}", book::NAME)));
        }
        let read = |text: &str| place::read(text).map_err(|reason| location.invalid(reason));
        let one = |option: &str| location.option(option).map(read).transpose();
        let several = location.option("bootstrap").unwrap_or_default();
        let bootstrap = several.split(',').filter(|text| !text.is_empty()).map(read);
        let dht = Self {
            ring: Ring(name.to_owned()),
            bootstrap: bootstrap.collect::<Result<_, _>>()?,
            listen: one("listen")?,
            advertise: one("advertise")?,
            key_file: folder.map(|folder| folder.join(format!("libp2p-{name}.key"))),
        };
        match (&dht.listen, dht.bootstrap.len()) {
            (None, 0) => Err(location.invalid(FORM)),
            (Some(listen), _) if !place::is_plain(listen) => {
                Err(location.invalid("listen= takes /ip4/address/tcp/port or /ip6/address/tcp/port"))
            }
            (_, count) if count > BOOTSTRAP_MAX => {
                Err(location.invalid(format!("bootstrap= takes {BOOTSTRAP_MAX} at most")))
            }
            _ => Ok(dht),
        }
    }
}

impl Ring {
    /// Under which key of the table its nodes are.
    fn key(&self) -> RecordKey {
        RecordKey::new(&format!("/slipring/{}", self.0))
    }

    /// How a node of the ring introduces itself to whoever connects to it.
    fn introduction(&self, address: &str) -> String {
        format!("slipring {} {address}", self.0)
    }

    /// The address in the introduction of a node of this ring; nothing if it is of another, or none.
    fn address(&self, introduction: &str) -> Option<String> {
        let mut words = introduction.split(' ');
        let is_ours = words.next() == Some("slipring") && words.next() == Some(self.0.as_str());
        words.next().filter(|_| is_ours && words.next().is_none()).map(str::to_owned)
    }
}

impl Source for Dht {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async {
            loop {
                match lookup::look(self).await {
                    Ok(addresses) => found.publish(addresses),
                    Err(failure) => return failure,
                }
                tokio::time::sleep(POLL).await;
            }
        })
    }

    fn can_announce(&self) -> bool {
        self.listen.is_some()
    }

    fn announce<'a>(
        &'a self,
        address: &'a str,
        mut withdrawn: Withdrawn,
        kept: &'a Kept<'a>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { member::take_part(self, address, &mut withdrawn, kept).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Dht, InvalidLocation> {
        Dht::new(&Location::parse(text).expect("a location"), None)
    }

    #[test]
    fn a_source_names_a_ring_and_peers_or_where_to_listen() {
        let dht = read(
            "libp2p://ring-1?listen=/ip4/0.0.0.0/tcp/7950&bootstrap=/dns4/a.example/tcp/1,/ip6/::1/tcp/2",
        )
        .expect("a source");
        assert_eq!((dht.ring.0.as_str(), dht.bootstrap.len()), ("ring-1", 2));
        assert!(dht.can_announce());
        assert!(!read("libp2p://ring-1?bootstrap=/ip4/10.0.0.1/tcp/1").expect("a source").can_announce());
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let many = vec!["/ip4/10.0.0.1/tcp/1"; BOOTSTRAP_MAX + 1].join(",");
        let many = format!("libp2p://ring?bootstrap={many}");
        for text in [
            "libp2p://ring",
            "libp2p://Ring?listen=/ip4/127.0.0.1/tcp/1",
            "libp2p://ring/x?listen=/ip4/127.0.0.1/tcp/1",
            "libp2p://?listen=/ip4/127.0.0.1/tcp/1",
            "libp2p://ring?listen=127.0.0.1:1",
            "libp2p://ring?listen=/dns4/a.example/tcp/1",
            "libp2p://ring?listen=/ip4/127.0.0.1/udp/1/quic-v1",
            "libp2p://ring?bootstrap=/ip4/127.0.0.1",
            "libp2p://ring?bootstrap=/ip4/127.0.0.1/tcp/1/p2p/nobody",
            "libp2p://ring?bootstrap=/ip4/127.0.0.1/tcp/1&listens=/ip4/127.0.0.1/tcp/2",
            &many,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_introduction_is_understood_within_its_ring_alone() {
        let ring = Ring("ring-1".to_owned());
        assert_eq!(ring.address(&ring.introduction("10.0.0.1:7946")).as_deref(), Some("10.0.0.1:7946"));
        assert_eq!(Ring("ring-2".to_owned()).address(&ring.introduction("10.0.0.1:7946")), None);
        for other in
            ["", "slipring", "slipring ring-1", "rust-libp2p/0.48 ring-1 a:1", "slipring ring-1 a:1 b:2"]
        {
            assert_eq!(ring.address(other), None, "{other}");
        }
    }
}
