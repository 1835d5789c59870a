//! Where a node says that others reach it, for each of its ports.
//!
//! A surface's own setting comes first, then the host that `--advertise` names, then the address it listens on. For Redis
//! Cluster clients the host of `--advertise-redis` comes in between.
//!
//! Invariant: an announced host is never an unspecified address, such as 0.0.0.0.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use anyhow::{Context, bail};
use slipring_ring::Addresses;

use crate::settings::Settings;

/// A host that others reach, and a port if it is not the one that the node listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: String,
    port: Option<NonZeroU16>,
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => {
                (host, Some(port.parse().context("its port is not in 1..=65535")?))
            }
            _ => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']', '/', '@']),
        };
        if !is_host || host.contains(char::is_whitespace) {
            bail!("it is not HOST or HOST:PORT, with an IPv6 address in brackets");
        }
        if bare.unwrap_or(host).parse().is_ok_and(is_unspecified) {
            bail!("no other machine reaches the unspecified address {host}: name one that it does reach");
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

fn is_unspecified(address: IpAddr) -> bool {
    address.to_canonical().is_unspecified()
}

/// A setting's place; nothing where it is empty.
fn place(name: &str, text: &str) -> anyhow::Result<Option<Place>> {
    let parsed = (!text.is_empty()).then(|| text.parse()).transpose();
    parsed.with_context(|| format!("{name} = \"{text}\" cannot be announced"))
}

/// Where each port is reached that listens at these addresses.
pub(crate) fn addresses(settings: &Settings, listens: &Listens) -> anyhow::Result<Addresses> {
    let peer = place("advertise", &settings.advertise)?;
    let redis = place("advertise_redis", &settings.advertise_redis)?;
    let announced = |own: Option<&Place>, other: Option<&Place>, listens: SocketAddr| {
        let port = own.and_then(|own| own.port).map_or(listens.port(), NonZeroU16::get);
        match own.or(other).or(peer.as_ref()) {
            Some(place) => format!("{}:{port}", place.host),
            None => SocketAddr::new(listens.ip(), port).to_string(),
        }
    };
    let [cluster, http] = [
        place("advertise_redis_cluster", &settings.advertise_redis_cluster)?,
        place("advertise_http", &settings.advertise_http)?,
    ];
    Ok(Addresses {
        peer: announced(peer.as_ref(), None, listens.peer),
        redis: announced(redis.as_ref(), None, listens.redis),
        http: announced(http.as_ref(), None, listens.http),
        redis_cluster: announced(cluster.as_ref(), redis.as_ref(), listens.redis_cluster),
    })
}

/// The addresses that the ports listen on.
pub(crate) struct Listens {
    pub(crate) peer: SocketAddr,
    pub(crate) redis: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) redis_cluster: SocketAddr,
}

/// Refuses settings that would announce an address which no other machine reaches.
pub(crate) fn check(settings: &Settings, bind: IpAddr) -> anyhow::Result<()> {
    let peer = place("advertise", &settings.advertise)?;
    place("advertise_redis", &settings.advertise_redis)?;
    place("advertise_redis_cluster", &settings.advertise_redis_cluster)?;
    place("advertise_http", &settings.advertise_http)?;
    if peer.as_ref().is_some_and(|peer| peer.port.is_none()) {
        bail!("advertise = \"{}\" must be host:port", settings.advertise);
    }
    // A machine with one address now may have two later, and behind a container's bridge its only one is of no use.
    if peer.is_none() && is_unspecified(bind) {
        bail!(
            "bind = {bind} listens on every address of this machine, and which of them others reach is not known: name \
             it with --advertise HOST:{}, or bind to one address",
            settings.peer_port
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(text: &str) -> Option<(String, u16)> {
        let place: Place = text.parse().ok()?;
        Some((place.host, place.port.map_or(0, NonZeroU16::get)))
    }

    #[test]
    fn places_are_hosts_with_or_without_a_port() {
        let right = [
            ("ring-0.ring", "ring-0.ring", 0),
            ("ring-0.ring:1", "ring-0.ring", 1),
            ("10.0.0.1:65535", "10.0.0.1", 65_535),
            ("[fd00::1]", "[fd00::1]", 0),
            ("[fd00::1]:6379", "[fd00::1]", 6379),
        ];
        for (text, host, port) in right {
            assert_eq!(place_of(text), Some((host.to_owned(), port)), "{text}");
        }
        for wrong in
            ["", ":1", "a:", "a:0", "a:65536", "a:x", "fd00::1", "a:b:1", "[a]:1", "http://a", "a b:1"]
        {
            assert_eq!(place_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn unspecified_addresses_are_never_announced() {
        for wrong in ["0.0.0.0", "0.0.0.0:6379", "[::]", "[::]:6379", "[::ffff:0.0.0.0]:6379"] {
            let error = wrong.parse::<Place>().expect_err("refused").to_string();
            assert!(error.contains("unspecified"), "{wrong}: {error}");
        }
    }
}
