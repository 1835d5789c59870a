//! One look into the table: enter it, ask who provides the ring's name, and hear from each of these who it is.
//!
//! Each look is made by a client with a key of its own that nobody remembers, so nothing piles up between looks, and
//! what an earlier one was told wrongly is forgotten.
//!
//! Invariant: a look ends within [`ENTERING`] and [`ASKING`], whatever peers do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::kad::{GetProvidersOk, Mode, QueryResult};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, kad};

use super::behaviour::{self, Behaviour, BehaviourEvent};
use super::{Dht, Ring, place};
use crate::source::Failure;

/// How long it waits for the peers it begins with.
const ENTERING: Duration = Duration::from_millis(2500);
/// How long it waits for what the table says, and for providers to introduce themselves.
const ASKING: Duration = Duration::from_secs(6);
/// How many providers are asked who they are, and how many of those that one peer of the table names.
const PROVIDERS_MAX: usize = 256;
const PER_ANSWER_MAX: usize = 64;

/// A look that is under way.
struct Lookup<'a> {
    ring: &'a Ring,
    swarm: Swarm<Behaviour>,
    /// Connections to the first peers, and where these are; not known yet what comes of them.
    entering: BTreeMap<ConnectionId, Multiaddr>,
    /// Whether the table is entered.
    is_in: bool,
    /// What was wrong with a peer.
    trouble: String,
    /// Peers that have introduced themselves, with their addresses where they are of the ring.
    met: BTreeMap<PeerId, Option<String>>,
    /// Those that the table names.
    providers: BTreeSet<PeerId>,
    /// Those of them that have not introduced themselves yet.
    awaited: BTreeSet<PeerId>,
    /// Whether the table has said all it has to say.
    is_told: bool,
}

/// The addresses of those that provide the ring's name and introduce themselves as nodes of the ring.
///
/// # Errors
/// Nobody lets it into the table.
pub(super) async fn look(dht: &Dht) -> Result<Vec<String>, Failure> {
    // This node's own part in the table is as good a beginning as any.
    let own = dht.listen.as_ref().map(place::from_here);
    let beginnings: Vec<Multiaddr> = dht.bootstrap.iter().cloned().chain(own).collect();
    let mut lookup = Lookup::begin(&dht.ring, place::resolved(&beginnings).await)?;
    // What is known when the time is over counts.
    let _ = tokio::time::timeout(ENTERING, lookup.run(|lookup| lookup.entering.is_empty())).await;
    if !lookup.is_in {
        return Err(Failure::say(format!("no peer lets this node into the table: {}", lookup.trouble)));
    }
    lookup.swarm.behaviour_mut().kad.get_providers(dht.ring.key());
    let is_done = |lookup: &Lookup| lookup.is_told && lookup.awaited.is_empty();
    let _ = tokio::time::timeout(ASKING, lookup.run(is_done)).await;
    Ok(lookup.found())
}

impl<'a> Lookup<'a> {
    fn begin(ring: &'a Ring, beginnings: Vec<Multiaddr>) -> Result<Self, Failure> {
        let mut swarm = behaviour::swarm(Keypair::generate_ed25519(), Mode::Client, "slipring".to_owned())?;
        let (mut entering, mut trouble) = (BTreeMap::new(), "there is none".to_owned());
        for address in beginnings {
            let how = DialOpts::from(address.clone());
            let connection = how.connection_id();
            match swarm.dial(how) {
                Ok(()) => drop(entering.insert(connection, address)),
                Err(error) => trouble = told(&error),
            }
        }
        Ok(Self {
            ring,
            swarm,
            entering,
            is_in: false,
            trouble,
            met: BTreeMap::new(),
            providers: BTreeSet::new(),
            awaited: BTreeSet::new(),
            is_told: false,
        })
    }

    async fn run(&mut self, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) {
            let event = self.swarm.select_next_some().await;
            self.handle(event);
        }
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.introduced(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: QueryResult::GetProviders(answer),
                step,
                ..
            })) => {
                self.is_told |= step.last;
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = answer {
                    self.named(providers);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.failed(connection_id, peer_id, told(&error));
            }
            SwarmEvent::ConnectionClosed { connection_id, peer_id, num_established, .. } => {
                let gone = (num_established == 0).then_some(peer_id);
                self.failed(connection_id, gone, format!("{peer_id} has ended the connection"));
            }
            _ => {}
        }
    }

    fn introduced(&mut self, event: identify::Event) {
        match event {
            identify::Event::Received { connection_id, peer_id, info } => {
                let dialled = self.entering.remove(&connection_id);
                let takes_part = self.swarm.behaviour_mut().meet(peer_id, &info, dialled.as_ref());
                if dialled.is_some() && !takes_part {
                    self.trouble = format!("{peer_id} takes no part in a table of Slipring's");
                }
                self.is_in |= dialled.is_some() && takes_part;
                self.met.insert(peer_id, self.ring.address(&info.agent_version));
                self.awaited.remove(&peer_id);
            }
            identify::Event::Error { connection_id, peer_id, error } => {
                self.failed(connection_id, Some(peer_id), error.to_string());
            }
            _ => {}
        }
    }

    /// Nothing more is to be expected of a connection, or of whom it was to lead to.
    fn failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, reason: String) {
        if self.entering.remove(&connection).is_some() {
            self.trouble = reason;
        }
        if let Some(peer) = peer {
            self.awaited.remove(&peer);
        }
    }

    /// A peer of the table has named providers: of very many, some are drawn, so that one liar hides nobody.
    fn named(&mut self, providers: std::collections::HashSet<PeerId>) {
        let mut named: Vec<PeerId> =
            providers.into_iter().filter(|peer| !self.providers.contains(peer)).collect();
        fastrand::shuffle(&mut named);
        let room = PROVIDERS_MAX.saturating_sub(self.providers.len());
        for peer in named.into_iter().take(room.min(PER_ANSWER_MAX)) {
            self.providers.insert(peer);
            if self.met.contains_key(&peer) {
                continue;
            }
            match self.swarm.dial(DialOpts::peer_id(peer).build()) {
                // Connected already, or about to be.
                Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => drop(self.awaited.insert(peer)),
                Err(error) => tracing::debug!(%peer, %error, "a provider cannot be asked who it is"),
            }
        }
    }

    fn found(&self) -> Vec<String> {
        self.providers.iter().filter_map(|peer| self.met.get(peer).cloned().flatten()).collect()
    }
}

/// An error with its causes, not too long: some of it is what a peer has said.
fn told(error: &DialError) -> String {
    Failure::new("it cannot be dialled", error).to_string().chars().take(300).collect()
}
