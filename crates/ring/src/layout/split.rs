//! Splitting: every partition is halved where it lies, so that there are twice as many.
//!
//! Partition `p` becomes `2p` and `2p + 1`, which lie next to each other in the ring as they did before. Both
//! are held by the replicas of `p`, in the same order and under the same assignments: nothing moves, and a request
//! that was made under the layout before is as good as it was.
//!
//! Invariant: no partition moves while it is split, so the name of a move never means two things.

use slipring_model::limits;

use super::{Applied, Layout, Plan, Refused};

impl Layout {
    /// How many bits of a position named its partition when the cluster was founded.
    #[must_use]
    pub fn bits_founded(&self) -> u8 {
        self.bits.saturating_sub(self.splits)
    }

    /// What it would come to if there were `1 << bits` partitions: nothing moves.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn plan_split(&self, bits: u8) -> Result<Plan, Refused> {
        let mut next = self.clone();
        next.split(bits, None)?;
        Ok(self.plan_of(&next))
    }

    /// Cuts every partition in two, to `1 << bits` of them; nothing when there are so many already.
    pub(super) fn split(&mut self, bits: u8, expected_epoch: Option<u64>) -> Result<Applied, Refused> {
        if bits == self.bits {
            return Ok(Applied::Changed { epoch: self.epoch });
        }
        self.check_split(bits)?;
        if expected_epoch.is_some_and(|expected| expected != self.epoch) {
            return Err(Refused::Moved { epoch: self.epoch });
        }
        for table in self.tables.values_mut() {
            *table = table.iter().flat_map(|holders| [holders.clone(), holders.clone()]).collect();
        }
        self.bits = bits;
        self.splits += 1;
        self.epoch += 1;
        Ok(Applied::Changed { epoch: self.epoch })
    }

    fn check_split(&self, bits: u8) -> Result<(), Refused> {
        let now = self.partition_count();
        if self.bits >= limits::PARTITION_BITS_MAX {
            return Err(Refused::Impossible(format!("there are {now} partitions, and there cannot be more")));
        }
        if bits != self.bits + 1 {
            return Err(Refused::Impossible(format!(
                "there are {now} partitions: a split makes {} of them, and none makes fewer",
                u32::from(now) * 2
            )));
        }
        let moving = self.moves().count();
        if moving > 0 {
            return Err(Refused::Impossible(format!(
                "{moving} partitions move: split when nothing moves any more"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use slipring_model::{BucketId, ClusterId, NodeId, PartitionId, StorageId, Versions};

    use super::*;
    use crate::{Addresses, Change, Command, MoveId, NodeChange, NodeEntry, NodeState, Role};

    fn node(byte: u8) -> NodeId {
        NodeId([byte; 32])
    }

    fn entry(byte: u8) -> NodeEntry {
        NodeEntry {
            storage: StorageId([byte; 16]),
            incarnation: 1,
            boot: 1,
            raft_id: u64::from(byte),
            addresses: Addresses::default(),
            role: Role { zone: String::new(), weight: 100, state: NodeState::Active },
            versions: Versions { oldest: 3, newest: 4 },
            signature: None,
        }
    }

    fn arrive(layout: &mut Layout, index: u64) {
        let moves: Vec<MoveId> = layout.moves().map(|(id, _)| id).collect();
        layout.apply(index, &Command::Arrived { moves }).expect("they arrive");
    }

    /// Eight partitions on so many nodes; nothing moves.
    fn settled(nodes: u8) -> Layout {
        let mut layout = Layout::found(ClusterId::default(), 3, (node(1), entry(1)));
        for byte in 2..=nodes {
            let command = Command::AddNode { node: node(byte), entry: entry(byte) };
            layout.apply(u64::from(byte) * 10, &command).expect("it joins");
            arrive(&mut layout, u64::from(byte) * 10 + 1);
        }
        layout
    }

    fn split(bits: u8) -> Command {
        Command::Split { bits, expected_epoch: None }
    }

    #[test]
    fn each_half_is_held_as_the_whole_was_and_nothing_moves() {
        let before = settled(5);
        let mut layout = before.clone();
        let epoch = before.epoch() + 1;
        assert_eq!(layout.apply(90, &split(4)), Ok(Applied::Changed { epoch }));
        assert_eq!((layout.epoch(), layout.partition_count(), layout.is_moving()), (epoch, 16, false));
        for bucket in [BucketId(0), BucketId(1)] {
            for half in 0..16 {
                let now = layout.holders(bucket, PartitionId(half));
                assert_eq!(now, before.holders(bucket, PartitionId(half / 2)), "{bucket:?} {half}");
                assert!(now.is_some());
            }
            assert!(layout.holders(bucket, PartitionId(16)).is_none());
        }
        assert_eq!((before.bits_founded(), layout.bits_founded()), (3, 3));
    }

    #[test]
    fn a_split_that_is_told_again_is_done_already() {
        let mut layout = settled(3);
        layout.apply(90, &split(4)).expect("split");
        let once = layout.clone();
        let again = Command::Split { bits: 4, expected_epoch: Some(1) };
        assert_eq!(layout.apply(91, &again), Ok(Applied::Changed { epoch: once.epoch() }));
        assert_eq!(layout, once);
    }

    #[test]
    fn only_the_next_number_of_partitions_can_be_asked_for_and_only_while_nothing_moves() {
        let mut layout = settled(3);
        layout.apply(89, &split(3)).expect("as many as there are");
        let unchanged = layout.clone();
        for bits in [0, 2, 5, 14, 255] {
            let refused = layout.apply(90, &split(bits));
            assert!(matches!(&refused, Err(Refused::Impossible(why)) if why.contains("16")), "{refused:?}");
        }
        let stale = Command::Split { bits: 4, expected_epoch: Some(unchanged.epoch() - 1) };
        assert_eq!(layout.apply(91, &stale), Err(Refused::Moved { epoch: unchanged.epoch() }));
        assert_eq!(layout, unchanged);
        layout.apply(92, &Command::AddNode { node: node(4), entry: entry(4) }).expect("it joins");
        let refused = layout.apply(93, &split(4));
        assert!(matches!(&refused, Err(Refused::Impossible(why)) if why.contains("move")), "{refused:?}");
        arrive(&mut layout, 94);
        assert!(layout.apply(95, &split(4)).is_ok());
    }

    #[test]
    fn there_are_at_most_as_many_partitions_as_slots() {
        let mut layout = Layout::found(ClusterId::default(), 13, (node(1), entry(1)));
        layout.apply(90, &split(14)).expect("as many as slots");
        assert_eq!(layout.partition_count(), slipring_model::SLOT_COUNT);
        assert!(matches!(layout.apply(91, &split(15)), Err(Refused::Impossible(_))));
    }

    #[test]
    fn who_cannot_read_it_keeps_a_cluster_from_splitting() {
        let mut layout = settled(2);
        let old = NodeEntry { versions: Versions { oldest: 2, newest: 3 }, ..entry(3) };
        layout.apply(80, &Command::AddNode { node: node(3), entry: old.clone() }).expect("it joins");
        arrive(&mut layout, 81);
        assert_eq!(layout.apply(90, &split(4)), Err(Refused::Level { needed: 4, level: 3 }));
        let mut layout = settled(2);
        layout.apply(90, &split(4)).expect("split");
        let late = layout.apply(91, &Command::AddNode { node: node(3), entry: old });
        assert_eq!(late, Err(Refused::TooOld { floor: 4, newest: 3 }));
    }

    #[test]
    fn a_split_that_changed_nothing_still_keeps_out_who_could_not_read_it() {
        let mut layout = settled(2);
        let epoch = layout.epoch();
        assert_eq!(layout.apply(90, &split(3)), Ok(Applied::Changed { epoch }));
        assert_eq!(layout.epoch(), epoch + 1, "an epoch is one layout");
        let old = NodeEntry { versions: Versions { oldest: 2, newest: 3 }, ..entry(3) };
        let late = layout.apply(91, &Command::AddNode { node: node(3), entry: old });
        assert_eq!(late, Err(Refused::TooOld { floor: 4, newest: 3 }));
    }

    #[test]
    fn a_split_that_was_refused_keeps_out_who_could_not_read_it_and_changes_nothing_else() {
        let before = settled(2);
        let epoch = before.epoch() + 1;
        let stale = Command::Split { bits: 4, expected_epoch: Some(1) };
        for (refused, again) in [(split(9), stale.clone()), (stale, split(9))] {
            let mut layout = before.clone();
            assert!(layout.check(&refused).is_err() && layout == before, "asking leaves no trace");
            layout.apply(90, &refused).expect_err("it is refused");
            assert_eq!(layout, Layout { epoch, floor: 4, ..before.clone() }, "it is in the log all the same");
            layout.apply(91, &again).expect_err("it is refused");
            assert_eq!(layout.epoch(), epoch, "it makes no difference any more");
            let old = NodeEntry { versions: Versions { oldest: 2, newest: 3 }, ..entry(3) };
            let late = layout.apply(92, &Command::AddNode { node: node(3), entry: old });
            assert_eq!(late, Err(Refused::TooOld { floor: 4, newest: 3 }));
        }
    }

    #[test]
    fn a_document_of_an_older_release_keeps_its_epoch_when_nothing_changes() {
        let mut json = serde_json::to_value(settled(2)).expect("plain data");
        let fields = json.as_object_mut().expect("a struct has fields");
        assert!(fields.remove("floor").is_some() && fields.remove("splits").is_some());
        let mut layout: Layout = serde_json::from_value(json).expect("it is read");
        let epoch = layout.epoch();
        layout.apply(90, &Command::Revert).expect("nothing to take back");
        assert_eq!(
            (layout.epoch(), layout.bits_founded()),
            (epoch, 3),
            "the older ones count no epoch either"
        );
    }

    #[test]
    fn a_plan_shows_twice_the_copies_and_no_move() {
        let layout = settled(4);
        let plan = layout.plan_split(4).expect("it can be");
        assert_eq!((plan.partitions_before, plan.partitions_after, plan.moves.len()), (8, 16, 0));
        for (node, before) in &plan.load_before {
            assert_eq!(plan.load_after.get(node).map(|after| after.replicas), Some(before.replicas * 2));
        }
        assert!(layout.plan_split(5).is_err());
    }

    #[test]
    fn the_next_change_brings_every_share_to_within_one_again() {
        let mut layout = settled(5);
        layout.apply(90, &split(4)).expect("split");
        for (index, state) in [(91, NodeState::Drained), (93, NodeState::Active)] {
            let changes = vec![Change { node: node(5), change: NodeChange::State(state) }];
            layout.apply(index, &Command::Change { changes, expected_epoch: None }).expect("changed");
            arrive(&mut layout, index + 1);
        }
        let three_copies = |node: &NodeId| {
            let held = |partition: &u16| {
                let replicas = layout.replicas(BucketId(0), PartitionId(*partition));
                replicas.iter().any(|replica| replica.node == *node)
            };
            (0..16_u16).filter(held).count()
        };
        let shares: Vec<usize> = layout.nodes().keys().map(three_copies).collect();
        assert_eq!(shares.iter().sum::<usize>(), 48);
        assert!(shares.iter().all(|share| (9..=10).contains(share)), "{shares:?}");
        assert_eq!(layout.apply(95, &Command::Revert).map(|_| layout.bits()), Ok(4), "it is not taken back");
    }
}
