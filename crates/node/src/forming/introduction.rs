//! Introductions: what nodes tell each other before they belong to the same cluster, and asking many at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use slipring_discovery::StaticSeeds;
use slipring_membership::founding::{Founding, Standing};
use slipring_model::{ClusterId, Error, ErrorKind, Moment, NodeId};
use slipring_transport::AskError;
use slipring_wire::{Reply, Request};

use crate::builder::StartError;
use crate::core::Core;

/// How many addresses are asked at a time, and how long each has to answer. As many silent ones as a source is believed
/// and others can tell of must not outlast the time for which a node that was heard counts as present.
const ASKED_AT_ONCE: usize = 128;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer the others have, once a member has answered: one of another cluster should be heard.
const GRACE: Duration = Duration::from_millis(500);
/// Addresses of nodes that were heard, told on or believed; and for how long after they were heard of last.
const ADDRESSES_MAX: usize = 64;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// What a node tells another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Introduction {
    pub(super) standing: Standing,
    /// Where it is reached.
    address: String,
    /// Where others are that start now.
    others: Vec<String>,
}

/// Whom a node has met before it was a member.
#[derive(Default)]
pub(crate) struct Acquaintance {
    /// Decides whether this node founds; none while it will not.
    pub(super) founding: Mutex<Option<Founding>>,
    /// Where nodes were heard that start at the same time.
    heard: Mutex<Recent<NodeId, String>>,
    /// Where others heard some.
    told: Mutex<Recent<String, ()>>,
}

/// What was heard lately, and a little of what was heard before, as far as there is room.
struct Recent<K, V>(BTreeMap<K, (V, Moment)>);

/// A node that has answered, and where.
pub(super) struct Answer {
    pub(super) address: String,
    pub(super) standing: Standing,
}

/// What came of asking.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) answers: Vec<Answer>,
    /// Who has not answered, and why, where that is known.
    pub(super) silent: Vec<(String, Option<String>)>,
    /// Whether this node itself was among those that were asked, and answered.
    pub(super) has_met_itself: bool,
    /// Who will have nothing to do with this node, and why.
    pub(super) refusal: Option<(String, String)>,
}

/// Why there is no introduction.
pub(super) enum Unmet {
    Silent(String),
    Refused(String),
}

