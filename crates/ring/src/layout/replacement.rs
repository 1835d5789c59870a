//! Replacing a dead node by another one: a single change gives up the one and gives its place to the other.
//!
//! The other one takes the dead one's zone and weight, so the shares stay as they are, and where it held nothing the
//! placement takes it for the holder of what the dead one held. So nothing moves but that, and all of it to the one node.
//!
//! Source: `cluster replace` of Riak.

use std::collections::BTreeMap;

use slipring_model::NodeId;

use super::{Layout, NodeState, Refused, Role};

/// Nodes that are replaced, each with the node that gets the very copies it held.
pub(super) type StandIns = BTreeMap<NodeId, NodeId>;

impl Layout {
    /// Gives `dead` up and its place to `by`; nothing is placed yet.
    pub(super) fn replace_node(
        &mut self,
        dead: NodeId,
        by: NodeId,
        stand_ins: &mut StandIns,
    ) -> Result<(), Refused> {
        let role = |node| self.nodes.get(&node).map(|entry| &entry.role).ok_or(Refused::UnknownNode { node });
        let (old, own) = (role(dead)?, role(by)?);
        let given = Role { state: NodeState::Active, ..old.clone() };
        // Told twice it is the same.
        if old.state == NodeState::Lost && *own == given {
            return Ok(());
        }
        if old.state != NodeState::Active {
            return Err(Refused::Impossible(format!(
                "node {} is {} already and has no share to take over: slipring restore {} gives that node one of its own",
                dead.short(),
                old.state.word(),
                by.short()
            )));
        }
        if !own.state.stays() {
            return Err(Refused::Impossible(format!(
                "node {} is {} itself: choose another one to take the place",
                by.short(),
                own.state.word()
            )));
        }
        // Who holds something would have to give that away for what it gets: there the placement finds less to move.
        if !self.holds_any(by) {
            stand_ins.insert(dead, by);
        }
        // One that joined while data moved is to be again what it was, should this be taken back.
        let own = own.clone();
        if let Some(before) = &mut self.roles_before {
            before.entry(by).or_insert(own);
        }
        if let Some(entry) = self.nodes.get_mut(&by) {
            entry.role = given;
        }
        if let Some(entry) = self.nodes.get_mut(&dead) {
            entry.role.state = NodeState::Lost;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
