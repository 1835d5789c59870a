//! A running node, for those who embed it and for its gateways.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use slipring_consensus::{GroupStatus, LayoutGroup};
use slipring_model::bucket::Durability;
use slipring_model::{BucketId, ClusterId, Cursor, Error, ErrorKind, NodeId, Position, Room, Space, limits};
use slipring_ring::{Addresses, Applied, Changes, Command, Layout};
use slipring_service::{Access, Service};
use slipring_wire::Request;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::acks::check_acks;
use crate::answer::Counted;
use crate::bucket::{Locus, Refusal};
use crate::call::{Call, CallOptions, Pending};
use crate::change::Force;
use crate::clients::{ClientLimits, ClientMemory};
use crate::core::Core;
use crate::failure::unavailable;
use crate::gossip::MemberStatus;
use crate::moving::Proposal;
use crate::presence::Presence;
use crate::requests::{Asker, ReplyTo, Work};
use crate::scan::{Region, ScanPage};
use crate::status::Status;
use crate::view::{BucketView, View};

/// How the objection to a change ends.
const ADVICE: &str =
    "nothing was changed. `slipring layout plan` shows what would come of it; --force does it all the same";
/// How often a change is checked anew because the layout has changed meanwhile, and the rest before that.
const CHANGE_ATTEMPTS_MAX: usize = 20;
const CHANGE_REST: Duration = Duration::from_millis(50);

/// A handle on a running node; clones are handles on the same one.
#[derive(Clone)]
pub struct Node {
    core: Arc<Core>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Node {
    pub(crate) fn new(core: Arc<Core>, tasks: Vec<JoinHandle<()>>) -> Self {
        Self { core, tasks: Arc::new(Mutex::new(tasks)) }
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.core.me
    }

    /// How often this node has started.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.core.incarnation
    }

