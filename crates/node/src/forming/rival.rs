//! A rival: another cluster, alive, whose layout gives this node's address to a member.
//!
//! Members dial the addresses of their layout again and again while the member there does not answer. So a node that
//! lost its directory hears from its cluster as soon as it listens where it was. A founder waits for that before it
//! founds, and listens for a while after that: it may have founded behind a cut. Once a rival is known, it answers for
//! no copy until it is started again.
//!
//! Invariant: a dial counts only once a node at the address that it names has confirmed it, and only while this node
//! founds or is alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slipring_model::{ClusterId, Error, NodeId};
use slipring_wire::Hello;
use tokio::sync::watch;

use super::introduction::Unmet;
use crate::core::Core;
use crate::failure::unavailable;

/// How long after its start a node that is alone in its cluster still listens.
const WATCHED_FOR: Duration = Duration::from_secs(60);

/// A member of another cluster that dials this node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// The address that both clusters count on.
    pub own_address: String,
    /// Where the member is reached.
    pub address: String,
    /// Its cluster.
    pub cluster: ClusterId,
}

/// Whether there is one.
#[derive(Default)]
pub(crate) struct Rivals {
    is_watched: AtomicBool,
    is_confirmed: AtomicBool,
    known: watch::Sender<Known>,
}

/// What was heard so far.
#[derive(Default)]
struct Known {
    /// Whether a dial is being confirmed.
    is_asking: bool,
    confirmed: Option<Rival>,
}

impl Rivals {
    /// From now on dials count.
    pub(super) fn watch(&self) {
        self.is_watched.store(true, Ordering::Release);
    }

    /// The first rival that dials within a time and is confirmed.
    pub(super) async fn first(&self, within: Duration) -> Option<Rival> {
        let mut known = self.known.subscribe();
        let confirmed = known.wait_for(|known| known.confirmed.is_some());
        // It may be open still whether a dial counts.
        if tokio::time::timeout(within, confirmed).await.is_err() {
            // The sender is this.
            let _ = known.wait_for(|known| !known.is_asking).await;
        }
        self.confirmed()
    }

    pub(crate) fn confirmed(&self) -> Option<Rival> {
        self.known.borrow().confirmed.clone()
    }

    /// Whether one is known.
    pub(crate) fn has_any(&self) -> bool {
        self.is_confirmed.load(Ordering::Acquire)
    }

    /// Begins to confirm a dial; `false` when one is being confirmed, or was.
    fn begin(&self) -> bool {
        self.known.send_if_modified(|known| {
            let begins = !known.is_asking && known.confirmed.is_none();
            known.is_asking |= begins;
            begins
        })
    }

    fn end(&self, confirmed: Option<Rival>) {
        self.is_confirmed.store(confirmed.is_some(), Ordering::Release);
        self.known.send_replace(Known { is_asking: false, confirmed });
    }
}

impl Core {
    /// A node has dialled this one's address, as members do with those of their layout.
    pub(crate) fn was_dialled(self: &Arc<Self>, by: &Hello) {
        let Some(cluster) = by.cluster.filter(|cluster| self.may_be_rival(*cluster)) else { return };
        if by.node == self.me || !self.rivals.begin() {
            return;
        }
        let (core, node, address) = (Arc::clone(self), by.node, by.peer_address.clone());
        tokio::spawn(async move {
            let is_rival = core.is_member_there(&address, node, cluster).await;
            let own_address = core.addresses.peer.clone();
            let rival = is_rival.then_some(Rival { own_address, address, cluster });
            if let Some(rival) = &rival {
                tracing::error!("this node answers no client: {rival}");
            }
            core.rivals.end(rival);
        });
    }

    fn may_be_rival(&self, cluster: ClusterId) -> bool {
        let own = self.cluster.get().copied();
        self.rivals.is_watched.load(Ordering::Acquire)
            && own != Some(cluster)
            && self.began.elapsed() < WATCHED_FOR
            && self.view().is_none_or(|view| view.layout.nodes().len() == 1)
    }

    /// Whether a member of a cluster is where it says. One that refuses this node for its cluster is.
    async fn is_member_there(&self, address: &str, node: NodeId, cluster: ClusterId) -> bool {
        match self.introduce(address).await {
            Ok(told) => (told.standing.node, told.standing.cluster) == (node, Some(cluster)),
            Err(Unmet::Refused(_)) => self.cluster.get().is_some(),
            Err(Unmet::Silent(_)) => false,
        }
    }

    /// # Errors
    /// `Unavailable`: a rival is known.
    pub(crate) fn check_no_rival(&self) -> Result<(), Error> {
        match self.rivals.confirmed() {
            Some(rival) => Err(unavailable(format!("this node answers no client: {rival}"))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own_address, address, cluster } = self;
        write!(
            formatter,
            "the living cluster {} has a member at {own_address}, this node's address, and {address} looks for it there. \
             If this node's data directory was lost, start it with an empty one and --join {address} --spare, then \
             `slipring replace OLD_ID --by NEW_ID`; if the two have nothing to do with each other, give this node another \
             address (--peer-port, --advertise), or give the member up first with `slipring remove --lost OLD_ID`",
            cluster.short()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rival() -> Rival {
        let (own_address, address) = ("a:1".to_owned(), "b:2".to_owned());
        Rival { own_address, address, cluster: ClusterId([7; 16]) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_founder_waits_for_a_rival_as_long_as_one_may_be_there() {
        let rivals = Rivals::default();
        let wait = Duration::from_millis(800);
        assert_eq!(rivals.first(wait).await, None, "there is none");
        let later = async |after_ms, confirmed| {
            assert!(rivals.begin() && !rivals.begin(), "one is confirmed at a time");
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            rivals.end(confirmed);
        };
        let (found, ()) = tokio::join!(rivals.first(wait), later(2_000, None));
        assert_eq!(found, None, "what was not confirmed does not count");
        let (found, ()) = tokio::join!(rivals.first(wait), later(2_000, Some(rival())));
        assert_eq!(found, Some(rival()), "what is open at the end is waited for");
        assert!(rivals.has_any() && !rivals.begin());
        assert_eq!(rivals.first(wait).await, Some(rival()));
    }

    #[test]
    fn a_rival_is_told_with_the_way_out() {
        let told = rival().to_string();
        for word in ["a:1", "--join b:2 --spare", "slipring replace", "remove --lost"] {
            assert!(told.contains(word), "{told}");
        }
    }
}
