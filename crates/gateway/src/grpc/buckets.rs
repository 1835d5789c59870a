//! Buckets: making, listing, changing, deleting; and policies, to and fro.

use std::num::NonZeroU64;

use slipring_model::bucket::{Durability, EngineKind, OnConflict};
use slipring_model::{BucketId, BucketName, BucketPolicy, limits};
use slipring_node::{Force, Node};
use slipring_ring::{Applied, Changes, Command, Spread};
use tonic::{Request, Response, Status};

use super::deadline::Deadline;
use super::failure::{UNKNOWN, invalid, out_of_turn, proposal_failed};
use super::generated::v1;
use super::no_such_bucket;

/// What a client is told whose deadline passes while the layout group is asked.
const LATE: &str =
    "the call's deadline has passed and the change may have happened; giving it again is harmless";

/// The service `slipring.v1.Buckets`.
pub(super) struct Buckets(pub(super) Node);

#[tonic::async_trait]
impl v1::buckets_server::Buckets for Buckets {
    async fn create(
        &self,
        request: Request<v1::CreateBucketRequest>,
    ) -> Result<Response<v1::CreateBucketResponse>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        let wish = request.into_inner();
        let name = name_of(&wish.name)?;
        let preset = if wish.preset.is_empty() { "durable" } else { &wish.preset };
        let preset = BucketPolicy::preset(preset)
            .ok_or_else(|| invalid("there is no such preset: choose durable or cache"))?;
        let policy = policy_of(preset, wish.policy.unwrap_or_default())?;
        let command = Command::CreateBucket { name: name.clone(), policy: policy.clone() };
        let applied = deadline.within(self.0.propose(command), UNKNOWN, LATE).await?;
        match applied.map_err(proposal_failed)? {
            Applied::Bucket(id) => {
                let bucket = Some(described(id, name.to_string(), &policy));
                Ok(Response::new(v1::CreateBucketResponse { bucket }))
            }
            _ => Err(out_of_turn()),
        }
    }

    async fn list(
        &self,
        _request: Request<v1::ListBucketsRequest>,
    ) -> Result<Response<v1::ListBucketsResponse>, Status> {
        let layout = self.0.layout();
        let buckets =
            layout.buckets().iter().map(|(id, entry)| described(*id, entry.name.to_string(), &entry.policy));
        Ok(Response::new(v1::ListBucketsResponse { buckets: buckets.collect() }))
    }

    async fn change(
        &self,
        request: Request<v1::ChangeBucketRequest>,
    ) -> Result<Response<v1::ChangeBucketResponse>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        let v1::ChangeBucketRequest { name, replicas, force, expected_epoch } = request.into_inner();
        let layout = self.0.layout();
        let (id, entry) = layout.bucket_named(&name).ok_or_else(|| no_such_bucket(&name))?;
        let wish = v1::BucketPolicy { replicas: Some(replicas), ..v1::BucketPolicy::default() };
        let policy = policy_of(entry.policy.clone(), wish)?;
        let spreads = vec![Spread { bucket: id, replicas: policy.replicas }];
        let force = if force { Force::On { named: Vec::new() } } else { Force::Off };
        let changing = self.0.change(Changes { nodes: Vec::new(), spreads }, expected_epoch, force);
        let Applied::Changed { epoch } =
            deadline.within(changing, UNKNOWN, LATE).await?.map_err(proposal_failed)?
        else {
            return Err(out_of_turn());
        };
        let bucket = Some(described(id, name, &policy));
        Ok(Response::new(v1::ChangeBucketResponse { bucket, epoch }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteBucketRequest>,
    ) -> Result<Response<v1::DeleteBucketResponse>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        let name = name_of(&request.into_inner().name)?;
        let text = name.to_string();
        self.0.bucket_named(&text).ok_or_else(|| no_such_bucket(&text))?;
        let command = Command::DeleteBucket { name };
        deadline.within(self.0.propose(command), UNKNOWN, LATE).await?.map_err(proposal_failed)?;
        Ok(Response::new(v1::DeleteBucketResponse {}))
    }
}

/// A bucket, as clients see it.
pub(super) fn described(id: BucketId, name: String, policy: &BucketPolicy) -> v1::Bucket {
    let on_conflict = match policy.on_conflict {
        OnConflict::Latest => v1::OnConflict::Latest,
        OnConflict::Siblings => v1::OnConflict::Siblings,
    };
    let engine = match policy.engine {
        EngineKind::Disk => v1::Engine::Disk,
        EngineKind::Memory => v1::Engine::Memory,
    };
    let durability = match policy.durability {
        Durability::None => v1::Durability::None,
        Durability::Buffered => v1::Durability::Buffered,
        Durability::Fsync => v1::Durability::Fsync,
    };
    let policy = v1::BucketPolicy {
        service: Some(policy.service.clone()),
        replicas: Some(policy.replicas.into()),
        read_acks: policy.read_acks.map(u32::from),
        write_acks: policy.write_acks.map(u32::from),
        on_conflict: on_conflict.into(),
        engine: engine.into(),
        durability: durability.into(),
        ttl_ms: policy.ttl_ms.map(NonZeroU64::get),
    };
    v1::Bucket { number: id.0, name, policy: Some(policy) }
}

