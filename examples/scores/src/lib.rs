//! A service of one's own: the best score of each player.
//!
//! A score is raised on one replica at a time while all is well. When nodes die or are cut off, two replicas may
//! raise the same player's score without knowing of each other, and the cell then holds both: a service that
//! looks at all of them and keeps the best loses nothing. One that looks at the latest alone does: [`CARELESS`]
//! has that bug, and the simulator finds it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slipring_model::{Error, ErrorKind};
use slipring_service::{Access, Cells, Context, Service};

/// Keeps the best score of each player.
#[derive(Debug)]
pub struct Scores {
    sees_latest_only: bool,
}

/// The service as it should be.
pub static SCORES: Scores = Scores { sees_latest_only: false };
/// The service with a bug: of concurrent scores it sees only the one written last.
pub static CARELESS: Scores = Scores { sees_latest_only: true };

/// What players ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Raises a player's best score, unless it is higher already. Response: the best.
    Raise {
        /// Whose.
        player: Bytes,
        /// The score.
        score: u64,
    },
    /// A player's best score, 0 to begin with.
    Best {
        /// Whose.
        player: Bytes,
    },
    /// Forgets a player.
    Forget {
        /// Whom.
        player: Bytes,
    },
}

impl Scores {
    fn best(&self, cells: &Cells<'_>) -> u64 {
        let score = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_be_bytes);
        if self.sees_latest_only {
            return cells.value().map_or(0, |value| score(&value.bytes));
        }
        cells.siblings().map(score).max().unwrap_or(0)
    }
}

impl Service for Scores {
    type Request = Request;
    type Response = u64;

    const NAME: &'static str = "scores";

    fn key<'r>(&self, request: &'r Request) -> &'r Bytes {
        match request {
            Request::Raise { player, .. } | Request::Best { player } | Request::Forget { player } => player,
        }
    }

    fn access(&self, request: &Request) -> Access {
        match request {
            Request::Best { .. } => Access::Read,
            Request::Raise { .. } | Request::Forget { .. } => Access::ReadModifyWrite,
        }
    }

    fn execute(&self, _context: &Context, request: Request, cells: &mut Cells<'_>) -> u64 {
        let best = self.best(cells);
        match request {
            Request::Best { .. } => best,
            Request::Raise { score, .. } => {
                let raised = best.max(score);
                // Also when the score is no higher: what was concurrent becomes one again.
                cells.put(raised.to_be_bytes().to_vec(), None);
                raised
            }
            Request::Forget { .. } => {
                cells.remove();
                0
            }
        }
    }

    fn encode_request(&self, request: &Request) -> Bytes {
        postcard::to_allocvec(request).expect("a request is plain data").into()
    }

    fn decode_request(&self, bytes: Bytes) -> Result<Request, Error> {
        postcard::from_bytes(&bytes).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))
    }

    fn encode_response(&self, response: &u64) -> Bytes {
        response.to_be_bytes().to_vec().into()
    }

    fn decode_response(&self, bytes: Bytes) -> Result<u64, Error> {
        let malformed = |_| Error::new(ErrorKind::Invalid, "a score has eight bytes");
        bytes.as_ref().try_into().map(u64::from_be_bytes).map_err(malformed)
    }
}
