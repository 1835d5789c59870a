//! A guest: somebody else's service, clients and rules in a simulated cluster, in place of the built-in ones.

use std::sync::Arc;

use fastrand::Rng;
use futures::future::BoxFuture;
use slipring_model::{BucketId, BucketPolicy};
use slipring_node::{Builder, Node};

use crate::journal::Journal;
use crate::run::Violation;

/// The number of a guest's bucket: the first after those that every cluster has.
pub(crate) const BUCKET: BucketId = BucketId(2);
/// Its name.
pub(crate) const BUCKET_NAME: &str = "guest";

/// Where a guest's client sits.
pub(crate) struct Seat {
    pub(crate) node: Node,
    pub(crate) client: String,
    pub(crate) rng: Rng,
    pub(crate) journal: Arc<Journal>,
}

impl Seat {
    pub(crate) fn new(node: Node, client: String, seed: u64, journal: Arc<Journal>) -> Self {
        Self { node, client, rng: Rng::with_seed(seed), journal }
    }
}

/// One run's guest; the same for all hosts of the run.
pub(crate) trait Guest: Send + Sync {
    /// Gives a node the guest's service.
    fn install(&self, builder: Builder) -> Builder;

    /// What the guest's bucket promises.
    fn policy(&self) -> BucketPolicy;

    /// Works as one client until it is told to close.
    fn work(self: Arc<Self>, seat: Seat) -> BoxFuture<'static, ()>;

    /// Lets every client finish what it is doing and begin nothing more.
    fn close(&self);

    /// Asks for everything once more, when all has healed; whether every request was answered.
    fn look(self: Arc<Self>, seat: Seat) -> BoxFuture<'static, bool>;

    /// How many requests were made.
    fn requests(&self) -> usize;

    /// Applies the guest's rules to what its clients saw.
    fn check(&self) -> Result<(), Violation>;
}

/// Makes the guest of each run.
pub(crate) type GuestFactory = Arc<dyn Fn() -> Arc<dyn Guest> + Send + Sync>;
