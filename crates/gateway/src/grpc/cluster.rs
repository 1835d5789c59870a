//! The cluster as this node sees it, and the layout document.

use std::collections::BTreeMap;

use slipring_model::{BucketId, NodeId, PartitionId, Room, Space};
use slipring_node::{BucketStatus, Node, NodeStatus, OwnStatus};
use slipring_ring::{Addresses, Layout, TableId};
use tonic::{Request, Response, Status};

use super::buckets::described;
use super::deadline::Deadline;
use super::failure::{UNCHANGED, failed};
use super::generated::v1;

/// The service `slipring.v1.Cluster`.
pub(super) struct Cluster(pub(super) Node);

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Cluster {
    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let late = "the call's deadline has passed before every member had answered; allow a second";
        let asking = Deadline::of(request.metadata())?.within(self.0.status(), UNCHANGED, late);
        let status = asking.await?.map_err(failed)?;
        Ok(Response::new(v1::StatusResponse {
            cluster: status.cluster.to_string(),
            node: status.node.to_string(),
            epoch: status.epoch,
            partitions: status.partitions.into(),
            nodes: status.nodes.into_iter().map(node).collect(),
            buckets: status.buckets.into_iter().map(bucket).collect(),
            layout_leader: status.layout_leader.map(|leader| leader.to_string()),
            layout_voters: status.layout_voters.iter().map(NodeId::to_string).collect(),
            clocks_agree: status.clocks_agree,
            moving: status.moving,
            under_replicated: status.under_replicated,
            rival: status.rival,
        }))
    }

    async fn layout(
        &self,
        _request: Request<v1::LayoutRequest>,
    ) -> Result<Response<v1::LayoutResponse>, Status> {
        Ok(Response::new(layout(&self.0.layout())))
    }
}

fn node(node: NodeStatus) -> v1::NodeStatus {
    v1::NodeStatus {
        id: node.id.to_string(),
        addresses: Some(addresses(&node.addresses)),
        zone: node.zone,
        weight: node.weight,
        incarnation: node.incarnation,
        is_connected: node.is_connected,
        own: node.own.map(own),
        clock_ahead_ms: node.clock_ahead_ms,
    }
}

fn own(own: OwnStatus) -> v1::OwnStatus {
    let OwnStatus { epoch, replicas, primaries, keys, hints, in_flight, disk, memory, .. } = own;
    let (disk, memory) = (Some(space(disk)), Some(space(memory)));
    v1::OwnStatus { epoch, replicas, primaries, keys, hints, in_flight, disk, memory }
}

fn space(space: Space) -> v1::Space {
    let Space { room, used, free, limit, reserve } = space;
    let room = match room {
        Room::Ample => v1::Room::Ample,
        Room::Scarce => v1::Room::Scarce,
        Room::Spent => v1::Room::Spent,
    };
    v1::Space {
        room: room.into(),
        used,
        free: (free != u64::MAX).then_some(free),
        limit: (limit != 0).then_some(limit),
        reserve,
    }
}

fn bucket(bucket: BucketStatus) -> v1::BucketStatus {
    let described = described(BucketId(bucket.number), bucket.name, &bucket.policy);
    v1::BucketStatus { bucket: Some(described), copies: bucket.copies.into() }
}

fn addresses(addresses: &Addresses) -> v1::Addresses {
    let Addresses { peer, redis, http, redis_cluster } = addresses.clone();
    v1::Addresses { peer, redis, http, redis_cluster }
}

fn layout(layout: &Layout) -> v1::LayoutResponse {
    let places: BTreeMap<NodeId, u32> = layout.nodes().keys().copied().zip(0..).collect();
    let nodes = layout.nodes().iter().map(|(id, entry)| v1::LayoutNode {
        id: id.to_string(),
        addresses: Some(addresses(&entry.addresses)),
        zone: entry.role.zone.clone(),
        weight: entry.role.weight,
    });
    let buckets =
        layout.buckets().iter().map(|(id, entry)| described(*id, entry.name.to_string(), &entry.policy));
    let mut tables: BTreeMap<TableId, Vec<BucketId>> = BTreeMap::new();
    for (id, entry) in layout.buckets() {
        tables.entry(entry.table(*id)).or_default().push(*id);
    }
    v1::LayoutResponse {
        cluster: layout.cluster().to_string(),
        epoch: layout.epoch(),
        bits: layout.bits().into(),
        nodes: nodes.collect(),
        buckets: buckets.collect(),
        tables: tables.values().filter_map(|buckets| table(layout, &places, buckets)).collect(),
    }
}

/// Who holds the partitions of buckets that share a table: those of any of them.
fn table(layout: &Layout, places: &BTreeMap<NodeId, u32>, buckets: &[BucketId]) -> Option<v1::LayoutTable> {
    let bucket = buckets.first()?;
    let copies = layout.buckets().get(bucket)?.policy.replicas;
    let partitions = (0..layout.partition_count()).map(|number| {
        let replicas = layout.replicas(*bucket, PartitionId(number)).iter();
        let nodes = replicas.filter_map(|replica| places.get(&replica.node).copied());
        v1::LayoutPartition { nodes: nodes.collect() }
    });
    let buckets = buckets.iter().map(|id| id.0).collect();
    Some(v1::LayoutTable { replicas: copies.into(), partitions: partitions.collect(), buckets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_without_a_bound_has_no_numbers_for_it() {
        let told = space(Space { room: Room::Scarce, used: 5, free: 7, limit: 12, reserve: 9 });
        let expected = v1::Space { room: 2, used: 5, free: Some(7), limit: Some(12), reserve: 9 };
        assert_eq!(told, expected);
        let unbounded = v1::Space { room: 1, used: 0, free: None, limit: None, reserve: 0 };
        assert_eq!(space(Space::default()), unbounded);
    }
}
