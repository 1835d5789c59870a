//! The machines a game is played with: those of the product, or ones with a flaw to see it found.

use bytes::Bytes;
use slipring_model::NodeId;
use slipring_replication::{
    Comparison, PageEntry, QuorumSet, Quorums, ReadCoordinator, ReadEffect, ReadInput, WriteCoordinator,
    WriteEffect, WriteInput, compare,
};

/// A coordinated write.
pub trait WriteMachine {
    /// Applies one input and appends what is to be done.
    fn handle(&mut self, input: WriteInput, effects: &mut Vec<WriteEffect>);
}

/// A coordinated read.
pub trait ReadMachine {
    /// Applies one input and appends what is to be done.
    fn handle(&mut self, input: ReadInput, effects: &mut Vec<ReadEffect>);
}

/// Where a game gets its machines.
pub trait Machines {
    /// A write that `needed` replicas must hold, the coordinator among them.
    fn write(&self, needed: u8, others: Vec<NodeId>) -> Box<dyn WriteMachine>;

    /// A read that needs `needed` replicas, the coordinator with its `own` cell and digest among them.
    fn read(&self, needed: u8, own: Option<(Bytes, u64)>, others: Vec<NodeId>) -> Box<dyn ReadMachine>;

    /// How two pages differ.
    fn compare(&self, theirs: &[PageEntry<Vec<u8>>], ours: &[PageEntry<Vec<u8>>]) -> Comparison<Vec<u8>>;
}

/// The machines of the product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Product;

impl WriteMachine for WriteCoordinator {
    fn handle(&mut self, input: WriteInput, effects: &mut Vec<WriteEffect>) {
        Self::handle(self, input, effects);
    }
}

impl ReadMachine for ReadCoordinator {
    fn handle(&mut self, input: ReadInput, effects: &mut Vec<ReadEffect>) {
        Self::handle(self, input, effects);
    }
}

/// Stands for whichever replica coordinates: the machines tell it from the others by its id alone.
const COORDINATOR: NodeId = NodeId([255; 32]);

fn quorum(needed: u8, others: &[NodeId]) -> Quorums {
    let members = std::iter::once(COORDINATOR).chain(others.iter().copied()).collect();
    Quorums::of(QuorumSet { members, needed })
}

impl Machines for Product {
    fn write(&self, needed: u8, others: Vec<NodeId>) -> Box<dyn WriteMachine> {
        Box::new(WriteCoordinator::new(COORDINATOR, quorum(needed, &others)))
    }

    fn read(&self, needed: u8, own: Option<(Bytes, u64)>, others: Vec<NodeId>) -> Box<dyn ReadMachine> {
        Box::new(ReadCoordinator::new(COORDINATOR, quorum(needed, &others), own, others))
    }

    fn compare(&self, theirs: &[PageEntry<Vec<u8>>], ours: &[PageEntry<Vec<u8>>]) -> Comparison<Vec<u8>> {
        compare(theirs, ours)
    }
}
