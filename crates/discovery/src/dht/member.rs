//! A node's part in the table: it answers for the table, provides its ring's name, and says so again and again.
//!
//! Peers keep what it provides for a minute, so it tells them every ten seconds: peers that were away, that forgot, or
//! that are new know of it soon. It goes on while it is alone; peers that come to it find it all the same.

use std::net::TcpListener;
use std::time::Duration;

use futures::StreamExt;
use libp2p::kad::store::Error as StoreError;
use libp2p::kad::{self, InboundRequest, Mode, QueryResult};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{Swarm, SwarmEvent};
use libp2p::{Multiaddr, identify};

use super::behaviour::{self, Behaviour, BehaviourEvent};
use super::{Dht, identity, place};
use crate::source::{Failure, Kept, Withdrawn};

/// How often the ring's name is provided anew, and how often while nobody else of the table is known.
const RENEWAL: Duration = Duration::from_secs(10);
const RENEWAL_ALONE: Duration = Duration::from_secs(2);

/// Takes part in the table as the node at `address`, until that is withdrawn.
///
/// # Errors
/// The key cannot be read, or nothing can listen where it should.
pub(super) async fn take_part(
    dht: &Dht,
    address: &str,
    withdrawn: &mut Withdrawn,
    kept: &Kept<'_>,
) -> Result<(), Failure> {
    let Some(listen) = &dht.listen else { return Err(Failure::say("it is not said where to listen")) };
    let keys = identity::load(dht.key_file.as_deref())?;
    let mut swarm = behaviour::swarm(keys, Mode::Server, dht.ring.introduction(address))?;
    begin_to_listen(&mut swarm, listen)?;
    if let Some(advertise) = &dht.advertise {
        swarm.add_external_address(advertise.clone());
    }
    let mut member = Member { dht, swarm, was_alone: false };
    let mut renewal = Box::pin(later(Duration::ZERO, &dht.bootstrap));
    loop {
        tokio::select! {
            event = member.swarm.select_next_some() => member.handle(event, kept)?,
            bootstrap = &mut renewal => {
                member.renew(bootstrap)?;
                let rest = if member.is_waiting() { RENEWAL_ALONE } else { RENEWAL };
                renewal = Box::pin(later(rest, &dht.bootstrap));
            }
            () = withdrawn.wait() => return Ok(()),
        }
    }
}

/// Where the first peers are, after a rest.
async fn later(rest: Duration, bootstrap: &[Multiaddr]) -> Vec<Multiaddr> {
    tokio::time::sleep(rest).await;
    place::resolved(bootstrap).await
}

/// Listens where nobody else does: libp2p shares its ports, so two nodes on one would each get half of the connections.
fn begin_to_listen(swarm: &mut Swarm<Behaviour>, listen: &Multiaddr) -> Result<(), Failure> {
    let what = || format!("nothing can listen on {listen}");
    if let Some(at) = place::socket(listen) {
        drop(TcpListener::bind(at).map_err(|error| Failure::new(&what(), &error))?);
    }
    swarm.listen_on(listen.clone()).map(drop).map_err(|error| Failure::new(&what(), &error))
}

/// Taking part.
struct Member<'a> {
    dht: &'a Dht,
    swarm: Swarm<Behaviour>,
    was_alone: bool,
}

impl Member<'_> {
    /// Whether there should be others, and are not.
    fn is_waiting(&mut self) -> bool {
        !self.dht.bootstrap.is_empty() && self.swarm.behaviour_mut().is_alone()
    }

    /// Calls the first peers, and tells the table what this node provides.
    fn renew(&mut self, bootstrap: Vec<Multiaddr>) -> Result<(), Failure> {
        for address in bootstrap {
            let how = match DialOpts::from(address.clone()).get_peer_id() {
                Some(peer) => {
                    let how = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing);
                    how.addresses(vec![address.clone()]).build()
                }
                None => DialOpts::unknown_peer_id().address(address.clone()).allocate_new_port().build(),
            };
            if let Err(error) = self.swarm.dial(how) {
                tracing::debug!(%address, %error, "a peer is not called");
            }
        }
        let provided = self.swarm.behaviour_mut().kad.start_providing(self.dht.ring.key());
        provided
            .map(drop)
            .map_err(|error: StoreError| Failure::new("the ring's name cannot be provided", &error))
    }

    fn handle(&mut self, event: SwarmEvent<BehaviourEvent>, kept: &Kept<'_>) -> Result<(), Failure> {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                self.swarm.behaviour_mut().meet(peer_id, &info, None);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.handle_table(event, kept),
            SwarmEvent::NewListenAddr { address, .. } if self.dht.advertise.is_none() => {
                // Only such addresses are told others.
                self.swarm.add_external_address(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                return Err(Failure::new("it does not listen any more", &error));
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_table(&mut self, event: kad::Event, kept: &Kept<'_>) {
        match event {
            kad::Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                self.swarm.behaviour_mut().keep(record);
            }
            kad::Event::OutboundQueryProgressed { result: QueryResult::StartProviding(Ok(_)), .. } => {
                let is_waiting = self.is_waiting();
                if !is_waiting {
                    kept();
                } else if !self.was_alone {
                    tracing::warn!(
                        ring = self.dht.ring.0,
                        "no other peer of the table answers yet; calling them again"
                    );
                }
                self.was_alone = is_waiting;
            }
            _ => {}
        }
    }
}
