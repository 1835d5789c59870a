//! How a node comes into a cluster: it founds one, joins one, or finds out with others which of them founds.
//!
//! Nodes introduce themselves to each other before anything else (`introduction`), so that it is known who is a member
//! of what before anybody asks to be admitted (`admission`). `joining` asks until a member admits this node; `starting`
//! feeds the machine that decides who founds, when several nodes start at once; `rival` keeps a node from founding
//! where a living cluster counts on it. `searching` finds the other members again when all have moved.

mod admission;
mod introduction;
mod joining;
mod rival;
mod searching;
mod starting;
mod waiting;

use slipring_consensus::LayoutGroup;
use slipring_discovery::Discovery;
use slipring_membership::ClusterKey;
use slipring_model::{BucketId, ClusterId, Position, limits};
use slipring_ring::Layout;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::builder::StartError;
use crate::core::Core;
use crate::follow::PeerCourier;
use crate::identity::Membership;

pub(crate) use admission::{STEP_TIMEOUT, proposal_failed};
pub(crate) use introduction::Acquaintance;
pub use rival::Rival;
pub(crate) use rival::Rivals;

/// The founder's number in the layout group.
const FOUNDER: u64 = 1;

/// How long a founder listens for a cluster that counts on its address: longer than a member rests before it dials
/// an address again at which nothing listened.
const RIVALS_CALL: Duration = Duration::from_millis(800);

/// What a node founds with, should it found.
pub(crate) struct Means {
    pub(crate) cluster: ClusterId,
    pub(crate) key: ClusterKey,
    pub(crate) group: slipring_consensus::Settings,
    /// How many nodes start at once; none when this one founds only where it has nobody to ask.
    pub(crate) expected: Option<NonZeroU32>,
    /// Whether it founds although it has somebody to ask, unless that is a member.
    pub(crate) is_founder: bool,
}

impl Core {
    /// Goes on in the node's cluster, joins one, or founds one; works with a layout when it returns.
    pub(crate) async fn enter_cluster(
        self: &Arc<Self>,
        seeds: &dyn Discovery,
        means: Means,
    ) -> Result<(), StartError> {
        let membership = match self.identity.membership {
            Some(membership) => membership,
            None => self.first_membership(seeds, &means).await?,
        };
        let known = Membership::admitted_to(&self.meta)?.ok_or(StartError::DamagedIdentity)?;
        self.cluster.get_or_init(|| membership.cluster);
        if let Some(key) = Membership::cluster_key(&self.meta)? {
            self.cluster_key.get_or_init(|| key);
        }
        if let Some(transport) = self.transport.get() {
            transport.set_cluster(membership.cluster);
        }
        let group = self.start_group(membership, &known, means.group).await?;
        let agreed = group.layout().borrow().clone();
        self.group.get_or_init(|| group);
        // A member that was admitted lately may have applied no more than the beginning of the log.
        let known = Arc::new(known);
        let is_newer = |agreed: &Arc<Layout>| agreed.epoch() > known.epoch();
        self.adopt(agreed.as_ref().filter(|agreed| is_newer(agreed)).unwrap_or(&known));
        match self.stop.borrow().clone() {
            Some(reason) => Err(StartError::Group(reason)),
            None => Ok(()),
        }
    }

    async fn first_membership(&self, seeds: &dyn Discovery, means: &Means) -> Result<Membership, StartError> {
        let expected = means.expected.map(NonZeroU32::get);
        self.check_no_records()?;
        if self.settings.spare && (seeds.is_empty() || expected.is_some() || means.is_founder) {
            let message = "a spare holds nothing, so it cannot found a cluster: name a member to join, without expect, \
                           or start it without spare";
            return Err(StartError::Settings(message.to_owned()));
        }
        if means.is_founder && expected.is_some() {
            let message = "found says that this node founds, and expect that it may be another one: give one of the two";
            return Err(StartError::Settings(message.to_owned()));
        }
        match expected {
            _ if means.is_founder => self.found_alone(seeds, means).await,
            None | Some(1) if seeds.is_empty() => self.found_alone(seeds, means).await,
            None => self.join(seeds).await,
            Some(expected) if seeds.is_empty() => Err(StartError::Settings(format!(
                "{expected} nodes are expected, and nothing says where to find them: name a source to join"
            ))),
            Some(expected) if expected as usize > limits::NODES_MAX => Err(StartError::Settings(format!(
                "expect = {expected} must lie in 1..={}",
                limits::NODES_MAX
            ))),
            Some(expected) => self.start_with_others(seeds, expected, means).await,
        }
    }

    /// A node that belongs to no cluster has written nothing yet.
    fn check_no_records(&self) -> Result<(), StartError> {
        for bucket in (0..limits::BUCKETS_MAX as u32).map(BucketId) {
            let mut has_any = false;
            self.disk.scan(bucket, Position(0)..=Position(u64::MAX), None, &mut |_, _, _| {
                has_any = true;
                false
            })?;
            if has_any {
                return Err(StartError::RecordsWithoutCluster);
            }
        }
        Ok(())
    }

    /// Founds, unless one of the nodes that it knows of is a member of a cluster, or a cluster counts on this address.
    async fn found_alone(&self, seeds: &dyn Discovery, means: &Means) -> Result<Membership, StartError> {
        self.rivals.watch();
        let (survey, rival) =
            tokio::join!(self.survey(seeds.candidates().await), self.rivals.first(RIVALS_CALL));
        survey.check_not_refused()?;
        if let Some(member) = survey.members()?.first() {
            let cluster = member.standing.cluster.unwrap_or_default().short();
            return Err(StartError::ClusterThere { address: member.address.clone(), cluster });
        }
        match rival {
            Some(rival) => Err(StartError::AddressTaken(rival)),
            None => self.found(means),
        }
    }

    fn found(&self, means: &Means) -> Result<Membership, StartError> {
        let membership = Membership { cluster: means.cluster, raft_id: FOUNDER };
        let founder = (self.me, self.descriptor().entry(FOUNDER));
        let key = Some(&means.key).filter(|_| self.secret.is_none());
        let layout = Layout::found(means.cluster, self.settings.partition_bits, founder);
        membership.keep(&self.meta, &layout, key)?;
        tracing::info!(cluster = %means.cluster.short(), "founded a new cluster");
        Ok(membership)
    }

    /// Whether the cluster began with this start of this node.
    pub(crate) fn has_founded(&self) -> bool {
        let is_founder =
            |layout: &Layout| layout.nodes().get(&self.me).is_some_and(|entry| entry.raft_id == FOUNDER);
        self.identity.membership.is_none() && self.view().is_some_and(|view| is_founder(&view.layout))
    }

    async fn start_group(
        self: &Arc<Self>,
        membership: Membership,
        known: &Layout,
        settings: slipring_consensus::Settings,
    ) -> Result<LayoutGroup, StartError> {
        let database = self.meta.database();
        let me = (self.me, membership.raft_id);
        let courier = Arc::new(PeerCourier(Arc::downgrade(self)));
        let failed = |error: slipring_consensus::Error| StartError::Group(error.to_string());
        let is_agreed = LayoutGroup::has_state(&database).map_err(failed)?;
        if !is_agreed && membership.raft_id == FOUNDER {
            return LayoutGroup::found(database, settings, me, known.clone(), courier).await.map_err(failed);
        }
        LayoutGroup::resume(database, settings, me, courier).await.map_err(failed)
    }
}