    /// The cluster this node belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.core.cluster.get().copied().unwrap_or_default()
    }

    /// Where this node says it can be reached.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.core.addresses
    }

    /// The layout this node works with.
    #[must_use]
    pub fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.core.view().expect("a node that was handed out has a layout").layout)
    }

    /// The bucket with this name.
    #[must_use]
    pub fn bucket_named(&self, name: &str) -> Option<BucketId> {
        self.core.view()?.layout.bucket_named(name).map(|(id, _)| id)
    }

    /// Whether there is a bucket with this number.
    #[must_use]
    pub fn has_bucket(&self, bucket: BucketId) -> bool {
        self.core.view.load().as_ref().is_some_and(|view| view.bucket(bucket).is_some())
    }

    /// Runs one request of a service on a bucket.
    ///
    /// Ready at once when this node alone can answer; otherwise it goes on even when the call is dropped.
    pub fn call<S: Service>(
        &self,
        service: &'static S,
        bucket: BucketId,
        request: S::Request,
        options: CallOptions,
    ) -> Call<S::Response> {
        let view = self.core.view.load();
        let position = Position::of(service.key(&request));
        let Some((view, (bucket, place))) =
            view.as_ref().and_then(|view| Some((view, view.place(bucket, position)?)))
        else {
            return Call::Ready(Err(Error::new(
                ErrorKind::Invalid,
                "there is no such bucket; create it first",
            )));
        };
        let access = service.access(&request);
        let checked = check(service, bucket, &request).and_then(|()| match options {
            // Most requests: they cost no look at the policy.
            CallOptions { read_acks: None, write_acks: None, .. } => Ok(()),
            _ => check_acks(&options, access, (view.replicas(bucket.bucket.id), place)),
        });
        if let Err(error) = checked {
            return Call::Ready(Err(error));
        }
        if service.names_time(&request)
            && let Err(error) = self.core.check_clocks_agree()
        {
            return Call::Ready(Err(error));
        }
        let waits_for_disk = access != Access::Read && bucket.bucket.policy.durability == Durability::Fsync;
        let mut request = Some(request);
        if let Some(assignment) = place.alone()
            && !waits_for_disk
            && self.core.may_serve()
        {
            match self.execute_alone(view, bucket, (assignment, position), service, &mut request) {
                Ok(response) => return Call::Ready(Ok(response)),
                Err(Refusal::Failed(error)) => {
                    if error.kind == ErrorKind::Overloaded {
                        self.core.metrics.room.writes_refused.inc();
                    }
                    return Call::Ready(Err(error));
                }
                Err(Refusal::Stale) => {}
            }
        }
        let request = request.expect("a request that was refused as stale was not run");
        self.submit(bucket, position, access, service, request, options)
    }

    fn execute_alone<S: Service>(
        &self,
        view: &View,
        bucket: &BucketView,
        (assignment, position): (u64, Position),
        service: &'static S,
        request: &mut Option<S::Request>,
    ) -> Result<S::Response, Refusal> {
        let core = &self.core;
        let key = request.as_ref().map(|request| service.key(request).clone()).unwrap_or_default();
        let locus = Locus {
            position,
            key: &key,
            actor: core.actor(assignment),
            is_alone: true,
            others: Room::Ample,
            wall_ms: core.clock.wall_ms(),
        };
        let context = core.context(&bucket.bucket.policy);
        let executed = bucket.bucket.execute(&locus, context, view.epoch(), |context, cells| {
            let request = request.take().expect("the request is run once");
            let response = service.execute(context, request, cells);
            core.unless_clocks_differ(cells, response)
        })?;
        let response = executed.response?;
        core.metrics.answered_alone.inc();
        if executed.is_changed {
            core.syncer.mark_dirty();
        }
        Ok(response)
    }

    fn submit<S: Service>(
        &self,
        bucket: &BucketView,
        position: Position,
        access: Access,
        service: &'static S,
        request: S::Request,
        options: CallOptions,
    ) -> Call<S::Response> {
        let (sender, receiver) = oneshot::channel();
        let limit = self.core.settings.request_timeout();
        let began = self.core.now();
        self.core.metrics.coordinated.inc();
        self.core.submit(Work {
            bucket: bucket.bucket.id,
            key: service.key(&request).clone(),
            position,
            access,
            request: service.encode_request(&request),
            read_acks: options.read_acks,
            write_acks: options.write_acks,
            began,
            deadline: began.after(options.deadline.map_or(limit, |asked| asked.min(limit))),
            is_forwarded: false,
            reply_to: ReplyTo::Client(Asker { sender, is_read: access == Access::Read }),
            held: self.core.clients.memory.held(),
            is_overloaded: false,
        });
        Call::Pending(Pending::new(receiver, |bytes| service.decode_response(bytes)))
    }

    /// Changes the layout through its group: makes or deletes a bucket, changes nodes' roles.
    ///
    /// Waits until this node works with the change.
    ///
    /// # Errors
    /// `Conflict` when the command is refused, `Unavailable` without a majority of the group,
    /// `OutcomeUnknown` when the answer was lost: the same command may be given again. `Invalid` when this node does
    /// not run the service of a new bucket.
    pub async fn propose(&self, command: Command) -> Result<Applied, Error> {
        if let Command::CreateBucket { policy, .. } = &command {
            self.core.check_runs(&policy.service)?;
        }
        let before = self.core.view().map_or(0, |view| view.epoch());
        let deleted =
            if let Command::DeleteBucket { name } = &command { Some(name.to_string()) } else { None };
        let applied = self.core.propose_to_group(command).await.map_err(crate::forming::proposal_failed)?;
        let is_known = || match (applied, &deleted) {
            (Applied::Bucket(bucket), _) => self.has_bucket(bucket),
            (Applied::Changed { epoch }, _) => self.core.view().is_some_and(|view| view.epoch() >= epoch),
            (_, Some(name)) => self.bucket_named(name).is_none(),
            _ => true,
        };
        for _ in 0..200 {
            let is_change = matches!(applied, Applied::Changed { .. });
            if is_known() || !is_change && self.core.view().is_some_and(|view| view.epoch() > before + 1) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(applied)
    }

    /// Changes nodes' roles and buckets' copies, unless that takes copies or acknowledged writes away and is not forced.
    ///
    /// Waits until this node works with the change. `expected_epoch` is that of the layout that was planned for.
    ///
    /// # Errors
    /// Those of [`Node::propose`]; `Conflict` with the reason, too, when force would be needed, or does not do.
    pub async fn change(
        &self,
        changes: Changes,
        expected_epoch: Option<u64>,
        force: Force,
    ) -> Result<Applied, Error> {
        if let Force::On { named } = force {
            if let Some(objection) = self.core.objection_to_force(&changes, &named) {
                return Err(Error::new(ErrorKind::Conflict, format!("{objection}; nothing was changed")));
            }
            return self.propose(changes.command(expected_epoch)).await;
        }
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let layout = self.layout();
            if let Some(objection) = self.core.objection(&layout, &changes)? {
                return Err(Error::new(ErrorKind::Conflict, format!("{objection}; {ADVICE}")));
            }
            // What was checked is what must be changed.
            let checked = expected_epoch.or(Some(layout.epoch()));
            match self.propose(changes.clone().command(checked)).await {
                Err(error) if error.kind == ErrorKind::Conflict && expected_epoch.is_none() => {
                    tokio::time::sleep(CHANGE_REST).await;
                    if self.layout().epoch() == layout.epoch() {
                        return Err(error);
                    }
                }
                changed => return changed,
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the layout changes all the time; nothing was changed, try again",
        ))
    }

    /// What some changes of nodes' roles and buckets' copies would move, and how much that is. Nothing changes.
    ///
    /// # Errors
    /// `Conflict` when they would be refused.
    pub async fn plan(&self, changes: &Changes) -> Result<Proposal, Error> {
        self.core.propose_changes(changes).await
    }

    /// What it would come to if the ring were cut into so many partitions. Nothing changes.
    ///
    /// # Errors
    /// `Invalid` when there cannot be so many, `Conflict` when it would be refused.
    pub fn plan_split(&self, partitions: u32) -> Result<Proposal, Error> {
        self.core.propose_split(bits_of(partitions)?)
    }

    /// Cuts the ring into so many partitions, twice as many as now; done already when there are as many.
    ///
    /// Waits until this node works with the change. `expected_epoch` is that of the layout that was planned for.
    ///
    /// # Errors
    /// Those of [`Node::propose`]; `Invalid` when there cannot be so many.
    pub async fn split(&self, partitions: u32, expected_epoch: Option<u64>) -> Result<Applied, Error> {
        let bits = bits_of(partitions)?;
        let layout = self.layout();
        if layout.bits() == bits {
            return Ok(Applied::Changed { epoch: layout.epoch() });
        }
        // What is refused should not be in the log: older releases could not read it.
        self.core.propose_split(bits)?;
        self.propose(Command::Split { bits, expected_epoch }).await
    }

    /// About `count` keys from `cursor` on; each key that stays is seen at least once.
    ///
    /// # Errors
    /// `Unavailable` when no replica of a partition answers; go on with the same cursor.
    pub async fn scan(&self, bucket: BucketId, cursor: Cursor, count: usize) -> Result<ScanPage, Error> {
        self.scan_region(bucket, &Region::whole(), cursor, count).await
    }

    /// As [`Node::scan`], in a region alone.
    ///
    /// # Errors
    /// Those of [`Node::scan`].
    pub async fn scan_region(
        &self,
        bucket: BucketId,
        region: &Region,
        cursor: Cursor,
        count: usize,
    ) -> Result<ScanPage, Error> {
        self.core.scan(bucket, region, cursor, count).await
    }

    /// How many keys of a region a bucket holds, over all nodes, without expired ones. Each partition is in the region or
    /// is not.
    ///
    /// # Errors
    /// `Unavailable` when no replica of a partition answers.
    pub async fn count(&self, bucket: BucketId, region: &Region) -> Result<u64, Error> {
        self.core.count(bucket, region, Counted::Keys).await
    }

    /// How many of them will expire.
    ///
    /// # Errors
    /// `Unavailable` when no replica of a partition answers.
    pub async fn count_ending(&self, bucket: BucketId, region: &Region) -> Result<u64, Error> {
        self.core.count(bucket, region, Counted::Ending).await
    }

    /// Deletes every key of a bucket that was acknowledged before; how many there were. Keys that are written meanwhile
    /// may stay.
    ///
    /// # Errors
    /// `Unavailable` when too few replicas of a partition can be reached: nothing was done. `OutcomeUnknown` when they
    /// were lost on the way: some keys may be gone.
    pub async fn clear(&self, bucket: BucketId) -> Result<u64, Error> {
        self.clear_region(bucket, &Region::whole()).await
    }

    /// As [`Node::clear`], in a region alone.
    ///
    /// # Errors
    /// Those of [`Node::clear`].
    pub async fn clear_region(&self, bucket: BucketId, region: &Region) -> Result<u64, Error> {
        self.core.clear(bucket, region).await
    }

    /// The nodes that hold a key, in the order in which they are asked.
    #[must_use]
    pub fn preference_list(&self, bucket: BucketId, key: &[u8]) -> Vec<NodeId> {
        let view = self.core.view();
        let place = view.as_ref().and_then(|view| view.place(bucket, Position::of(key)));
        place.map(|(_, place)| place.replicas.to_vec()).unwrap_or_default()
    }

    /// Whether requests can be sent to a node; always so for this one.
    #[must_use]
    pub fn is_connected(&self, peer: NodeId) -> bool {
        self.core.is_reachable(peer)
    }

    /// Whether clients should be sent to a member; always so for this node.
    #[must_use]
    pub fn presence(&self, node: NodeId) -> Presence {
        self.core.presence(node)
    }

    /// Where Redis Cluster clients reach a member; empty where it has not told, which members of older releases never do.
    #[must_use]
    pub fn redis_cluster_address(&self, node: NodeId) -> String {
        self.core.redis_cluster_address(node)
    }

    /// How another member is believed to be: a hint, for people and for routing. Nothing where no gossip runs.
    #[must_use]
    pub fn member(&self, peer: NodeId) -> Option<MemberStatus> {
        self.core.gossip.member(peer, self.core.now())
    }

    /// Whether the cluster has agreed to this node's start, so that it answers for its copies.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        self.core.may_serve()
    }

    /// Whether this node founded its cluster in this start.
    #[must_use]
    pub fn has_founded(&self) -> bool {
        self.core.has_founded()
    }

    /// Whether this node can serve clients: its start is agreed on, and it reaches most of its peers.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.core.check_serves().is_ok()
    }

    /// Whether clients should be sent here: this node serves, and since its start it has caught up with every peer
    /// that it could reach. A peer that fails later changes nothing about that.
    ///
    /// # Errors
    /// Why not.
    pub fn is_ready(&self) -> Result<(), String> {
        self.core.readiness()
    }

    /// Why this node takes reads and deletions only, or reads alone, if so. It is ready all the same: it hands other
    /// writes to replicas with room.
    #[must_use]
    pub fn why_reads_only(&self) -> Option<String> {
        self.core.why_reads_only()
    }

    /// How much of its disk and of its memory for buckets this node uses, and what it still takes.
    #[must_use]
    pub fn spaces(&self) -> (Space, Space) {
        self.core.spaces()
    }

    /// What this node knows of its cluster, asking each member for its own part.
    ///
    /// # Errors
    /// `Unavailable` before the node has joined.
    pub async fn status(&self) -> Result<Status, Error> {
        self.core.status().await
    }

    /// What this node knows of the layout group; nothing before it has joined.
    #[must_use]
    pub fn layout_group(&self) -> Option<GroupStatus> {
        self.core.group.get().map(LayoutGroup::status)
    }

    /// How much clients may take of this node.
    #[must_use]
    pub fn client_limits(&self) -> &ClientLimits {
        &self.core.clients.limits
    }

    /// The memory for what clients have in flight.
    #[must_use]
    pub fn client_memory(&self) -> &ClientMemory {
        &self.core.clients.memory
    }

    /// Counts a transaction that a gateway runs as commands in order, not isolated from others.
    pub fn count_transaction(&self) {
        self.core.clients.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// The node's counters, in Prometheus' text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.core.metrics_text()
    }

    /// Milliseconds since the Unix epoch, as the members' clocks agree: the time by which values expire.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.core.agreed_ms()
    }

    /// How many milliseconds this node's own clock is ahead of the agreed time; behind when negative.
    #[must_use]
    pub fn clock_ahead_ms(&self) -> i64 {
        self.core.time.judgement().ahead_ms.get(&self.core.me).copied().unwrap_or(0)
    }

    /// Gets the reason when the node must not go on: a disk that failed, a directory that was rolled back.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.core.stop.subscribe()
    }

    /// Whether it stops because the cluster has let it go, as was asked.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.core.muster.has_left.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Finishes what is under way, flushes, says goodbye to the peers and stops. The node stays a member.
    ///
    /// # Errors
    /// `Unavailable` when the last flush failed, but for want of room; what was acknowledged as forced to disk is safe.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let deadline = self.core.now().after(self.core.settings.request_timeout());
        let leaving = self.core.leave_gossip();
        while self.core.requests.len() > 0 && self.core.now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(view) = self.core.view() {
            let peers = view.layout.nodes().keys().filter(|node| **node != self.core.me);
            let goodbyes =
                peers.map(|peer| self.core.ask(*peer, Request::Goodbye, Duration::from_millis(200)));
            futures::future::join_all(goodbyes).await;
        }
        leaving.await;
        if let Some(group) = self.core.group.get() {
            group.shutdown().await;
        }
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        if let Some(transport) = self.core.transport.get() {
            transport.shutdown();
        }
        self.core.leave_stock();
        match self.core.disk.sync() {
            Err(error) if error.passes() => {
                tracing::warn!(%error, "the last writes are with the system, and not forced to disk");
                Ok(())
            }
            synced => synced.map_err(|error| unavailable(error.to_string())),
        }
    }
}

/// How many bits name so many partitions.
fn bits_of(partitions: u32) -> Result<u8, Error> {
    let most = 1_u32 << limits::PARTITION_BITS_MAX;
    if partitions.is_power_of_two() && (2..=most).contains(&partitions) {
        return Ok(partitions.trailing_zeros() as u8);
    }
    let message =
        format!("there cannot be {partitions} partitions: a power of two from 2 to {most} is needed");
    Err(Error::new(ErrorKind::Invalid, message))
}

fn check<S: Service>(service: &S, bucket: &BucketView, request: &S::Request) -> Result<(), Error> {
    if service.key(request).len() > limits::KEY_BYTES_MAX {
        return Err(Error::new(ErrorKind::Invalid, "the key is longer than 4096 bytes"));
    }
    if bucket.bucket.policy.service != S::NAME {
        let message = format!("the bucket belongs to the service \"{}\"", bucket.bucket.policy.service);
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}