impl Survey {
    /// # Errors
    /// [`StartError::Refused`]: nobody has answered but those that will have nothing to do with this node.
    pub(super) fn check_not_refused(&self) -> Result<(), StartError> {
        match &self.refusal {
            Some((address, reason)) if self.answers.is_empty() => {
                Err(StartError::Refused { address: address.clone(), reason: reason.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The members among those that have answered; they are of one cluster.
    ///
    /// # Errors
    /// [`StartError::TwoClusters`]: they are not.
    pub(super) fn members(&self) -> Result<Vec<&Answer>, StartError> {
        let members: Vec<&Answer> = self.answers.iter().filter(|answer| answer.is_member()).collect();
        let other = members.iter().find(|answer| {
            members.first().is_some_and(|first| first.standing.cluster != answer.standing.cluster)
        });
        match (members.first(), other) {
            (Some(first), Some(other)) => {
                Err(StartError::TwoClusters { first: first.name(), second: other.name() })
            }
            _ => Ok(members),
        }
    }
}

impl Answer {
    fn is_member(&self) -> bool {
        self.standing.cluster.is_some()
    }

    fn name(&self) -> String {
        named(&self.address, self.standing.cluster.unwrap_or_default())
    }
}

pub(super) fn named(whom: &str, cluster: ClusterId) -> String {
    format!("{whom} (cluster {})", cluster.short())
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V> Recent<K, V> {
    fn note(&mut self, now: Moment, key: K, value: V) {
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, (_, at)| is_recent(now, *at));
        }
        if self.0.len() < ADDRESSES_MAX || self.0.contains_key(&key) {
            self.0.insert(key, (value, now));
        }
    }

    fn iter(&self, now: Moment) -> impl Iterator<Item = (&K, &V)> {
        let recent = self.0.iter().filter(move |(_, (_, at))| is_recent(now, *at));
        recent.map(|(key, (value, _))| (key, value))
    }
}

fn is_recent(now: Moment, at: Moment) -> bool {
    now.since(at) <= FORGOTTEN_AFTER
}

impl Acquaintance {
    /// Where nodes that start at the same time may be found, by what was heard lately.
    pub(super) fn addresses(&self, now: Moment) -> Vec<String> {
        let told: Vec<String> = self.told.lock().iter(now).map(|(address, ())| address.clone()).collect();
        self.heard(now).into_iter().chain(told).collect()
    }

    /// Where nodes were heard lately that start at the same time.
    fn heard(&self, now: Moment) -> Vec<String> {
        self.heard.lock().iter(now).map(|(_, address)| address.clone()).collect()
    }

    /// Where a node was heard, for people; they may want to know of one that has long been silent.
    pub(super) fn place_of(&self, node: NodeId) -> String {
        let heard = self.heard.lock().0.get(&node).map(|(address, _)| address.clone());
        heard.unwrap_or_else(|| format!("node {}", node.short()))
    }

    fn note(&self, now: Moment, introduction: &Introduction) {
        let is_address = |address: &&String| StaticSeeds::new([(*address).clone()]).is_ok();
        if is_address(&&introduction.address) {
            self.heard.lock().note(now, introduction.standing.node, introduction.address.clone());
        }
        let mut told = self.told.lock();
        for address in introduction.others.iter().take(ADDRESSES_MAX).filter(is_address) {
            told.note(now, address.clone(), ());
        }
    }
}

impl Core {
    /// What this node says of itself now.
    fn introduction(&self) -> Introduction {
        let cluster = self.cluster.get().copied();
        let cluster = cluster.or(self.identity.membership.map(|membership| membership.cluster));
        let starting = self.acquaintance.founding.lock().as_ref().map(Founding::standing);
        let standing = match (cluster, starting) {
            (Some(cluster), _) => Standing::member(self.me, self.incarnation, cluster),
            (None, Some(standing)) => standing,
            (None, None) => Standing::joiner(self.me, self.incarnation),
        };
        let others = self.acquaintance.heard(self.now());
        Introduction { standing, address: self.addresses.peer.clone(), others }
    }

    /// Answers a node that has introduced itself.
    ///
    /// # Errors
    /// It cannot be read, or speaks for another node.
    pub(crate) fn meet(&self, asker: NodeId, introduction: &Bytes) -> Result<Reply, Error> {
        let introduction: Introduction = serde_json::from_slice(introduction).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the introduction cannot be read: {error}"))
        })?;
        if introduction.standing.node != asker {
            return Err(Error::new(ErrorKind::Invalid, "a node may introduce nobody but itself"));
        }
        self.heard(&introduction);
        Ok(Reply::Introduced(self.introduction_json()))
    }

    fn introduction_json(&self) -> Bytes {
        serde_json::to_vec(&self.introduction()).expect("an introduction is plain data").into()
    }

    fn heard(&self, introduction: &Introduction) {
        let is_me = introduction.standing.node == self.me;
        if is_me || self.acquaintance.founding.lock().is_none() {
            return;
        }
        self.acquaintance.note(self.now(), introduction);
        self.heard_of(introduction.standing);
    }

    /// Introduces this node at each address, many at a time; leaves out the answers of this node itself.
    pub(super) async fn survey(&self, addresses: Vec<String>) -> Survey {
        let mut silent: BTreeMap<String, Option<String>> =
            addresses.iter().map(|address| (address.clone(), None)).collect();
        let asked = addresses.into_iter().map(|address| async {
            let answer = self.introduce(&address).await;
            (address, answer)
        });
        let mut asked = std::pin::pin!(futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE));
        let mut answers: Vec<Answer> = Vec::new();
        let (mut grace, mut refusal) = (None, None);
        loop {
            let until = grace.unwrap_or_else(|| tokio::time::Instant::now() + ASK_TIMEOUT * 2);
            let Ok(next) = tokio::time::timeout_at(until, asked.next()).await else { break };
            let Some((address, answer)) = next else { break };
            match answer {
                Ok(introduction) => {
                    silent.remove(&address);
                    self.heard(&introduction);
                    let answer = Answer { address, standing: introduction.standing };
                    if answer.is_member() && grace.is_none() {
                        grace = Some(tokio::time::Instant::now() + GRACE);
                    }
                    answers.push(answer);
                }
                Err(Unmet::Silent(reason)) => drop(silent.insert(address, Some(reason))),
                Err(Unmet::Refused(reason)) => {
                    silent.insert(address.clone(), Some(reason.clone()));
                    refusal.get_or_insert((address, reason));
                }
            }
        }
        let all = answers.len();
        answers.retain(|answer| answer.standing.node != self.me);
        let has_met_itself = answers.len() < all;
        Survey { answers, silent: silent.into_iter().collect(), has_met_itself, refusal }
    }

    /// Introduces this node at an address.
    pub(super) async fn introduce(&self, address: &str) -> Result<Introduction, Unmet> {
        let transport = self.transport.get().ok_or_else(|| Unmet::Silent("no transport".to_owned()))?;
        let request = Request::Introduce(self.introduction_json());
        let silent = |reason: &dyn std::fmt::Display| Unmet::Silent(format!("{address}: {reason}"));
        match transport.ask(address.to_owned(), request, ASK_TIMEOUT).await {
            Ok((hello, Reply::Introduced(json))) => {
                let introduction: Introduction = serde_json::from_slice(&json)
                    .map_err(|error| silent(&format_args!("its introduction cannot be read: {error}")))?;
                let speaks_for_itself = introduction.standing.node == hello.node;
                speaks_for_itself.then_some(introduction).ok_or_else(|| silent(&"it introduced another node"))
            }
            Ok((_, Reply::Failed { message, .. })) => Err(silent(&message)),
            Ok(_) => Err(silent(&"it answered out of turn")),
            Err(AskError::Refused { reason, .. }) => Err(Unmet::Refused(reason)),
            Err(error) => Err(Unmet::Silent(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        NodeId([u8::try_from(number).expect("few"); 32])
    }

    fn introduction(number: usize, others: impl IntoIterator<Item = usize>) -> Introduction {
        let others = others.into_iter().map(|other| format!("other:{other}")).collect();
        let standing = Standing::joiner(node(number), 1);
        Introduction { standing, address: format!("host:{number}"), others }
    }

    #[test]
    fn who_is_heard_of_no_more_is_forgotten_and_makes_room() {
        let acquaintance = Acquaintance::default();
        let began = Moment::default();
        for number in 1..=ADDRESSES_MAX {
            acquaintance.note(began, &introduction(number, 1..=ADDRESSES_MAX));
        }
        assert_eq!(acquaintance.addresses(began).len(), 2 * ADDRESSES_MAX);
        acquaintance.note(began, &introduction(200, [200]));
        assert!(!acquaintance.addresses(began).contains(&"host:200".to_owned()), "there is no room");

        let later = began.after(FORGOTTEN_AFTER);
        acquaintance.note(later, &introduction(1, [1]));
        let latest = later.after(Duration::from_secs(1));
        assert_eq!(acquaintance.addresses(latest), ["host:1", "other:1"]);
        assert_eq!(acquaintance.heard(latest), ["host:1"], "others are told of nobody else");
        assert_eq!(acquaintance.place_of(node(2)), "host:2", "people may still be told where it was");
        acquaintance.note(latest, &introduction(200, [200]));
        assert_eq!(acquaintance.addresses(latest), ["host:1", "host:200", "other:1", "other:200"]);
    }

    #[test]
    fn only_addresses_are_noted() {
        let acquaintance = Acquaintance::default();
        let wrong = Introduction { address: "no address".to_owned(), ..introduction(1, []) };
        acquaintance.note(Moment::default(), &Introduction { others: vec!["x".to_owned()], ..wrong });
        assert!(acquaintance.addresses(Moment::default()).is_empty());
    }
}
