//! Values by key: one application request for each call.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use slipring_apps::KV;
use slipring_apps::kv::{Condition, Expiry, Request as Ask, Response as Answer};
use slipring_model::limits;
use slipring_node::{CallOptions, Node};
use tonic::{Code, Request, Response, Status};

use super::deadline::Deadline;
use super::failure::{UNCHANGED, UNKNOWN, failed, invalid, out_of_turn, refused};
use super::generated::v1;
use super::scan::{self, Pages};
use super::{body, bucket_of};

/// How long the node goes on with a request whose client waits no more.
const GRACE: Duration = Duration::from_millis(50);
/// What a client is told whose deadline passes during a call.
const LATE: &str = "the call's deadline has passed before enough replicas had answered; slipring-outcome says whether \
                    anything may have changed";

/// The service `slipring.v1.Kv`.
pub(super) struct Kv(pub(super) Node);

#[tonic::async_trait]
impl v1::kv_server::Kv for Kv {
    type ScanStream = Pages;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        let v1::GetRequest { bucket, key, options } = request.into_inner();
        match self.call(&bucket, deadline, options, Ask::GetAll { key: key_of(key)? }).await? {
            Answer::All { values, context, expires_at } => {
                let bytes = values.iter().map(Bytes::len).sum();
                let message = v1::GetResponse { values, context, expires_at_ms: expires_at };
                body::answer(message, bytes, self.0.client_memory())
            }
            _ => Err(out_of_turn()),
        }
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        let put = request.into_inner();
        let condition = condition_of(put.condition)?;
        let expiry = match put.ttl_ms {
            None => Expiry::Default,
            Some(0) => return Err(invalid("ttl_ms must be above zero; leave it out for the bucket's own")),
            Some(ttl) => Expiry::At(self.0.wall_ms().saturating_add(ttl)),
        };
        let (key, value, seen) = (key_of(put.key)?, put.value, put.context);
        let ask = Ask::Set { key, value, expiry, condition, returns_previous: false, seen };
        match self.call(&put.bucket, deadline, put.options, ask).await? {
            Answer::Written { done: true, .. } => Ok(Response::new(v1::PutResponse {})),
            Answer::Written { done: false, .. } => Err(unmet(put.condition)),
            Answer::Conflict => Err(overtaken()),
            Answer::TooLarge => Err(too_large()),
            _ => Err(out_of_turn()),
        }
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        let v1::DeleteRequest { bucket, key, context, options } = request.into_inner();
        let ask = Ask::Delete { key: key_of(key)?, seen: context };
        match self.call(&bucket, deadline, options, ask).await? {
            Answer::Written { done, .. } => Ok(Response::new(v1::DeleteResponse { deleted: done })),
            Answer::Conflict => Err(overtaken()),
            _ => Err(out_of_turn()),
        }
    }

    async fn increment(
        &self,
        request: Request<v1::IncrementRequest>,
    ) -> Result<Response<v1::IncrementResponse>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        let v1::IncrementRequest { bucket, key, delta, options } = request.into_inner();
        match self.call(&bucket, deadline, options, Ask::Add { key: key_of(key)?, delta }).await? {
            Answer::Integer(value) => Ok(Response::new(v1::IncrementResponse { value })),
            Answer::NotANumber => Err(refused(
                Code::FailedPrecondition,
                "the value is no integer of 64 bits; put an integer there, or delete it, and try again",
            )),
            Answer::Overflow => {
                Err(refused(Code::OutOfRange, "the sum does not fit 64 bits; nothing was added"))
            }
            _ => Err(out_of_turn()),
        }
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Pages>, Status> {
        let deadline = Deadline::of(request.metadata())?;
        scan::pages(&self.0, deadline, request.into_inner()).map(Response::new)
    }
}

