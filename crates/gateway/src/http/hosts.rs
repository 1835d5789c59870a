//! The names under which a node may be asked.
//!
//! There are no passwords yet, so a web page in an operator's browser could speak to a node in the operator's place.
//! Two things give such a page away: the `Host` of a name that it points at the node (DNS rebinding), and the
//! headers `Origin` and `Sec-Fetch-Site`, which a browser adds and a page cannot change.
//!
//! Invariant: a request passes only if every host it names is one of this node's, and no header says that it comes
//! from a page of another origin.

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderValue, Uri, Version, header};

/// The header in which a browser says how a page and what it asks belong together.
const SITE: &str = "sec-fetch-site";

/// The hosts of one node.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// Where the port is bound; the unspecified address stands for all of the machine.
    bound: IpAddr,
    /// Where the node says that it can be reached.
    advertised: Vec<HostName>,
    /// What an operator has added.
    named: Vec<HostName>,
}

/// A name or an address, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(Host<String>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host<T> {
    Name(T),
    Address(IpAddr),
}

/// A host, and the port if there is one.
#[derive(Debug, PartialEq, Eq)]
struct Authority<'t> {
    host: Host<&'t str>,
    port: Option<u16>,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// It names no host.
    NoHost,
    /// It names a host that is not this node's.
    Host,
    /// It comes from a page of another origin.
    Page,
}

impl Foreign {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::NoHost => "the request has no Host header: HTTP/1.1 and later need one",
            Self::Host => {
                "the request names a host that this node does not answer to: ask at the node's address, or start the \
                 node with --http-host and that name"
            }
            Self::Page => {
                "the request comes from a web page of another origin, and those may not use this node: ask without a \
                 browser, or start the node with --http-host and the page's host if a proxy serves both"
            }
        }
    }
}

impl Hosts {
    /// The hosts of a node that listens on `bound`, is advertised as each `host:port`, and has these names besides.
    #[must_use]
    pub fn new(bound: IpAddr, advertised: &[&str], named: Vec<HostName>) -> Self {
        let host = |place: &&str| Some(Authority::parse(place.as_bytes())?.host.owned());
        let advertised = advertised.iter().filter_map(host).collect();
        Self { bound: bound.to_canonical(), advertised, named }
    }

    /// Whether a request that came in at the address `arrived` is meant for this node and comes from no foreign page.
    pub(super) fn judge(
        &self,
        (version, uri, headers): (Version, &Uri, &HeaderMap),
        arrived: IpAddr,
    ) -> Result<(), Foreign> {
        let target = uri.authority().map(|authority| authority.as_str().as_bytes());
        let hosts = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
        let mut asked = None;
        for text in target.into_iter().chain(hosts) {
            let authority = Authority::parse(text).filter(|one| self.has(&one.host, arrived));
            asked = Some(authority.ok_or(Foreign::Host)?);
        }
        // No browser speaks HTTP/1.0, and checks of load balancers do, often without a host.
        if asked.is_none() && version > Version::HTTP_10 {
            return Err(Foreign::NoHost);
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let mut sites = headers.get_all(SITE).iter();
        let is_own = origins.all(|origin| self.is_own_origin(origin.as_bytes(), asked.as_ref()))
            && sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
        is_own.then_some(()).ok_or(Foreign::Page)
    }

    fn has(&self, host: &Host<&str>, arrived: IpAddr) -> bool {
        let is_loopback_heard = self.bound.is_unspecified() || self.bound.is_loopback();
        let is_own = match host {
            Host::Name(name) => is_loopback_heard && name.eq_ignore_ascii_case("localhost"),
            Host::Address(address) => {
                is_loopback_heard && address.is_loopback()
                    || *address == self.bound
                    || *address == arrived.to_canonical()
            }
        };
        is_own || self.advertised.iter().chain(&self.named).any(|known| known.is(host))
    }

    /// Whether a page of this origin was served under the host that is asked, or under one that an operator has named:
    /// a proxy may serve a page and the node under that name, and ask the node under another.
    fn is_own_origin(&self, origin: &[u8], asked: Option<&Authority<'_>>) -> bool {
        let secure = origin.strip_prefix(b"https://").map(|rest| (rest, 443));
        let Some((rest, usual)) = secure.or_else(|| origin.strip_prefix(b"http://").map(|rest| (rest, 80)))
        else {
            return false;
        };
        let Some(page) = Authority::parse(rest) else { return false };
        let is_asked = asked.is_some_and(|asked| {
            asked.host.is(&page.host) && asked.port.unwrap_or(usual) == page.port.unwrap_or(usual)
        });
        is_asked || self.named.iter().any(|known| known.is(&page.host))
    }
}

impl HostName {
    fn is(&self, host: &Host<&str>) -> bool {
        match &self.0 {
            Host::Name(name) => Host::Name(name.as_str()).is(host),
            Host::Address(address) => Host::Address(*address).is(host),
        }
    }
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Authority::parse(text.as_bytes()).or_else(|| bare_address(text)) {
            Some(Authority { host, port: None }) => Ok(host.owned()),
            _ => Err(format!("\"{text}\" must be a name or an address alone, for instance ring.example")),
        }
    }
}

