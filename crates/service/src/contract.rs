//! The contract between an application and the platform.
//!
//! Invariant: `execute` is deterministic: time and randomness come from the context alone.

use bytes::Bytes;
use slipring_model::Error;

use crate::Cells;

/// How a request uses the cell of its key; it decides which messages the request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Changes nothing; sees every write acknowledged before it.
    Read,
    /// Changes the cell without looking at its value: no read from other replicas comes first.
    BlindWrite,
    /// Looks before it changes: a quorum is read first, on the first healthy replica of the key.
    ReadModifyWrite,
}

/// The only time and randomness a service may use.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Milliseconds since the Unix epoch when the request was coordinated.
    pub now_ms: u64,
    /// A number drawn for this request.
    pub random: u64,
    /// Milliseconds until values expire whose request names no time; the bucket's policy.
    pub default_ttl_ms: Option<u64>,
    /// Whether concurrent values are all shown to the client instead of the latest.
    pub keeps_siblings: bool,
}

/// An application: one deterministic function over the cell of a key.
pub trait Service: Send + Sync + 'static {
    /// What clients ask.
    type Request: Send + 'static;
    /// What they are told.
    type Response: Send + 'static;

    /// The name buckets use in their policy.
    const NAME: &'static str;

    /// The key a request belongs to.
    fn key<'r>(&self, request: &'r Self::Request) -> &'r Bytes;

    /// How a request uses its cell.
    fn access(&self, request: &Self::Request) -> Access;

    /// Whether the request names an instant that was reckoned from [`Context::now_ms`] or its like: where the nodes' clocks
    /// disagree about the time, it is refused.
    fn names_time(&self, request: &Self::Request) -> bool {
        let _ = request;
        false
    }

    /// Answers a request, changing the cell through `cells`.
    fn execute(&self, context: &Context, request: Self::Request, cells: &mut Cells<'_>) -> Self::Response;

    /// Writes a request for another node.
    fn encode_request(&self, request: &Self::Request) -> Bytes;

    /// Reads a request another node wrote.
    ///
    /// # Errors
    /// `Invalid` when the bytes are not a request this version knows.
    fn decode_request(&self, bytes: Bytes) -> Result<Self::Request, Error>;

    /// Writes a response for another node.
    fn encode_response(&self, response: &Self::Response) -> Bytes;

    /// Reads a response another node wrote.
    ///
    /// # Errors
    /// `Invalid` when the bytes are not a response this version knows.
    fn decode_response(&self, bytes: Bytes) -> Result<Self::Response, Error>;
}
