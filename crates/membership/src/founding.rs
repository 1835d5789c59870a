//! Who founds a cluster when several nodes start at once: one machine per node that belongs to none yet.
//!
//! Nodes tell each other their [`Standing`]. One that sees the expected number of them, itself the lowest, makes an
//! [`Attempt`]: it asks all to follow it, and founds once that many have promised to. A promise is on disk before it is
//! told, and given to one attempt at a time: it ends only when the attempt's own node is heard to have gone past it,
//! for what is past founds nothing. A node that is never heard again keeps the promises it was given.
//!
//! Invariant: of fewer than twice the expected number of nodes at most one founds: any two sets of promises share a
//! node, and it promised to the second only when the first could no longer found.
//! Source: Lamport, "The Part-Time Parliament" (1998), for the promises; that all must promise is Consul's bootstrap-expect.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipring_model::{ClusterId, Moment, NodeId, limits};

/// A node that was not heard of for this long does not count.
const PRESENCE: Duration = Duration::from_secs(6);

/// One try of one node to found a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attempt {
    /// Who would found.
    pub founder: NodeId,
    /// Which of its starts this is.
    pub incarnation: u64,
    /// Which of that start's attempts this is.
    pub round: u64,
}

/// What a node says of itself while clusters form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Who says so.
    pub node: NodeId,
    /// How often it has started.
    pub incarnation: u64,
    /// The nodes it expects before one of them founds; 0 when it never takes part in founding.
    pub expected: u32,
    /// Its latest attempt; what came before founds nothing any more.
    pub round: u64,
    /// Whether it is at that attempt.
    pub is_attempting: bool,
    /// Whom it has promised to follow.
    pub promised: Option<Attempt>,
    /// The cluster that it is a member of.
    pub cluster: Option<ClusterId>,
}

impl Standing {
    /// A member of a cluster.
    #[must_use]
    pub fn member(node: NodeId, incarnation: u64, cluster: ClusterId) -> Self {
        Self { cluster: Some(cluster), ..Self::joiner(node, incarnation) }
    }

    /// A node that belongs to no cluster and only wants to join one.
    #[must_use]
    pub fn joiner(node: NodeId, incarnation: u64) -> Self {
        let (expected, round, is_attempting) = (0, 0, false);
        Self { node, incarnation, expected, round, is_attempting, promised: None, cluster: None }
    }

    fn attempt(&self) -> Attempt {
        Attempt { founder: self.node, incarnation: self.incarnation, round: self.round }
    }

    /// Whether an attempt can found nothing any more, going by this.
    fn is_past(&self, attempt: Attempt) -> bool {
        self.node == attempt.founder && self.cluster.is_none() && self.attempt() > attempt
    }
}

/// What happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A node has said this of itself, in a question or an answer. May be late, lost or doubled.
    Heard(Standing),
    /// A promise is on disk.
    Persisted(Attempt),
    /// All known addresses have been asked, and it is time to decide.
    Asked,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put this promise on disk, in the place of any other, and say so.
    Persist(Attempt),
    /// Found a cluster. Comes at most once, and nothing after it.
    Found,
    /// Join this cluster, of which a member was heard.
    Join(ClusterId),
    /// Do not start, for this reason.
    Refuse(Refusal),
}

/// Why a node must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another one expects another number of nodes.
    Mismatch {
        /// Who.
        node: NodeId,
        /// How many.
        expected: u32,
    },
    /// There are members of two clusters.
    TwoClusters([(NodeId, ClusterId); 2]),
}

struct Known {
    standing: Standing,
    heard_at: Moment,
}

/// The machine of one node.
pub struct Founding {
    me: Standing,
    /// On its way to the disk.
    pending: Option<Attempt>,
    /// Who has promised to follow this node's attempt.
    followers: BTreeSet<NodeId>,
    known: BTreeMap<NodeId, Known>,
    has_decided: bool,
}

impl Founding {
    /// A node without a cluster that expects so many nodes, itself included; `promised` is what it has on disk.
    #[must_use]
    pub fn new(node: NodeId, incarnation: u64, expected: u32, promised: Option<Attempt>) -> Self {
        let me = Standing { expected, ..Standing::joiner(node, incarnation) };
        // An attempt of an earlier start of this node is over: it has founded nothing, or this would be a member.
        let promised = promised.filter(|attempt| !me.is_past(*attempt));
        Self {
            me: Standing { promised, ..me },
            pending: None,
            followers: BTreeSet::new(),
            known: BTreeMap::new(),
            has_decided: false,
        }
    }

