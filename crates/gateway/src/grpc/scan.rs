//! A walk over the keys of a bucket, as a stream of pages.
//!
//! A page is looked up only when the client has taken the one before it: a slow client holds a cursor, nothing
//! else.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, try_unfold};
use slipring_model::{BucketId, Cursor, limits};
use slipring_node::Node;
use tonic::Status;

use super::bucket_of;
use super::deadline::Deadline;
use super::failure::{UNCHANGED, failed, invalid};
use super::generated::v1::{ScanRequest, ScanResponse};

/// Keys looked at for one page when the client does not say.
const PAGE_KEYS: usize = 256;

/// The answers of one scan.
pub(super) type Pages = BoxStream<'static, Result<ScanResponse, Status>>;

/// Where a walk is.
struct Walk {
    node: Node,
    bucket: BucketId,
    prefix: Bytes,
    page_keys: usize,
    deadline: Deadline,
    cursor: Cursor,
}

/// Walks from the request's cursor to the end.
pub(super) fn pages(node: &Node, deadline: Deadline, request: ScanRequest) -> Result<Pages, Status> {
    let bucket = bucket_of(node, &request.bucket)?;
    let page_keys = match request.page_keys as usize {
        0 => PAGE_KEYS,
        asked @ 1..=limits::PAGE_RECORDS_MAX => asked,
        _ => return Err(invalid(format!("page_keys must lie in 1..={}", limits::PAGE_RECORDS_MAX))),
    };
    let ScanRequest { prefix, cursor, .. } = request;
    let cursor = Cursor::new(cursor)
        .ok_or_else(|| invalid("cursor must be 0 or the cursor of an answer: it is below 2^53".to_owned()))?;
    let walk = Walk { node: node.clone(), bucket, prefix, page_keys, deadline, cursor };
    Ok(try_unfold(Some(walk), |walk| async {
        let Some(mut walk) = walk else { return Ok(None) };
        let page = walk.next().await?;
        let rest = if page.cursor == 0 { None } else { Some(walk) };
        Ok(Some((page, rest)))
    })
    .boxed())
}

impl Walk {
    /// The next page with a key that is asked for, or the last one, which may have none.
    async fn next(&mut self) -> Result<ScanResponse, Status> {
        loop {
            let looking = self.node.scan(self.bucket, self.cursor, self.page_keys);
            let late = "the call's deadline has passed; scan on from the last cursor";
            let page = self.deadline.within(looking, UNCHANGED, late).await?.map_err(failed)?;
            self.cursor = page.cursor;
            let keys: Vec<Bytes> =
                page.keys.into_iter().filter(|key| key.starts_with(&self.prefix)).collect();
            if !keys.is_empty() || page.cursor.is_start() {
                return Ok(ScanResponse { keys, cursor: page.cursor.number() });
            }
        }
    }
}
