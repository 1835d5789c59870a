//! Proposing: a command on its way to the group's leader, and there into the log.
//!
//! What older releases could not read is asked about on the leader before it is appended, on the very layout that it
//! is for: all that lies before it in the log is applied by then, and nothing comes in between.
//!
//! Invariant: no member ever finds a command in the log that it cannot read.

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use slipring_model::Versions;
use slipring_ring::{Applied, Command};
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{Instant, timeout_at};

use crate::courier::CourierError;
use crate::group::{LayoutGroup, ProposeError};
use crate::protocol::{Answer, Call, Outcome, Proposal, decode};

/// How long to rest before a proposal looks for the leader again.
const LEADER_REST: Duration = Duration::from_millis(50);

/// The leave to append a command, until it is dropped.
enum Turn<'g> {
    /// Others may append at the same time.
    Shared { _turn: RwLockReadGuard<'g, ()> },
    /// Nobody else may.
    Alone { _turn: RwLockWriteGuard<'g, ()> },
}

impl LayoutGroup {
    /// Proposes a command, wherever the leader is, until `deadline` has passed.
    ///
    /// Commands may be repeated without harm, so one whose fate is not known is proposed again; a deletion,
    /// which would then find nothing to delete, is not.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, command: Command, deadline: Duration) -> Result<Applied, ProposeError> {
        let deadline = Instant::now() + deadline;
        let is_repeatable = !matches!(command, Command::DeleteBucket { .. });
        let mut may_have_happened = false;
        while Instant::now() < deadline {
            let answer = self.propose_once(&command, deadline).await;
            match answer {
                Some(Answer::Proposed(Outcome::Applied(applied))) => return Ok(applied),
                Some(Answer::Proposed(Outcome::Refused(refused))) => return Err(refused.into()),
                Some(Answer::NotLeading { may_have_happened: false }) => {}
                _ => may_have_happened = true,
            }
            if may_have_happened && !is_repeatable {
                break;
            }
            tokio::time::sleep(LEADER_REST).await;
        }
        if may_have_happened {
            let message = "the layout group did not confirm the change in time; it may have happened";
            return Err(ProposeError::Unknown(message.to_owned()));
        }
        let message =
            "the layout group has no leader: a majority of its voters must be up to change the layout";
        Err(ProposeError::Unavailable(message.to_owned()))
    }

    async fn propose_once(&self, command: &Command, deadline: Instant) -> Option<Answer> {
        if self.is_leader() {
            let proposing = self.propose_here(command.clone(), deadline);
            return Some(DeterministicRng::<TokioRuntime>::scope(self.seed ^ 3, proposing).await);
        }
        let Some(leader) = self.leader() else {
            return Some(Answer::NotLeading { may_have_happened: false });
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let call = Call::Propose { command: command.clone(), deadline_ms };
        match self.lines.call(leader, call, left).await {
            Ok(bytes) => decode(&bytes).ok(),
            Err(CourierError::NotSent | CourierError::Refused(_)) => {
                Some(Answer::NotLeading { may_have_happened: false })
            }
            Err(CourierError::Unreachable | CourierError::TimedOut) => None,
        }
    }

    /// Proposes a command if this member leads; nobody else is asked.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose_leading(
        &self,
        command: Command,
        patience: Duration,
    ) -> Result<Applied, ProposeError> {
        let proposing = self.propose_here(command, Instant::now() + patience);
        match DeterministicRng::<TokioRuntime>::scope(self.seed ^ 3, proposing).await {
            Answer::Proposed(Outcome::Applied(applied)) => Ok(applied),
            Answer::Proposed(Outcome::Refused(refused)) => Err(refused.into()),
            Answer::NotLeading { may_have_happened: false } => {
                Err(ProposeError::Unavailable("this node does not lead the layout group any more".to_owned()))
            }
            _ => Err(ProposeError::Unknown(
                "the change was not confirmed in time; it may have happened".to_owned(),
            )),
        }
    }

    /// Proposes a command if this member leads.
    pub(crate) async fn propose_here(&self, command: Command, deadline: Instant) -> Answer {
        let _turn = match timeout_at(deadline, self.turn(&command)).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(answer)) => return answer,
            Err(_) => return Answer::NotLeading { may_have_happened: false },
        };
        match timeout_at(deadline, self.raft.client_write(Proposal::Change(Box::new(command)))).await {
            Ok(Ok(response)) => Answer::Proposed(response.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Answer::NotLeading { may_have_happened: false }
            }
            Ok(Err(_)) | Err(_) => Answer::NotLeading { may_have_happened: true },
        }
    }

    /// Waits until a command may be appended.
    ///
    /// # Errors
    /// The answer when it may not; nothing was appended.
    async fn turn(&self, command: &Command) -> Result<Turn<'_>, Answer> {
        if command.level() <= Versions::UNTOLD.newest {
            return Ok(Turn::Shared { _turn: self.turns.read().await });
        }
        let turn = self.turns.write().await;
        // Once this is applied, so is all before it: what an earlier leader left, and what nobody waits for any more.
        let barrier = self.raft.write_blank().await;
        let layout = barrier.ok().and_then(|_| self.layout().borrow().clone());
        let layout = layout.ok_or(Answer::NotLeading { may_have_happened: false })?;
        layout.check(command).map_err(|refused| Answer::Proposed(Outcome::Refused(refused)))?;
        Ok(Turn::Alone { _turn: turn })
    }
}

#[cfg(test)]
mod tests;
