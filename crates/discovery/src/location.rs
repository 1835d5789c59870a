//! Where a source is: `scheme://host:port[,host:port]/path?name=value&name=value`.
//!
//! Everything is taken as it is written: there is no escaping.

use std::collections::BTreeMap;

use thiserror::Error;

/// The longest text, in bytes.
const BYTES_MAX: usize = 4096;

/// Why a text is no location.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("\"{text}\" is no source: {reason}")]
pub struct InvalidLocation {
    text: String,
    reason: String,
}

/// A source's place, taken apart; what its parts mean depends on the scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// As it was written.
    pub(crate) text: String,
    pub(crate) scheme: String,
    /// Between the commas of the authority; empty when there is none.
    pub(crate) hosts: Vec<String>,
    /// Without slashes at its ends.
    pub(crate) path: String,
    options: BTreeMap<String, String>,
}

impl Location {
    /// Takes a text apart.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidLocation> {
        let invalid = |reason: &str| InvalidLocation { text: text.to_owned(), reason: reason.to_owned() };
        if text.len() > BYTES_MAX {
            return Err(InvalidLocation {
                text: "a very long text".to_owned(),
                reason: "it is too long".to_owned(),
            });
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no ://"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| invalid("an option is name=value"))?;
            if options.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(invalid("an option comes twice"));
            }
        }
        Ok(Self {
            text: text.to_owned(),
            scheme: scheme.to_owned(),
            hosts: authority.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect(),
            path: path.trim_matches('/').to_owned(),
            options,
        })
    }

    /// A complaint about this location.
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> InvalidLocation {
        InvalidLocation { text: self.text.clone(), reason: reason.into() }
    }

    /// The only host, which may lack a port.
    pub(crate) fn host(&self) -> Result<&str, InvalidLocation> {
        match self.hosts.as_slice() {
            [host] => Ok(host),
            [] => Err(self.invalid(format!("write {}://name", self.scheme))),
            _ => Err(self.invalid("it takes one host; separate sources by spaces, or repeat the flag")),
        }
    }

    /// Every host, each with a port; at least one.
    pub(crate) fn endpoints(&self) -> Result<&[String], InvalidLocation> {
        if self.hosts.is_empty() || !self.hosts.iter().all(|host| crate::address::is_address(host)) {
            return Err(self.invalid(format!("write {}://host:port/...", self.scheme)));
        }
        Ok(&self.hosts)
    }

    /// An option, if it was given.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// Refuses options that the scheme does not have: a misspelt one would be silently without effect.
    pub(crate) fn expect_options(&self, known: &[&str]) -> Result<(), InvalidLocation> {
        match self.options.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                Err(self.invalid(format!("there is no option \"{name}\"; there are: {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_taken_apart() {
        let location =
            Location::parse("etcd://a:1,b:2/deep/er/?x=1&selector=app=y,z in (1,2)").expect("a location");
        assert_eq!((location.scheme.as_str(), location.path.as_str()), ("etcd", "deep/er"));
        assert_eq!(location.endpoints().expect("hosts"), ["a:1", "b:2"]);
        assert_eq!(location.option("selector"), Some("app=y,z in (1,2)"));
        assert!(location.host().is_err());
        assert!(location.expect_options(&["x", "selector"]).is_ok());
        assert!(location.expect_options(&["x"]).is_err());
        assert_eq!(Location::parse("dns://name:7?a=b").expect("a location").host(), Ok("name:7"));
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        for text in ["", "a:1", "dns:/a", "etcd://a?b", "etcd://a?b=1&b=2"] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
        let error =
            Location::parse(&format!("dns://{}", "a".repeat(BYTES_MAX))).expect_err("too long").to_string();
        assert!(error.len() < 100);
        assert!(Location::parse("etcd:///p").expect("a location").endpoints().is_err());
        assert!(Location::parse("etcd://a/p").expect("a location").endpoints().is_err());
    }
}
