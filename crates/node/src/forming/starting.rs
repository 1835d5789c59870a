//! Starting with others that belong to no cluster either: the machine that decides who founds, given what it asks for.

use std::time::Duration;

use slipring_discovery::Discovery;
use slipring_membership::founding::{Attempt, Effect, Founding, Input, Refusal, Standing};
use slipring_storage::MetaStore;

use super::Means;
use super::introduction::named;
use super::waiting::Waiting;
use crate::builder::StartError;
use crate::core::Core;
use crate::identity::Membership;

/// Whom this node has promised to follow.
const PROMISE: &str = "forming/promise";
const NO_PROMISE: &[u8] = b"null";
/// The rest between two rounds of introductions.
const REST: Duration = Duration::from_millis(300);

impl Core {
    /// Introduces this node to others until one of them, or itself, founds, or one is a member already.
    pub(super) async fn start_with_others(
        &self,
        seeds: &dyn Discovery,
        expected: u32,
        means: &Means,
    ) -> Result<Membership, StartError> {
        let founding = Founding::new(self.me, self.incarnation, expected, promise(&self.meta)?);
        *self.acquaintance.founding.lock() = Some(founding);
        seeds.announce(&self.addresses.peer);
        let mut waiting = Waiting::new(seeds);
        loop {
            let mut addresses = seeds.candidates().await;
            let listed = addresses.len();
            addresses.extend(self.acquaintance.addresses(self.now()));
            addresses.sort();
            addresses.dedup();
            let survey = self.survey(addresses).await;
            match self.decide() {
                Some(Effect::Found) => return self.found(means),
                Some(Effect::Refuse(refusal)) => return Err(self.refused(refusal, expected)),
                _ => {}
            }
            if let Some(membership) = self.join_one_of(&survey.members()?).await? {
                return Ok(membership);
            }
            if let Some(reason) = self.stop.borrow().clone() {
                return Err(StartError::Group(reason));
            }
            waiting.tell(&survey, || self.progress(expected, listed));
            tokio::time::sleep(REST).await;
        }
    }

    /// A node has told its standing.
    pub(super) fn heard_of(&self, standing: Standing) {
        self.drive(Input::Heard(standing));
    }

    fn decide(&self) -> Option<Effect> {
        self.drive(Input::Asked)
    }

    /// Gives the machine an input and puts promises on disk before anybody hears of them; what else is to be done.
    fn drive(&self, input: Input) -> Option<Effect> {
        let mut founding = self.acquaintance.founding.lock();
        let founding = founding.as_mut()?;
        let mut effects = Vec::new();
        let promised = founding.standing().promised;
        founding.handle(self.now(), input, &mut effects);
        if promised.is_some() && founding.standing().promised.is_none() {
            // A promise that stays on disk binds a later start once more; nothing worse.
            if let Err(error) = self.meta.put(&[(PROMISE, NO_PROMISE)]) {
                tracing::warn!(%error, "a promise that is over could not be forgotten");
            }
        }
        let mut rest = None;
        for effect in effects {
            match effect {
                Effect::Persist(attempt) => match keep_promise(&self.meta, attempt) {
                    Ok(()) => founding.handle(self.now(), Input::Persisted(attempt), &mut Vec::new()),
                    Err(error) => self.give_up(format!("a promise cannot be kept: {error}")),
                },
                other => rest = Some(other),
            }
        }
        rest
    }

    fn refused(&self, refusal: Refusal, ours: u32) -> StartError {
        match refusal {
            Refusal::Mismatch { node, expected } => {
                StartError::Mismatch { other: self.acquaintance.place_of(node), theirs: expected, ours }
            }
            Refusal::TwoClusters([first, second]) => {
                let name = |(node, cluster)| named(&self.acquaintance.place_of(node), cluster);
                StartError::TwoClusters { first: name(first), second: name(second) }
            }
        }
    }

    fn progress(&self, expected: u32, listed: usize) -> String {
        let founding = self.acquaintance.founding.lock();
        let now = self.now();
        let seen = founding.as_ref().map_or(0, |founding| founding.seen(now));
        let awaited = founding.as_ref().and_then(|founding| founding.awaited(now));
        let story = format!("{seen} of {expected} nodes seen, {listed} addresses known");
        match awaited.map(|node| self.acquaintance.place_of(node)) {
            Some(place) => format!(
                "{story}; this node has promised to follow {place}, which may have founded a cluster, and waits for it: \
                 if it is gone for good, remove the data directories of all nodes that say so"
            ),
            None => story,
        }
    }
}

fn promise(meta: &MetaStore) -> Result<Option<Attempt>, StartError> {
    let read = |json: Vec<u8>| serde_json::from_slice(&json).map_err(|_| StartError::DamagedIdentity);
    Ok(meta.get(PROMISE)?.map(read).transpose()?.flatten())
}

fn keep_promise(meta: &MetaStore, attempt: Attempt) -> Result<(), slipring_storage::Error> {
    let json = serde_json::to_vec(&attempt).expect("an attempt is plain data");
    meta.put(&[(PROMISE, &json)])
}
