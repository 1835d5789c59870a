//! The addresses in one EndpointSlice (`discovery.k8s.io/v1`).

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde_json::Value;

use crate::address::PER_SOURCE_MAX;

/// Which of a slice's ports is the one for peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortChoice {
    /// The one with this name.
    Named(String),
    /// This number, whatever the slice says.
    Number(u16),
    /// The one named `peer`, or the only one.
    Only,
}

/// What is read of a slice. Lists may be absent or null.
#[derive(Deserialize)]
struct Slice {
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
struct Endpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
}

#[derive(Deserialize)]
struct Conditions {
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

impl PortChoice {
    /// A number, or else a name.
    pub(super) fn read(text: &str) -> Self {
        match text.parse::<u16>() {
            Ok(number) if number != 0 => Self::Number(number),
            _ => Self::Named(text.to_owned()),
        }
    }

    fn among(&self, ports: &[Port]) -> Option<u16> {
        let named = |name: &str| {
            let port = ports.iter().find(|port| port.name.as_deref() == Some(name));
            port.and_then(|port| port.port)
        };
        match (self, ports) {
            (Self::Number(number), _) => Some(*number),
            (Self::Named(name), _) => named(name),
            (Self::Only, [port]) => port.port,
            (Self::Only, _) => named("peer"),
        }
    }
}

/// The addresses that a slice tells of, at most as many as a source is believed and a little more.
///
/// # Errors
/// What about it is not as it should be.
pub(super) fn addresses(slice: &Value, choice: &PortChoice) -> Result<Vec<String>, serde_json::Error> {
    let Slice { endpoints, ports } = Slice::deserialize(slice)?;
    let Some(port) = choice.among(&ports.unwrap_or_default()) else { return Ok(Vec::new()) };
    let living = endpoints.unwrap_or_default().into_iter().filter(|endpoint| {
        let terminating = endpoint.conditions.as_ref().and_then(|conditions| conditions.terminating);
        terminating != Some(true)
    });
    let hosts = living.flat_map(|endpoint| endpoint.addresses.unwrap_or_default());
    let address = |host: String| match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    };
    Ok(hosts.map(address).take(PER_SOURCE_MAX + 1).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(slice: &Value, choice: &PortChoice) -> Vec<String> {
        addresses(slice, choice).expect("a slice")
    }

    #[test]
    fn endpoints_count_unless_they_are_being_terminated() {
        let slice = json!({
            "addressType": "IPv4",
            "endpoints": [
                { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
                { "addresses": ["10.0.0.2"], "conditions": { "ready": false } },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                { "addresses": ["fd00::4", "name.test"] },
                { "addresses": null },
            ],
            "ports": [{ "name": "", "port": 7946, "protocol": "TCP" }],
        });
        let expected = ["10.0.0.1:7946", "10.0.0.2:7946", "[fd00::4]:7946", "name.test:7946"];
        assert_eq!(read(&slice, &PortChoice::Only), expected);
    }

    #[test]
    fn of_several_ports_the_one_that_is_meant_is_taken() {
        let slice = json!({
            "endpoints": [{ "addresses": ["10.0.0.1"] }],
            "ports": [{ "name": "redis", "port": 6379 }, { "name": "peer", "port": 7946 }, { "name": "none" }],
        });
        let first = |choice: &str| read(&slice, &PortChoice::read(choice)).into_iter().next();
        assert_eq!(read(&slice, &PortChoice::Only), ["10.0.0.1:7946"]);
        assert_eq!(first("redis").as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(first("9").as_deref(), Some("10.0.0.1:9"));
        assert_eq!((first("none"), first("other")), (None, None));
    }

    #[test]
    fn what_is_no_slice_is_an_error_or_nothing() {
        for nothing in [json!({}), json!({ "endpoints": null, "ports": null })] {
            assert!(read(&nothing, &PortChoice::Only).is_empty());
        }
        for wrong in
            [json!([]), json!(1), json!({ "endpoints": 1 }), json!({ "ports": [{ "port": 70_000 }] })]
        {
            assert!(addresses(&wrong, &PortChoice::Only).is_err(), "{wrong}");
        }
    }
}
