//! Whether clients should be sent to a member: what gossip believes of it, and whether this node is connected to it.
//!
//! Invariant: a member that this node is connected to is present, even where gossip doubts it.

use slipring_model::NodeId;

use crate::core::Core;
use crate::gossip::MemberState;

/// Whether clients should be sent to a member. A hint: it changes neither placement nor quorums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is connected, or nothing speaks against it yet.
    Present,
    /// It is not connected and did not answer a probe; it has time to speak for itself.
    Suspected,
    /// It is not connected and is down, or said that it leaves.
    Absent,
}

impl Presence {
    /// Without gossip (`None`) the connection alone decides.
    fn of(is_connected: bool, state: Option<MemberState>) -> Self {
        match state {
            _ if is_connected => Self::Present,
            Some(MemberState::Alive | MemberState::Unheard) => Self::Present,
            Some(MemberState::Suspected) | None => Self::Suspected,
            Some(MemberState::Down | MemberState::Left) => Self::Absent,
        }
    }
}

impl Core {
    /// Whether clients should be sent to a member; always so for this node.
    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        Presence::of(self.is_reachable(node), self.gossip.member(node, self.now()).map(|seen| seen.state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Option<MemberState>; 6] = [
        None,
        Some(MemberState::Unheard),
        Some(MemberState::Alive),
        Some(MemberState::Suspected),
        Some(MemberState::Down),
        Some(MemberState::Left),
    ];

    #[test]
    fn connected_members_are_present_in_every_state() {
        assert_eq!(STATES.map(|state| Presence::of(true, state)), [Presence::Present; 6]);
    }

    #[test]
    fn unconnected_members_are_as_gossip_believes() {
        use Presence::{Absent, Present, Suspected};
        let expected = [Suspected, Present, Present, Suspected, Absent, Absent];
        assert_eq!(STATES.map(|state| Presence::of(false, state)), expected);
    }
}
