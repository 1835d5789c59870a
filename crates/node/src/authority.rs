//! Authority: what a peer may ask of this node, by what this node's layout says of it.
//!
//! The transport has proven the peer's id by then, so this is about members and others, not about who is who. The table
//! has a row for each request. A reply needs no row: it counts if this node has asked that peer for it (`inbox`), and
//! never from one whose start is not its latest. What ends a node, or marks its directory, proves itself (`later_start`)
//! or comes out of the layout group.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use slipring_model::NodeId;
use slipring_ring::NodeState;
use slipring_wire::Request;

use crate::core::Core;

/// What this node knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A member: active, drained (a spare, too) or leaving.
    Member,
    /// No member by this node's layout, but by a newer one that a member has told of.
    Newer,
    /// A member whose data is given up.
    Lost,
    /// A member whose start is not its latest: an older copy of a directory, or a second one in use.
    Outdated,
    /// No member: one that will join, was removed, or never was one. This node knows no others before it is a member.
    Stranger,
}

/// What this node takes no notice of.
#[derive(Default)]
pub(crate) struct Refusals {
    pub(crate) requests: Counter,
    pub(crate) replies: Counter,
    pub(crate) starts: Counter,
}

impl Refusals {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let refusals = Self::default();
        for (name, help, counter) in [
            (
                "requests_denied",
                "Requests of peers that may not ask for them, such as strangers",
                &refusals.requests,
            ),
            ("replies_unasked", "Replies of peers that were not asked for them", &refusals.replies),
            ("starts_dismissed", "Claims of a later start of this node that prove nothing", &refusals.starts),
        ] {
            registry.register(name, help, counter.clone());
        }
        refusals
    }
}

/// Whether a peer may ask for this.
pub(crate) fn may_ask(standing: Standing, request: &Request) -> bool {
    use Standing::{Lost, Member, Newer};
    match request {
        // It proves itself, whoever sends it.
        Request::LaterStart { .. } => true,
        // Joining takes questions, which come outside of connections.
        Request::Join(_) | Request::Introduce(_) => false,
        // What is given up holds nothing that counts, but must learn what became of it.
        Request::Layout(_) | Request::Status | Request::Goodbye | Request::Members => {
            matches!(standing, Member | Newer | Lost)
        }
        Request::Store { .. }
        | Request::Overwrite { .. }
        | Request::Fetch { .. }
        | Request::Digest { .. }
        | Request::Execute { .. }
        | Request::Scan { .. }
        | Request::Count { .. }
        | Request::CountOfCut { .. }
        | Request::CountEnding { .. }
        | Request::Clear { .. }
        | Request::MergeCleared { .. }
        | Request::Roots { .. }
        | Request::RootsOfCut { .. }
        | Request::Digests { .. }
        | Request::Pull { .. }
        | Request::Moves
        | Request::Clock
        | Request::Room { .. } => matches!(standing, Member | Newer),
    }
}

/// Whether a node that is no peer may ask for this: what joining takes, and nothing else.
pub(crate) fn may_ask_without_a_connection(request: &Request) -> bool {
    matches!(request, Request::Join(_) | Request::Introduce(_))
}

impl Core {
    pub(crate) fn standing(&self, peer: NodeId) -> Standing {
        if self.muster.refuses(peer) {
            return Standing::Outdated;
        }
        let view = self.view.load();
        let Some(view) = view.as_ref().filter(|_| peer != self.me) else { return Standing::Stranger };
        match view.layout.nodes().get(&peer).map(|entry| entry.role.state) {
            Some(NodeState::Active | NodeState::Drained | NodeState::Leaving) => Standing::Member,
            Some(NodeState::Lost) => Standing::Lost,
            None if self.hearsay.has(peer, view.epoch()) => Standing::Newer,
            None => Standing::Stranger,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use slipring_model::{BucketId, Position, Signature, StorageId};

    use super::*;

    const ALL: [Standing; 5] =
        [Standing::Member, Standing::Newer, Standing::Lost, Standing::Outdated, Standing::Stranger];

    #[test]
    fn members_may_ask_for_data_and_others_for_less() {
        let (bucket, epoch, key) = (BucketId(0), 1, Bytes::from_static(b"key"));
        let allowed = |request: Request| ALL.map(|standing| may_ask(standing, &request));
        let data = [true, true, false, false, false];
        assert_eq!(allowed(Request::Store { bucket, epoch, key: key.clone(), cell: key.clone() }), data);
        assert_eq!(allowed(Request::Fetch { bucket, epoch, key: key.clone() }), data);
        let (from, to) = (Position(0), Position(u64::MAX));
        assert_eq!(allowed(Request::Digests { bucket, from, to, entries: Vec::new() }), data);
        assert_eq!(allowed(Request::Moves), data);
        let group = [true, true, true, false, false];
        assert_eq!(allowed(Request::Layout(key.clone())), group);
        assert_eq!(allowed(Request::Goodbye), group);
        assert_eq!(allowed(Request::Join(key.clone())), [false; 5]);
        let (storage, signature) = (StorageId::default(), Signature::default());
        let later = Request::LaterStart { storage, incarnation: 1, boot: 1, signature };
        assert_eq!(allowed(later.clone()), [true; 5], "it needs nobody's authority");
        assert!(may_ask_without_a_connection(&Request::Join(key.clone())));
        assert!(!may_ask_without_a_connection(&later) && !may_ask_without_a_connection(&Request::Status));
    }
}
