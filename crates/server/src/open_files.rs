//! The files that the process may have open, shared out: the parts of the store and of peers come before that of
//! clients, so that idle connections cannot take what the node lives on.

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slipring_model::limits;
use slipring_storage::store_files_max;

/// What the node itself has open: its ports, timers, logs, and what it opens for a moment.
const OWN: usize = 32;
/// Connections of peers: the least and the most.
const PEERS: (usize, usize) = (32, limits::PEER_CONNECTIONS_MAX);
/// The least that each port for clients must be able to accept.
pub(crate) const CLIENTS_MIN: usize = 16;

/// How many connections each port accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connections {
    pub(crate) redis: usize,
    pub(crate) http: usize,
    pub(crate) peers: usize,
}

/// Raises the limit of open files as far as the system allows without an administrator; the limit from now on.
pub(crate) fn raise() -> anyhow::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).context("the limit of open files cannot be raised")?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Shares `limit` files out; each port for clients accepts `connections` at most.
pub(crate) fn share_out(limit: u64, connections: usize) -> anyhow::Result<Connections> {
    let Some(shares) = shares(limit, connections) else {
        let least = (limit..).find(|limit| shares_fit(*limit)).unwrap_or(u64::MAX);
        bail!(
            "this process may have {limit} files open and a node needs {least} at least: raise the hard limit, for \
             instance with `ulimit -Hn 65536`, or with LimitNOFILE=65536 in the unit of its service"
        );
    };
    Ok(shares)
}

fn shares(limit: u64, connections: usize) -> Option<Connections> {
    let files = usize::try_from(limit).unwrap_or(usize::MAX);
    let peers = (files / 8).clamp(PEERS.0, PEERS.1);
    let left = files.checked_sub(store_files_max(limit) + OWN + peers + limits::HTTP_RESERVE_CONNECTIONS)?;
    let http = (left / 2).min(connections);
    let redis = (left - http).min(connections);
    (left / 2 >= CLIENTS_MIN).then_some(Connections { redis, http, peers })
}

fn shares_fit(limit: u64) -> bool {
    shares(limit, CLIENTS_MIN).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_store_peers_and_clients_fit_together() {
        for limit in [201, 256, 1_024, 4_096, 65_536, 1_048_576, u64::MAX] {
            let Connections { redis, http, peers } =
                share_out(limit, limits::CONNECTIONS_MAX).expect("enough");
            let all = (store_files_max(limit) + OWN + limits::HTTP_RESERVE_CONNECTIONS + redis + http + peers)
                as u64;
            assert!(all <= limit, "{limit}: {all}");
            assert!(redis >= CLIENTS_MIN && http >= CLIENTS_MIN && peers >= PEERS.0, "{limit}");
        }
        let rich = Connections { redis: 10_000, http: 10_000, peers: limits::PEER_CONNECTIONS_MAX };
        assert_eq!(share_out(1_048_576, limits::CONNECTIONS_MAX).expect("enough"), rich);
    }

    #[test]
    fn too_few_files_are_refused_with_the_number_that_is_enough() {
        let refusal = share_out(200, 10_000).expect_err("too few").to_string();
        assert!(
            refusal.contains("may have 200 files") && refusal.contains("needs 201 at least"),
            "{refusal}"
        );
        assert!(share_out(201, 10_000).is_ok() && share_out(0, 10_000).is_err());
    }

    #[test]
    fn configured_maximum_lowers_what_the_ports_accept() {
        for (connections, redis) in [(39, 39), (40, 40), (41, 40)] {
            assert_eq!(share_out(256, connections).expect("enough").redis, redis, "{connections}");
        }
    }
}