impl Kv {
    async fn call(
        &self,
        bucket: &str,
        deadline: Deadline,
        options: Option<v1::Options>,
        ask: Ask,
    ) -> Result<Answer, Status> {
        let outcome = if matches!(ask, Ask::GetAll { .. }) { UNCHANGED } else { UNKNOWN };
        // The node gives up a little later than the client, so that the client's deadline is what ends the call.
        let left = deadline.left().map(|left| left + GRACE);
        let options = options_of(options.unwrap_or_default(), left)?;
        let call = self.0.call(&KV, bucket_of(&self.0, bucket)?, ask, options);
        deadline.within(call.into_future(), outcome, LATE).await?.map_err(failed)
    }
}

fn options_of(options: v1::Options, left: Option<Duration>) -> Result<CallOptions, Status> {
    let acks = |name: &str, asked: Option<u32>| {
        let acks = asked.map(|asked| u8::try_from(asked).ok());
        match acks {
            None => Ok(None),
            Some(Some(acks)) if (1..=limits::REPLICAS_MAX).contains(&acks) => Ok(Some(acks)),
            _ => {
                Err(invalid(format!("{name} must lie in 1..={}, the copies of a key", limits::REPLICAS_MAX)))
            }
        }
    };
    let asked = match options.timeout_ms {
        Some(0) => return Err(invalid("timeout_ms must be above zero; leave it out for the node's own")),
        asked => asked.map(|asked| Duration::from_millis(asked.into())),
    };
    Ok(CallOptions {
        read_acks: acks("read_acks", options.read_acks)?,
        write_acks: acks("write_acks", options.write_acks)?,
        deadline: asked.into_iter().chain(left).min(),
    })
}

fn key_of(key: Bytes) -> Result<Bytes, Status> {
    if (1..=limits::KEY_BYTES_MAX).contains(&key.len()) {
        Ok(key)
    } else {
        Err(invalid(format!("a key has 1 to {} bytes, not {}", limits::KEY_BYTES_MAX, key.len())))
    }
}

fn condition_of(condition: i32) -> Result<Condition, Status> {
    match v1::Condition::try_from(condition) {
        Ok(v1::Condition::Unspecified) => Ok(Condition::Always),
        Ok(v1::Condition::IfAbsent) => Ok(Condition::IfAbsent),
        Ok(v1::Condition::IfPresent) => Ok(Condition::IfPresent),
        Err(_) => Err(invalid(format!("condition {condition} is not known here"))),
    }
}

fn unmet(condition: i32) -> Status {
    let there_is = if condition == v1::Condition::IfAbsent as i32 { "a value already" } else { "no value" };
    refused(Code::FailedPrecondition, format!("there is {there_is}; nothing was written"))
}

fn overtaken() -> Status {
    refused(Code::Aborted, "somebody has written since that context was read; read again")
}

fn too_large() -> Status {
    invalid(format!("a value has at most {} bytes", limits::VALUE_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_of_both_times_counts() {
        let options = |timeout_ms| v1::Options { timeout_ms, ..v1::Options::default() };
        let deadline = |asked, left| options_of(options(asked), left).expect("options").deadline;
        let (short, long) = (Duration::from_millis(100), Duration::from_millis(900));
        assert_eq!(deadline(Some(100), Some(long)), Some(short));
        assert_eq!(deadline(Some(900), Some(short)), Some(short));
        assert_eq!(deadline(None, Some(long)), Some(long));
        assert_eq!(deadline(None, None), None);
        assert!(options_of(options(Some(0)), None).is_err());
    }

    #[test]
    fn impossible_wishes_are_refused() {
        for acks in [0, 8, 256, 257, u32::MAX] {
            let read = v1::Options { read_acks: Some(acks), ..v1::Options::default() };
            let write = v1::Options { write_acks: Some(acks), ..v1::Options::default() };
            assert!(options_of(read, None).is_err() && options_of(write, None).is_err(), "{acks}");
        }
        assert!(condition_of(3).is_err() && condition_of(-1).is_err());
        assert!(key_of(Bytes::new()).is_err());
        assert!(key_of(Bytes::from(vec![b'k'; limits::KEY_BYTES_MAX])).is_ok());
        assert!(key_of(Bytes::from(vec![b'k'; limits::KEY_BYTES_MAX + 1])).is_err());
    }
}