fn name_of(text: &str) -> Result<BucketName, Status> {
    text.parse().map_err(|error| invalid(format!("name: {error}")))
}

/// The preset with the client's wishes laid over it; checked.
fn policy_of(preset: BucketPolicy, wish: v1::BucketPolicy) -> Result<BucketPolicy, Status> {
    let unknown = |field: &str| invalid(format!("{field} has a value that is not known here"));
    let copies = |field: &str, wish: Option<u32>| match wish.map(u8::try_from) {
        None => Ok(None),
        Some(Ok(copies)) => Ok(Some(copies)),
        Some(Err(_)) => Err(invalid(format!("{field} must lie in 1..={}", limits::REPLICAS_MAX))),
    };
    let ttl_ms = match wish.ttl_ms {
        None => preset.ttl_ms,
        Some(ttl) => Some(NonZeroU64::new(ttl).ok_or_else(|| invalid("ttl_ms must be above zero"))?),
    };
    let on_conflict = v1::OnConflict::try_from(wish.on_conflict).map_err(|_| unknown("on_conflict"))?;
    let engine = v1::Engine::try_from(wish.engine).map_err(|_| unknown("engine"))?;
    let durability = v1::Durability::try_from(wish.durability).map_err(|_| unknown("durability"))?;
    let policy = BucketPolicy {
        service: wish.service.unwrap_or(preset.service),
        replicas: copies("replicas", wish.replicas)?.unwrap_or(preset.replicas),
        read_acks: copies("read_acks", wish.read_acks)?.or(preset.read_acks),
        write_acks: copies("write_acks", wish.write_acks)?.or(preset.write_acks),
        on_conflict: match on_conflict {
            v1::OnConflict::Unspecified => preset.on_conflict,
            v1::OnConflict::Latest => OnConflict::Latest,
            v1::OnConflict::Siblings => OnConflict::Siblings,
        },
        engine: match engine {
            v1::Engine::Unspecified => preset.engine,
            v1::Engine::Disk => EngineKind::Disk,
            v1::Engine::Memory => EngineKind::Memory,
        },
        durability: match durability {
            v1::Durability::Unspecified => preset.durability,
            v1::Durability::None => Durability::None,
            v1::Durability::Buffered => Durability::Buffered,
            v1::Durability::Fsync => Durability::Fsync,
        },
        ttl_ms,
    };
    policy.validate().map_err(invalid)?;
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_as_the_preset_has_it() {
        let policy = policy_of(BucketPolicy::cache(), v1::BucketPolicy::default());
        assert_eq!(policy.expect("valid"), BucketPolicy::cache());
    }

    #[test]
    fn a_policy_survives_the_way_to_the_client_and_back() {
        let wish = v1::BucketPolicy {
            replicas: Some(5),
            read_acks: Some(4),
            write_acks: Some(3),
            on_conflict: v1::OnConflict::Siblings.into(),
            durability: v1::Durability::Fsync.into(),
            ttl_ms: Some(1000),
            ..v1::BucketPolicy::default()
        };
        let policy = policy_of(BucketPolicy::durable(), wish).expect("valid");
        let told = described(BucketId(7), "x".to_owned(), &policy).policy.expect("a policy");
        assert_eq!((told.replicas, told.read_acks, told.ttl_ms), (Some(5), Some(4), Some(1000)));
        assert_eq!(policy_of(BucketPolicy::cache(), told).expect("valid"), policy);
    }

    #[test]
    fn impossible_policies_are_refused() {
        let none = v1::BucketPolicy::default;
        for wish in [
            v1::BucketPolicy { replicas: Some(0), ..none() },
            v1::BucketPolicy { replicas: Some(8), ..none() },
            v1::BucketPolicy { replicas: Some(256 + 3), ..none() },
            v1::BucketPolicy { write_acks: Some(256 + 1), ..none() },
            v1::BucketPolicy { read_acks: Some(4), ..none() },
            v1::BucketPolicy { ttl_ms: Some(0), ..none() },
            v1::BucketPolicy { engine: 9, ..none() },
            v1::BucketPolicy { on_conflict: -1, ..none() },
            v1::BucketPolicy { durability: 7, ..none() },
            v1::BucketPolicy { engine: v1::Engine::Memory.into(), ..none() },
        ] {
            let text = format!("{wish:?}");
            assert!(policy_of(BucketPolicy::durable(), wish).is_err(), "{text}");
        }
    }
}
