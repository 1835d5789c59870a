//! Coordinated reads: one machine per read, or per look before a change.
//!
//! The coordinator, itself a replica, brings its own cell; of the others a quorum answers with digests; while
//! the partition moves, a quorum of the old replicas and one of the next. Where a digest
//! differs the whole cell is fetched, all are merged, and every replica that answered gets the merged cell
//! before the reader does. A replica that fails or dawdles is made up for by the next one in the list.
//!
//! Invariant: settles exactly once; `Answered` only with a cell that a quorum holds or descends.
//! Source: Dynamo (SOSP 2007), 4.5; blocking read repair as in Cassandra 4.

use bytes::Bytes;
use slipring_model::{Mutant, NodeId};
use slipring_service::Cell;
use smallvec::SmallVec;

use crate::quorums::{Quorums, Shortfall};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadInput {
    /// Ask the others.
    Started,
    /// A replica told the digest of its cell; `None` when it has no such key.
    Digested {
        /// Which.
        from: NodeId,
        /// What it holds.
        digest: Option<u64>,
    },
    /// A replica sent its cell.
    Fetched {
        /// Which.
        from: NodeId,
        /// Its bytes.
        cell: Option<Bytes>,
    },
    /// A replica took over the merged cell.
    Repaired {
        /// Which.
        from: NodeId,
    },
    /// A replica refused, its connection was lost, or it sent damaged bytes.
    Failed {
        /// Which.
        from: NodeId,
    },
    /// An answer is late: ask one more replica.
    Dawdled,
    /// No time is left.
    DeadlinePassed,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadEffect {
    /// Ask a replica for its digest.
    Digest {
        /// Which.
        to: NodeId,
    },
    /// Ask a replica for its cell.
    Fetch {
        /// Which.
        to: NodeId,
    },
    /// Bring a replica up to the merged cell and wait for its acknowledgement.
    Repair {
        /// Which.
        to: NodeId,
        /// The merged cell.
        cell: Bytes,
    },
    /// Merge this cell into this node's own copy.
    RepairHere {
        /// The merged cell.
        cell: Bytes,
    },
    /// Answer.
    Settle(ReadOutcome),
}

impl ReadEffect {
    /// The replica that this asks for something.
    #[must_use]
    pub fn asks(&self) -> Option<NodeId> {
        match self {
            Self::Digest { to } | Self::Fetch { to } | Self::Repair { to, .. } => Some(*to),
            Self::RepairHere { .. } | Self::Settle(_) => None,
        }
    }
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The merged cell of a quorum; `None` when none of them has the key.
    Answered(Option<Bytes>),
    /// No quorum answered. Nothing changed but repairs.
    TooFew {
        /// Who did, this node among them, and how many must.
        answered: Shortfall,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Unasked,
    Asked,
    Fetching,
    Answered {
        digest: Option<u64>,
    },
    /// It has been sent the cell with this digest.
    Repairing {
        digest: Option<u64>,
    },
    Failed,
}

impl Progress {
    /// Whether the replica's cell is among those merged.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Answered { .. } | Self::Repairing { .. })
    }
}

/// One read under way.
#[derive(Debug)]
pub struct ReadCoordinator {
    me: NodeId,
    quorums: Quorums,
    merged: Option<Bytes>,
    merged_digest: Option<u64>,
    is_merged_here: bool,
    others: SmallVec<[(NodeId, Progress); 3]>,
    is_settled: bool,
}

impl ReadCoordinator {
    /// A read that needs these quorums: `me`, this node, holds `own` with its digest; `others` are every other
    /// member, in the order in which they are asked.
    #[must_use]
    pub fn new(
        me: NodeId,
        quorums: Quorums,
        own: Option<(Bytes, u64)>,
        others: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let (merged, merged_digest) = own.map_or((None, None), |(cell, digest)| (Some(cell), Some(digest)));
        let others = others.into_iter().map(|node| (node, Progress::Unasked)).collect();
        let quorums = if Mutant::ReadOneFewer.is_planted() { quorums.less_one() } else { quorums };
        Self { me, quorums, merged, merged_digest, is_merged_here: true, others, is_settled: false }
    }

    /// Applies one input. Never blocks, never fails, never reads a clock.
    pub fn handle(&mut self, input: ReadInput, effects: &mut Vec<ReadEffect>) {
        if self.is_settled {
            return;
        }
        match input {
            ReadInput::Started => {
                self.ask(|progress| *progress != Progress::Unasked, effects);
                self.conclude(effects);
            }
            ReadInput::Digested { from, digest } => self.digested(from, digest, effects),
            ReadInput::Fetched { from, cell } => self.fetched(from, cell, effects),
            ReadInput::Repaired { from } => self.repaired(from, effects),
            ReadInput::Failed { from } => self.failed(from, effects),
            ReadInput::Dawdled => self.ask(Progress::is_answer, effects),
            ReadInput::DeadlinePassed => self.give_up(effects),
        }
    }

    fn digested(&mut self, from: NodeId, digest: Option<u64>, effects: &mut Vec<ReadEffect>) {
        if digest == self.merged_digest || digest.is_none() {
            self.advance(from, Progress::Asked, Progress::Answered { digest }, effects);
        } else if self.replace(from, Progress::Asked, Progress::Fetching) {
            effects.push(ReadEffect::Fetch { to: from });
        }
    }

    fn fetched(&mut self, from: NodeId, cell: Option<Bytes>, effects: &mut Vec<ReadEffect>) {
        let digest = match &cell {
            None => None,
            Some(bytes) => match self.merge(bytes) {
                Some(digest) => Some(digest),
                None => return self.failed(from, effects),
            },
        };
        self.advance(from, Progress::Fetching, Progress::Answered { digest }, effects);
    }

    /// A replica holds what it was sent; an answer that came in meanwhile may have added to it.
    fn repaired(&mut self, from: NodeId, effects: &mut Vec<ReadEffect>) {
        for (node, progress) in &mut self.others {
            if let (true, Progress::Repairing { digest }) = (*node == from, *progress) {
                *progress = Progress::Answered { digest };
                return self.conclude(effects);
            }
        }
    }

    fn failed(&mut self, from: NodeId, effects: &mut Vec<ReadEffect>) {
        let awaited = self.others.iter_mut().find(|(node, progress)| {
            *node == from
                && matches!(progress, Progress::Asked | Progress::Fetching | Progress::Repairing { .. })
        });
        if let Some((_, progress)) = awaited {
            *progress = Progress::Failed;
            self.ask(|progress| !matches!(progress, Progress::Unasked | Progress::Failed), effects);
            self.conclude(effects);
        }
    }

    /// Asks as many more as make a quorum with those that are counted on, first those who help most.
    fn ask(&mut self, is_counted_on: impl Fn(&Progress) -> bool, effects: &mut Vec<ReadEffect>) {
        let mut asked: SmallVec<[NodeId; 3]> = SmallVec::new();
        for _ in 0..self.others.len() {
            let counted = |node: NodeId| {
                let is_counted =
                    |(other, progress): &(NodeId, Progress)| *other == node && is_counted_on(progress);
                node == self.me || asked.contains(&node) || self.others.iter().any(is_counted)
            };
            let free = self.others.iter().filter(|(_, progress)| *progress == Progress::Unasked);
            let useful = free.map(|(node, _)| (self.quorums.helps(*node, counted), *node));
            let best = useful.filter(|(helped, _)| *helped > 0).rev().max_by_key(|(helped, _)| *helped);
            let Some((_, to)) = best else { return };
            asked.push(to);
            self.replace(to, Progress::Unasked, Progress::Asked);
            effects.push(ReadEffect::Digest { to });
        }
    }

    fn advance(&mut self, from: NodeId, was: Progress, now: Progress, effects: &mut Vec<ReadEffect>) {
        if self.replace(from, was, now) {
            self.conclude(effects);
        }
    }

    fn replace(&mut self, from: NodeId, was: Progress, now: Progress) -> bool {
        let found = self.others.iter_mut().find(|(node, progress)| *node == from && *progress == was);
        found.map(|(_, progress)| *progress = now).is_some()
    }

    /// Merges a cell into what is known; its own digest, or `None` when it is damaged.
    fn merge(&mut self, bytes: &Bytes) -> Option<u64> {
        let theirs = Cell::decode(bytes).ok()?;
        let digest = theirs.digest();
        let mut encoded = Vec::new();
        let merged_digest = {
            let ours = match &self.merged {
                Some(known) => Cell::decode(known).ok()?,
                None => Cell::default(),
            };
            let merged = ours.merge(theirs);
            merged.encode(&mut encoded);
            merged.digest()
        };
        if self.merged_digest != Some(merged_digest) {
            self.is_merged_here = false;
            self.merged_digest = Some(merged_digest);
            self.merged = Some(Bytes::from(encoded));
        }
        Some(digest)
    }

    /// Repairs whoever answered with less than is known now, and settles once a quorum holds it.
    fn conclude(&mut self, effects: &mut Vec<ReadEffect>) {
        let is = |wanted: fn(&Progress) -> bool| {
            self.others.iter().filter(|(_, progress)| wanted(progress)).count()
        };
        let awaited = is(|progress| matches!(progress, Progress::Asked | Progress::Unasked));
        let pending = is(|progress| matches!(progress, Progress::Fetching));
        let is_quorum = self.quorums.is_met(|node| {
            let answers = |(other, progress): &(NodeId, Progress)| *other == node && progress.is_answer();
            node == self.me || self.others.iter().any(answers)
        });
        if pending == 0 && awaited == 0 && !is_quorum {
            return self.give_up(effects);
        }
        if pending > 0 || !is_quorum {
            return;
        }
        self.repair(effects);
        let is_repairing =
            self.others.iter().any(|(_, progress)| matches!(progress, Progress::Repairing { .. }));
        if !is_repairing {
            self.is_settled = true;
            effects.push(ReadEffect::Settle(ReadOutcome::Answered(self.merged.clone())));
        }
    }

    fn repair(&mut self, effects: &mut Vec<ReadEffect>) {
        let Some(cell) = self.merged.clone().filter(|_| !Mutant::SkipReadRepair.is_planted()) else { return };
        if !self.is_merged_here {
            self.is_merged_here = true;
            effects.push(ReadEffect::RepairHere { cell: cell.clone() });
        }
        for (node, progress) in &mut self.others {
            if matches!(progress, Progress::Answered { digest } if *digest != self.merged_digest) {
                *progress = Progress::Repairing { digest: self.merged_digest };
                effects.push(ReadEffect::Repair { to: *node, cell: cell.clone() });
            }
        }
    }

    fn give_up(&mut self, effects: &mut Vec<ReadEffect>) {
        let answered = self.quorums.shortfall(|node| {
            let answers = |(other, progress): &(NodeId, Progress)| {
                *other == node && matches!(progress, Progress::Answered { .. })
            };
            node == self.me || self.others.iter().any(answers)
        });
        self.is_settled = true;
        effects.push(ReadEffect::Settle(ReadOutcome::TooFew { answered }));
    }
}

#[cfg(test)]
mod tests;
