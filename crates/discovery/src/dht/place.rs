//! Where peers of a table are: multiaddrs over TCP, with names looked up by the system.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// How long a name may take to be looked up.
const LOOKUP: Duration = Duration::from_secs(2);
/// The most addresses that one name stands for.
const PER_NAME_MAX: usize = 16;

/// Reads a multiaddr with a host, a TCP port, and perhaps the peer that is expected there; what is wrong with it else.
pub(super) fn read(text: &str) -> Result<Multiaddr, String> {
    let address: Multiaddr = text.parse().map_err(|error| format!("\"{text}\" is no multiaddr: {error}"))?;
    let parts: Vec<Protocol> = address.iter().collect();
    let is_known = match parts.as_slice() {
        [host, Protocol::Tcp(port)] | [host, Protocol::Tcp(port), Protocol::P2p(_)] => {
            *port != 0 && (is_ip(host) || name(host).is_some())
        }
        _ => false,
    };
    is_known.then_some(address).ok_or_else(|| {
        format!("\"{text}\" must look like /ip4/10.0.0.1/tcp/7950 or /dns4/a.example/tcp/7950, with /p2p/... or without")
    })
}

/// Whether it is an IP address and a TCP port and no more.
pub(super) fn is_plain(address: &Multiaddr) -> bool {
    socket(address).is_some()
}

/// The socket that it names, if it is an IP address and a TCP port and no more.
pub(super) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The same place as somebody on this host reaches it.
pub(super) fn from_here(listen: &Multiaddr) -> Multiaddr {
    match socket(listen) {
        Some(at) if at.ip().is_unspecified() => listen.replace(0, |host| {
            Some(if matches!(host, Protocol::Ip4(_)) {
                Protocol::Ip4([127, 0, 0, 1].into())
            } else {
                Protocol::Ip6(std::net::Ipv6Addr::LOCALHOST)
            })
        }),
        _ => None,
    }
    .unwrap_or_else(|| listen.clone())
}

/// The same places, each name replaced by what it stands for now; a name that stands for nothing is left out.
pub(super) async fn resolved(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let each = futures::future::join_all(addresses.iter().map(resolve)).await;
    each.into_iter().flatten().collect()
}

async fn resolve(address: &Multiaddr) -> Vec<Multiaddr> {
    let mut parts = address.iter();
    let (Some(host), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else { return Vec::new() };
    let Some((name, wants)) = name(&host) else { return vec![address.clone()] };
    let rest: Multiaddr = parts.collect();
    match tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(found)) => {
            let wanted = found.map(|at| at.ip()).filter(wants).take(PER_NAME_MAX);
            wanted.map(|ip| at(ip, port).into_iter().chain(rest.iter()).collect()).collect()
        }
        Ok(Err(error)) => {
            tracing::warn!(%address, %error, "the name of a peer cannot be looked up");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(%address, "the name of a peer is not looked up within {LOOKUP:?}");
            Vec::new()
        }
    }
}

fn at<'a>(ip: IpAddr, port: u16) -> [Protocol<'a>; 2] {
    let host = match ip {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    };
    [host, Protocol::Tcp(port)]
}

fn is_ip(host: &Protocol) -> bool {
    matches!(host, Protocol::Ip4(_) | Protocol::Ip6(_))
}

/// A name, and which of its addresses count.
fn name<'a>(host: &'a Protocol) -> Option<(&'a str, fn(&IpAddr) -> bool)> {
    match host {
        Protocol::Dns(name) => Some((&**name, |_| true)),
        Protocol::Dns4(name) => Some((&**name, IpAddr::is_ipv4)),
        Protocol::Dns6(name) => Some((&**name, IpAddr::is_ipv6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Multiaddr {
        read(text).expect("a place")
    }

    #[test]
    fn everywhere_is_reached_on_this_host() {
        for (listen, here) in [
            ("/ip4/0.0.0.0/tcp/7", "/ip4/127.0.0.1/tcp/7"),
            ("/ip6/::/tcp/7", "/ip6/::1/tcp/7"),
            ("/ip4/10.0.0.1/tcp/7", "/ip4/10.0.0.1/tcp/7"),
        ] {
            assert_eq!(from_here(&place(listen)), place(here));
        }
    }

    #[tokio::test]
    async fn names_are_looked_up_and_the_rest_stays() {
        let peer = libp2p::PeerId::random();
        let found = resolved(&[
            place(&format!("/dns4/localhost/tcp/7/p2p/{peer}")),
            place("/ip6/::1/tcp/8"),
            place("/dns/nowhere.invalid/tcp/9"),
        ])
        .await;
        assert_eq!(found, [place(&format!("/ip4/127.0.0.1/tcp/7/p2p/{peer}")), place("/ip6/::1/tcp/8")]);
    }
}
