//! A peer of a Kademlia table that is none of Slipring's: plain libp2p on loopback, in a task of the test.

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::kad::{self, Mode, ProviderRecord, RecordKey};
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify, noise, tcp, yamux};
use tokio::task::JoinHandle;

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
}

/// A peer that is about to start.
pub(crate) struct Peer {
    swarm: Swarm<Behaviour>,
}

/// A peer that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) id: PeerId,
    task: JoinHandle<()>,
}

pub(crate) fn place(port: u16) -> String {
    format!("/ip4/127.0.0.1/tcp/{port}")
}

impl Peer {
    /// Introduces itself by `introduction`.
    pub(crate) fn new(introduction: &str) -> Self {
        let swarm = SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("TCP")
            .with_behaviour(|keys| {
                let me = keys.public().to_peer_id();
                let identify = identify::Config::new("/any/1".to_owned(), keys.public());
                let store = MemoryStoreConfig { max_providers_per_key: 1000, ..MemoryStoreConfig::default() };
                let config = kad::Config::new(StreamProtocol::new("/slipring/kad/1.0.0"));
                let mut kad = kad::Behaviour::with_config(me, MemoryStore::with_config(me, store), config);
                kad.set_mode(Some(Mode::Server));
                let identify = identify::Behaviour::new(identify.with_agent_version(introduction.to_owned()));
                Behaviour { identify, kad }
            })
            .expect("a behaviour")
            .build();
        Self { swarm }
    }

    fn key(ring: &str) -> RecordKey {
        RecordKey::new(&format!("/slipring/{ring}"))
    }

    /// Says that somebody provides a ring, at a place.
    pub(crate) fn claim(&mut self, ring: &str, provider: PeerId, port: u16) {
        let addresses: Vec<Multiaddr> = vec![place(port).parse().expect("a multiaddr")];
        let record = ProviderRecord::new(Self::key(ring), provider, addresses);
        self.swarm.behaviour_mut().kad.store_mut().add_provider(record).expect("room");
    }

    /// Listens, takes part in the table through `others`, and provides `ring` if there is one.
    pub(crate) fn run(mut self, port: u16, others: &[u16], ring: Option<&str>) -> Running {
        let here: Multiaddr = place(port).parse().expect("a multiaddr");
        self.swarm.listen_on(here.clone()).expect("a port");
        self.swarm.add_external_address(here);
        for other in others {
            let other: Multiaddr = place(*other).parse().expect("a multiaddr");
            self.swarm.dial(other).expect("dialled");
        }
        let (id, key) = (*self.swarm.local_peer_id(), ring.map(Self::key));
        let mut swarm = self.swarm;
        let task = tokio::spawn(async move {
            loop {
                let event = swarm.select_next_some().await;
                let libp2p::swarm::SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) = event else {
                    continue;
                };
                if let identify::Event::Received { peer_id, info, .. } = event {
                    for address in info.listen_addrs {
                        swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    }
                    if let Some(key) = &key {
                        swarm.behaviour_mut().kad.start_providing(key.clone()).expect("room");
                    }
                }
            }
        });
        Running { id, task }
    }
}

impl Running {
    pub(crate) async fn end(mut self) {
        self.task.abort();
        // It has been cancelled.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
