//! How this process speaks libp2p: TCP, Noise, Yamux; Kademlia, and introductions ("identify"). All of it bounded.
//!
//! Invariant: of what peers say, at most [`KEYS_MAX`] keys with [`PROVIDERS_MAX`] providers of [`ADDRESSES_MAX`] addresses
//! are kept, and no values.

use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::kad::{self, Mode, ProviderRecord, StoreInserts};
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify, noise, tcp, yamux};

use super::place;
use crate::address::PER_SOURCE_MAX;
use crate::source::Failure;

/// The table's protocol: who speaks another one is in another table.
const TABLE: StreamProtocol = StreamProtocol::new("/slipring/kad/1.0.0");
/// What this family of programs is called in introductions.
const FAMILY: &str = "/slipring/1.0.0";
/// The most names of rings that this node keeps providers of, for its own ring and others.
const KEYS_MAX: usize = 64;
/// The most providers that it keeps of each.
const PROVIDERS_MAX: usize = PER_SOURCE_MAX;
/// The most places that one peer is believed to be at, and the longest of them in bytes.
const ADDRESSES_MAX: usize = 8;
const ADDRESS_BYTES_MAX: usize = 64;
/// How long what a provider said is kept unless it says it again.
const PROVIDER_LIFE: Duration = Duration::from_secs(60);
/// How long dialling may take, and a question to the table.
pub(super) const DIAL: Duration = Duration::from_secs(2);
const QUERY: Duration = Duration::from_secs(4);
/// How long a connection that carries nothing stays.
const IDLE: Duration = Duration::from_secs(20);
/// The most connections of each kind.
const PENDING_INCOMING_MAX: u32 = 64;
const PENDING_OUTGOING_MAX: u32 = 320;
const INCOMING_MAX: u32 = 256;
const PER_PEER_MAX: u32 = 4;
/// The most questions on one connection at a time, each with its answer.
const STREAMS_MAX: usize = 32;

/// What this process does on its connections.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
}

/// A process that takes part in the table as a server, or asks it as a client, and introduces itself by these words.
pub(super) fn swarm(keys: Keypair, mode: Mode, introduction: String) -> Result<Swarm<Behaviour>, Failure> {
    let tcp = tcp::Config::default().nodelay(true);
    let builder = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp, noise::Config::new, multiplexer)
        .map_err(|error| Failure::new("libp2p cannot be started", &error))?;
    let Ok(builder) = builder.with_behaviour(|keys| behaviour(keys, mode, introduction));
    Ok(builder
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .with_connection_timeout(DIAL)
        .build())
}

fn multiplexer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

fn behaviour(keys: &Keypair, mode: Mode, introduction: String) -> Behaviour {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_pending_outgoing(Some(PENDING_OUTGOING_MAX))
        .with_max_established_incoming(Some(INCOMING_MAX))
        .with_max_established_per_peer(Some(PER_PEER_MAX));
    let identify = identify::Config::new(FAMILY.to_owned(), keys.public())
        .with_agent_version(introduction)
        .with_cache_size(0);
    let me = keys.public().to_peer_id();
    let store = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: PROVIDERS_MAX,
        max_provided_keys: KEYS_MAX,
    };
    let mut config = kad::Config::new(TABLE);
    config
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_provider_record_ttl(Some(PROVIDER_LIFE))
        // Whoever takes part does that, more often.
        .set_provider_publication_interval(None)
        .set_query_timeout(QUERY);
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::with_config(me, store), config);
    kad.set_mode(Some(mode));
    Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        identify: identify::Behaviour::new(identify),
        kad,
    }
}

impl Behaviour {
    /// Whether nobody else of the table is known.
    pub(super) fn is_alone(&mut self) -> bool {
        self.kad.kbuckets().next().is_none()
    }