/// An address of IPv6 without the brackets that a URL needs.
fn bare_address(text: &str) -> Option<Authority<'_>> {
    Some(Authority { host: Host::Address(text.parse::<IpAddr>().ok()?.to_canonical()), port: None })
}

impl Host<&str> {
    fn is(&self, other: &Host<&str>) -> bool {
        match (self, other) {
            (Host::Name(one), Host::Name(other)) => one.eq_ignore_ascii_case(other),
            (Host::Address(one), Host::Address(other)) => one == other,
            _ => false,
        }
    }

    fn owned(&self) -> HostName {
        HostName(match self {
            Host::Name(name) => Host::Name((*name).to_owned()),
            Host::Address(address) => Host::Address(*address),
        })
    }
}

impl<'t> Authority<'t> {
    /// `host`, `host:port` or `[address]:port`; nothing for anything else, users and paths among it.
    fn parse(text: &'t [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            let host = Host::Address(IpAddr::V6(address).to_canonical());
            return Some(Self { host, port: port_of(port)? });
        }
        let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_name) {
            return None;
        }
        let host = name.parse::<IpAddr>().map_or(Host::Name(name), Host::Address);
        Some(Self { host, port: port_of(port)? })
    }
}

/// The port in `:port`; nothing in nothing.
fn port_of(text: &str) -> Option<Option<u16>> {
    match text.strip_prefix(':') {
        None => text.is_empty().then_some(None),
        Some(digits) => digits.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(bound: &str, named: &[&str]) -> Hosts {
        let named = named.iter().map(|name| name.parse().expect("a host")).collect();
        Hosts::new(bound.parse().expect("an address"), &["ring-0.ring:7946"], named)
    }

    fn judged(hosts: &Hosts, headers: &[(&'static str, &str)]) -> Result<(), Foreign> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        hosts.judge((Version::HTTP_11, &Uri::from_static("/"), &map), "10.0.0.7".parse().expect("one"))
    }

    #[test]
    fn hosts_pass_where_the_node_listens_or_is_announced() {
        let (near, all) = (hosts("127.0.0.1", &["Ring.Example", "fe80::1"]), hosts("0.0.0.0", &[]));
        for own in [
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "127.0.0.1:7379",
            "127.9.9.9",
            "[::1]:7379",
            "ring-0.ring:80",
            "ring.example:443",
            "[fe80::1]",
            "10.0.0.7:7379",
            "[::ffff:10.0.0.7]",
        ] {
            assert_eq!(judged(&near, &[("host", own)]), Ok(()), "{own}");
        }
        for own in ["localhost:7379", "127.0.0.1", "0.0.0.0:7379", "10.0.0.7", "ring-0.ring"] {
            assert_eq!(judged(&all, &[("host", own)]), Ok(()), "{own}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "10.0.0.8",
            "",
            "127.0.0.1:x",
            ":7379",
            "a@localhost",
            "localhost:1:2",
            "[::1",
            "[::1]x",
            "localhost/",
            "127.1",
            "2130706433",
            "localhost..",
        ] {
            assert_eq!(judged(&near, &[("host", foreign)]), Err(Foreign::Host), "{foreign}");
        }
        let far = hosts("10.0.0.7", &[]);
        assert_eq!(judged(&far, &[("host", "10.0.0.7:7379")]), Ok(()));
        assert_eq!(
            judged(&far, &[("host", "localhost:7379")]),
            Err(Foreign::Host),
            "it does not listen there"
        );
    }

    #[test]
    fn every_host_of_a_request_must_be_known() {
        let own = hosts("127.0.0.1", &[]);
        assert_eq!(judged(&own, &[("host", "localhost"), ("host", "evil.example")]), Err(Foreign::Host));
        let judge = |version, uri: &'static str, host: Option<&'static str>| {
            let host = host.map(|host| (header::HOST, HeaderValue::from_static(host)));
            let headers = HeaderMap::from_iter(host);
            own.judge((version, &Uri::from_static(uri), &headers), "127.0.0.1".parse().expect("one"))
        };
        assert_eq!(judge(Version::HTTP_2, "http://localhost:1/", None), Ok(()));
        assert_eq!(judge(Version::HTTP_2, "http://evil.example/", None), Err(Foreign::Host));
        assert_eq!(judge(Version::HTTP_11, "http://evil.example/", Some("localhost")), Err(Foreign::Host));
        assert_eq!(judge(Version::HTTP_2, "http://localhost/", Some("evil.example")), Err(Foreign::Host));
        assert_eq!(judge(Version::HTTP_11, "/", None), Err(Foreign::NoHost));
        assert_eq!(judge(Version::HTTP_2, "/", None), Err(Foreign::NoHost));
        assert_eq!(judge(Version::HTTP_10, "/", None), Ok(()));
    }

    #[test]
    fn pages_of_another_origin_are_foreign() {
        let own = hosts("127.0.0.1", &["ring.example"]);
        let from = |host, origin: &str| judged(&own, &[("host", host), ("origin", origin)]);
        for (host, origin) in [
            ("localhost:7379", "http://localhost:7379"),
            ("ring.example", "https://ring.example"),
            ("ring.example:443", "https://ring.example"),
            ("localhost", "http://localhost:80"),
            // A proxy asks under the node's address for a page that it serves under the name.
            ("127.0.0.1:7379", "https://ring.example:8443"),
        ] {
            assert_eq!(from(host, origin), Ok(()), "{host} {origin}");
        }
        for origin in [
            "http://evil.example",
            "null",
            "",
            "http://localhost:3000",
            "https://localhost",
            "http://127.0.0.1:7379",
            "file://",
            "chrome-extension://abc",
            "http://localhost:7379/",
            "http://evil.example@localhost:7379",
        ] {
            assert_eq!(from("localhost:7379", origin), Err(Foreign::Page), "{origin}");
        }
        for (site, expected) in [
            ("none", Ok(())),
            ("same-origin", Ok(())),
            ("same-site", Err(Foreign::Page)),
            ("cross-site", Err(Foreign::Page)),
            ("", Err(Foreign::Page)),
            ("None", Err(Foreign::Page)),
        ] {
            assert_eq!(judged(&own, &[("host", "localhost"), (SITE, site)]), expected, "{site}");
        }
        let both = [("host", "localhost"), (SITE, "none"), (SITE, "cross-site")];
        assert_eq!(judged(&own, &both), Err(Foreign::Page));
    }

    #[test]
    fn hosts_are_named_without_scheme_port_or_path() {
        for text in ["", "http://a", "a:1", "a/b", "a b", "*", "[::1]:1"] {
            assert!(text.parse::<HostName>().is_err_and(|error| error.contains("ring.example")), "{text}");
        }
        for text in ["a", "a.example.", "10.0.0.1", "::1", "[::1]"] {
            assert!(text.parse::<HostName>().is_ok(), "{text}");
        }
    }
}