    /// What to say to others now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.me
    }

    /// How many of the expected nodes are seen now, this one included.
    #[must_use]
    pub fn seen(&self, now: Moment) -> usize {
        self.fellows(now).count() + 1
    }

    /// The node that was promised to be followed and is not heard of.
    #[must_use]
    pub fn awaited(&self, now: Moment) -> Option<NodeId> {
        let founder = self.me.promised?.founder;
        (founder != self.me.node && !self.present(now).any(|seen| seen.node == founder)).then_some(founder)
    }

    /// Applies one input.
    pub fn handle(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        if self.has_decided {
            return;
        }
        match input {
            Input::Heard(standing) => self.heard(now, standing, effects),
            Input::Persisted(attempt) => self.persisted(attempt),
            Input::Asked => self.decide(now, effects),
        }
    }

    fn heard(&mut self, now: Moment, told: Standing, effects: &mut Vec<Effect>) {
        if told.node == self.me.node || !self.note(now, told) {
            return;
        }
        self.me.promised = self.me.promised.filter(|attempt| !told.is_past(*attempt));
        self.pending = self.pending.filter(|attempt| !told.is_past(*attempt));
        if told.promised == Some(self.me.attempt()) && self.me.is_attempting {
            self.followers.insert(told.node);
        }
        if told.is_attempting && self.may_follow(now, told.node) {
            self.step_back();
            self.promise(told.attempt(), effects);
        }
    }

    /// Notes what a node said, unless it has said something later before.
    fn note(&mut self, now: Moment, told: Standing) -> bool {
        let is_full = self.known.len() >= limits::NODES_MAX;
        match self.known.get_mut(&told.node) {
            // Who is a member stays one.
            Some(known) if told.cluster.is_none() && known.standing.cluster.is_some() => return false,
            Some(known) if told.cluster.is_none() && told.attempt() < known.standing.attempt() => {
                return false;
            }
            Some(known) => *known = Known { standing: told, heard_at: now },
            None if is_full => return false,
            None => drop(self.known.insert(told.node, Known { standing: told, heard_at: now })),
        }
        true
    }

    /// Whether `node` is the one to follow: it expects as many as this one, and nobody lower is there.
    fn may_follow(&self, now: Moment, node: NodeId) -> bool {
        let has_cluster = self.present(now).any(|seen| seen.cluster.is_some());
        let lowest = self.fellows(now).map(|fellow| fellow.node).min();
        !has_cluster && lowest == Some(node) && node < self.me.node
    }

    fn promise(&mut self, attempt: Attempt, effects: &mut Vec<Effect>) {
        if self.me.promised.is_none() && self.pending.is_none() {
            self.pending = Some(attempt);
            effects.push(Effect::Persist(attempt));
        }
    }

    fn persisted(&mut self, attempt: Attempt) {
        if self.pending != Some(attempt) {
            return;
        }
        self.me.promised = self.pending.take();
        if self.me.is_attempting && attempt == self.me.attempt() {
            self.followers.insert(self.me.node);
        }
    }

    /// Ends this node's attempt, and with it every promise to follow it.
    fn step_back(&mut self) {
        if !self.me.is_attempting {
            return;
        }
        self.me.is_attempting = false;
        self.me.round += 1;
        self.followers.clear();
        let me = self.me;
        self.me.promised = me.promised.filter(|attempt| !me.is_past(*attempt));
        self.pending = self.pending.filter(|attempt| !me.is_past(*attempt));
    }

    fn decide(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let awaited = self.me.promised.map(|attempt| attempt.founder);
        self.known.retain(|node, known| is_present(now, known) || Some(*node) == awaited);
        if let Some(effect) = self.cluster(now).or_else(|| self.mismatch(now)) {
            self.step_back();
            return effects.push(effect);
        }
        let is_lowest = self.fellows(now).all(|fellow| self.me.node < fellow.node);
        if !is_lowest {
            return self.step_back();
        }
        let is_bound = self.me.promised.is_some() || self.pending.is_some();
        if !self.me.is_attempting && !is_bound && self.seen(now) >= self.me.expected as usize {
            self.me.is_attempting = true;
            self.me.round += 1;
            self.promise(self.me.attempt(), effects);
        }
        if self.is_followed(now) {
            self.has_decided = true;
            effects.push(Effect::Found);
        }
    }

    /// What the clusters whose members are there ask for.
    fn cluster(&self, now: Moment) -> Option<Effect> {
        let mut members = self.present(now).filter_map(|seen| Some((seen.node, seen.cluster?)));
        let first = members.next()?;
        let other = members.find(|(_, cluster)| *cluster != first.1);
        Some(
            other.map_or(Effect::Join(first.1), |other| Effect::Refuse(Refusal::TwoClusters([first, other]))),
        )
    }

    fn mismatch(&self, now: Moment) -> Option<Effect> {
        let differs = |seen: &&Standing| seen.expected != 0 && seen.expected != self.me.expected;
        let other = self.present(now).find(differs)?;
        Some(Effect::Refuse(Refusal::Mismatch { node: other.node, expected: other.expected }))
    }

    /// Whether all that are expected, and most of those that are there, have promised to follow this node.
    fn is_followed(&self, now: Moment) -> bool {
        let followers = self.fellows(now).filter(|fellow| self.followers.contains(&fellow.node)).count();
        let all = followers + usize::from(self.followers.contains(&self.me.node));
        self.me.is_attempting && all >= self.me.expected as usize && all * 2 > self.seen(now)
    }

    fn present(&self, now: Moment) -> impl Iterator<Item = &Standing> {
        self.known.values().filter(move |known| is_present(now, known)).map(|known| &known.standing)
    }

    /// The other nodes that are there, belong to no cluster and expect as many as this one.
    fn fellows(&self, now: Moment) -> impl Iterator<Item = &Standing> {
        let is_fellow = |seen: &&Standing| seen.cluster.is_none() && seen.expected == self.me.expected;
        self.present(now).filter(is_fellow)
    }
}

fn is_present(now: Moment, known: &Known) -> bool {
    now.since(known.heard_at) <= PRESENCE
}

#[cfg(test)]
mod tests;
