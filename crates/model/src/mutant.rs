//! Broken promises to order: each mutant is one mistake that a store like this could make.
//!
//! A simulator is only worth what it would catch, so it plants these one at a time. The switch exists only
//! with the feature `mutants`, which the simulator asks for and the server never does; without it every
//! question here is answered `false` when the program is built.
//!
//! A mutant belongs to the thread that plants it: simulated clusters on other threads stay sound.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// A replica acknowledges a cell that it does not store.
    AckBeforeStored,
    /// A write to a bucket that promises a sync is acknowledged before it.
    AckBeforeSync,
    /// A hint for a silent replica counts as its acknowledgement.
    CountHintAsAck,
    /// A read is answered by one replica fewer than it needs.
    ReadOneFewer,
    /// A read leaves the replicas that it found behind as they are.
    SkipReadRepair,
    /// A request goes on with a copy that its disk would not bring up to date.
    DecideOnStaleCopy,
    /// Replicas never compare what they hold.
    SkipExchange,
    /// A node counts its dots from one again after each start.
    ReuseDots,
    /// A delete leaves no tombstone on the replica that coordinated it.
    DropTombstone,
    /// What has expired is removed without a trace.
    DropExpired,
    /// A write whose outcome is unknown is reported as one that did not happen.
    TimeOutIsFailure,
    /// A write whose coordinator fell silent is sent to the next one.
    RetryUnknownWrite,
    /// What another replica sends is stamped as if it had been written on arrival.
    RestampOnReplay,
    /// Merging adds up what two replicas know of the same increments.
    AddOnMerge,
    /// A record that fails its check is served all the same.
    ServeDamaged,
    /// A disk says that it has synced and has not.
    SyncNothing,
    /// A data directory that was rolled back is taken for a good one.
    AcceptRollback,
    /// A vote in the layout group is not kept.
    ForgetVote,
    /// While a partition moves, a quorum of all its replicas together is enough.
    UnionQuorum,
    /// A replica answers requests that were made under an older layout.
    IgnoreFence,
    /// A node that takes a partition over does not wait until its sources know of the move.
    SkipBarrier,
    /// A node takes a partition over from those it moves to, not from those it leaves.
    CopyFromNext,
    /// One replica's word is enough to take a partition over.
    AskOneSource,
    /// A replica gets the assignment number of one that was placed earlier.
    ReuseAssignment,
    /// What a node held under an earlier assignment counts as held under the new one.
    KeepLeftovers,
    /// The parts of a partition that was split count their dots from one.
    SplitForgetsDots,
    /// What a node has noted of a bucket is forgotten when the bucket gets a table of its own.
    ForgetHeld,
    /// A bucket whose number of copies changes is placed anew at once, and nothing moves.
    JumpTables,
    /// All moves of a partition have one number, whatever aimed them.
    ReuseSession,
    /// Only the first leader of the layout group drives moves to their end.
    DriveInFirstTerm,
    /// A node works with any layout that it is told, older ones too.
    AdoptOlder,
    /// A recovered layout group goes on with the numbers that those who were lost may have used.
    ReuseNumbers,
    /// When most voters are lost, the node that is recovered is the one that knows least.
    RecoverOldest,
    /// A node drops values by its own clock alone.
    SweepByOwnClock,
    /// A node judges what has expired by its own clock alone.
    JudgeByOwnClock,
    /// A reply counts as that of a node that was asked, whichever node it comes from.
    TrustUnaskedReply,
    /// A replica that holds a later value than the write it is sent acknowledges the write all the same.
    IgnoreOvertaken,
    /// A replica acknowledges a cell that its full disk has refused.
    AckWithoutRoom,
    /// A node never asks where members are that have moved.
    NeverSearch,
    /// A bucket is cleared of the keys that one replica of each partition knows.
    ClearWhatOneKnows,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Self; 40] = [
        Self::AckBeforeStored,
        Self::AckBeforeSync,
        Self::CountHintAsAck,
        Self::ReadOneFewer,
        Self::SkipReadRepair,
        Self::DecideOnStaleCopy,
        Self::SkipExchange,
        Self::ReuseDots,
        Self::DropTombstone,
        Self::DropExpired,
        Self::TimeOutIsFailure,
        Self::RetryUnknownWrite,
        Self::RestampOnReplay,
        Self::AddOnMerge,
        Self::ServeDamaged,
        Self::SyncNothing,
        Self::AcceptRollback,
        Self::ForgetVote,
        Self::UnionQuorum,
        Self::IgnoreFence,
        Self::SkipBarrier,
        Self::CopyFromNext,
        Self::AskOneSource,
        Self::ReuseAssignment,
        Self::KeepLeftovers,
        Self::SplitForgetsDots,
        Self::ForgetHeld,
        Self::JumpTables,
        Self::ReuseSession,
        Self::DriveInFirstTerm,
        Self::AdoptOlder,
        Self::ReuseNumbers,
        Self::RecoverOldest,
        Self::SweepByOwnClock,
        Self::JudgeByOwnClock,
        Self::TrustUnaskedReply,
        Self::IgnoreOvertaken,
        Self::AckWithoutRoom,
        Self::NeverSearch,
        Self::ClearWhatOneKnows,
    ];

    /// Whether this thread has planted it.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn is_planted(self) -> bool {
        planted::MUTANT.get() == Some(self)
    }

    /// Whether this thread has planted it: never.
    #[cfg(not(feature = "mutants"))]
    #[must_use]
    #[inline]
    pub const fn is_planted(self) -> bool {
        false
    }

    /// Plants a mutant on this thread, in place of the one before.
    #[cfg(feature = "mutants")]
    pub fn plant(mutant: Option<Self>) {
        planted::MUTANT.set(mutant);
    }
}

#[cfg(feature = "mutants")]
mod planted {
    use std::cell::Cell;

    thread_local! {
        pub(super) static MUTANT: Cell<Option<super::Mutant>> = const { Cell::new(None) };
    }
}