    /// A peer has introduced itself: if it takes part in the table, it is where it says, and perhaps at `dialled`.
    pub(super) fn meet(&mut self, peer: PeerId, info: &identify::Info, dialled: Option<&Multiaddr>) -> bool {
        let takes_part = info.protocols.contains(&TABLE);
        if takes_part {
            // What it said before is over: peers that say ever new places do not fill the table.
            self.kad.remove_peer(&peer);
            for address in dialled.into_iter().chain(believable(&info.listen_addrs)) {
                self.kad.add_address(&peer, address.clone());
            }
        }
        takes_part
    }

    /// Keeps what a provider asks to be kept, as far as there is room.
    pub(super) fn keep(&mut self, mut record: ProviderRecord) {
        record.addresses = believable(&record.addresses).cloned().collect();
        if let Err(error) = self.kad.store_mut().add_provider(record) {
            tracing::debug!(%error, "a provider is not kept");
        }
    }
}

/// Where a peer may be, of what it says.
fn believable(said: &[Multiaddr]) -> impl Iterator<Item = &Multiaddr> {
    let is_believable = |address: &&Multiaddr| {
        let mut bare = (*address).clone();
        if matches!(bare.iter().last(), Some(libp2p::multiaddr::Protocol::P2p(_))) {
            bare.pop();
        }
        address.len() <= ADDRESS_BYTES_MAX && place::is_plain(&bare)
    };
    said.iter().filter(is_believable).take(ADDRESSES_MAX)
}

#[cfg(test)]
mod tests {
    use libp2p::kad::RecordKey;

    use super::*;

    fn place(index: usize) -> Multiaddr {
        format!("/ip4/10.0.{}.{}/tcp/1", index / 250, index % 250).parse().expect("a multiaddr")
    }

    fn places(range: std::ops::Range<usize>) -> Vec<Multiaddr> {
        let long = format!("/dns4/{}/tcp/1", "a".repeat(200));
        let wrong = ["/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1/http", &long];
        wrong.iter().map(|text| text.parse().expect("a multiaddr")).chain(range.map(place)).collect()
    }

    fn server() -> Behaviour {
        behaviour(&Keypair::generate_ed25519(), Mode::Server, String::new())
    }

    #[tokio::test]
    async fn providers_take_only_so_much_room() {
        let mut behaviour = server();
        let keys: Vec<RecordKey> = (0..=KEYS_MAX).map(|index| RecordKey::new(&format!("{index}"))).collect();
        for key in &keys {
            for _ in 0..=PROVIDERS_MAX {
                behaviour.keep(ProviderRecord::new(key.clone(), PeerId::random(), places(0..20)));
            }
        }
        let kept: Vec<Vec<ProviderRecord>> =
            keys.iter().map(|key| behaviour.kad.store_mut().providers(key)).collect();
        assert_eq!(kept.iter().filter(|providers| !providers.is_empty()).count(), KEYS_MAX);
        assert!(kept.iter().all(|providers| providers.len() <= PROVIDERS_MAX));
        for record in kept.iter().flatten() {
            assert_eq!(record.addresses, (0..ADDRESSES_MAX).map(place).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_peer_that_says_ever_new_places_is_at_the_latest_of_them_alone() {
        let (mut behaviour, keys) = (server(), Keypair::generate_ed25519());
        let peer = keys.public().to_peer_id();
        let said = |round: usize, protocols: &[StreamProtocol]| identify::Info {
            public_key: keys.public(),
            protocol_version: String::new(),
            agent_version: String::new(),
            listen_addrs: places(round * 20..round * 20 + 20),
            protocols: protocols.to_vec(),
            observed_addr: place(0),
            signed_peer_record: None,
        };
        for round in 0..10 {
            assert!(behaviour.meet(peer, &said(round, &[TABLE]), None));
        }
        assert!(!behaviour.is_alone());
        let known = behaviour.kad.remove_peer(&peer).expect("it is in the table").node.value;
        assert_eq!(known.len(), ADDRESSES_MAX);
        assert!(behaviour.is_alone());
        assert!(!behaviour.meet(peer, &said(0, &[]), None), "it takes no part");
        assert!(behaviour.is_alone());
    }
}
