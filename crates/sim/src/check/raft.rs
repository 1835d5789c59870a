//! The layout group's log: one entry per committed place on all hosts, and nothing that goes back.
//!
//! - *Election safety*: nobody leads under a ballot that another node leads under. The group orders ballots by
//!   term and candidate, so one term may see two leaders; the later one's ballot is the higher.
//! - *State machine safety*: the entries that any two hosts ever knew as committed or applied at one place are
//!   the same one; later places have no lower ballots.
//! - *Nothing goes back*: ballots never fall, over restarts either, since votes are on disk before they count;
//!   commit and applied places never fall while a process lives, and nothing is applied before it is committed.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), 3.2 and figure 3.2.

use std::collections::BTreeMap;

use slipring_consensus::{Ballot, EntryId, GroupStatus};
use slipring_model::NodeId;

use crate::run::Violation;

use super::observation::Observation;

/// Checks what hosts showed.
///
/// # Errors
/// The first breach.
pub fn check(observations: &[Observation]) -> Result<(), Violation> {
    let mut known = Known::default();
    for seen in observations {
        let Some(group) = &seen.group else { continue };
        if let Some(why) = known.breach(seen, group) {
            let (host, life, at) = (seen.host, seen.life, seen.at_ms);
            return Err(Violation::new(
                "raft",
                format!("host {host} in life {life} at {at}: {why}: {group:?}"),
            ));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Known<'o> {
    leaders: BTreeMap<Ballot, NodeId>,
    ballots: BTreeMap<u64, Ballot>,
    last_of_host: BTreeMap<usize, (u64, &'o GroupStatus)>,
}

impl<'o> Known<'o> {
    fn breach(&mut self, seen: &'o Observation, group: &'o GroupStatus) -> Option<String> {
        let last = self.last_of_host.insert(seen.host, (seen.life, group));
        if let Some(why) = last.and_then(|(life, last)| gone_back(last, group, life == seen.life)) {
            return Some(why);
        }
        if place(group.applied) > place(group.committed) {
            return Some("what is applied is not committed".to_owned());
        }
        if let (true, Some(leader)) = (group.is_leading, group.leader) {
            let first = *self.leaders.entry(group.ballot).or_insert(leader);
            if first != leader {
                return Some(format!("{first} leads under the same ballot"));
            }
        }
        [group.committed, group.applied].into_iter().flatten().find_map(|entry| self.contradiction(entry))
    }

    /// How a committed entry contradicts those known before.
    fn contradiction(&mut self, entry: EntryId) -> Option<String> {
        let first = *self.ballots.entry(entry.index).or_insert(entry.ballot);
        let before = self.ballots.range(..entry.index).next_back();
        let after = self.ballots.range(entry.index + 1..).next();
        if first != entry.ballot {
            return Some(format!("place {} is also an entry of {first:?}", entry.index));
        }
        let is_lower = before.is_some_and(|(_, ballot)| *ballot > entry.ballot);
        let is_higher = after.is_some_and(|(_, ballot)| *ballot < entry.ballot);
        (is_lower || is_higher).then(|| format!("ballots fall around {entry:?}: {before:?}, {after:?}"))
    }
}

fn gone_back(last: &GroupStatus, now: &GroupStatus, same_life: bool) -> Option<String> {
    if now.ballot < last.ballot {
        return Some(format!("the ballot was {:?}", last.ballot));
    }
    if same_life && place(now.committed) < place(last.committed) {
        return Some(format!("{:?} was committed", last.committed));
    }
    if same_life && place(now.applied) < place(last.applied) {
        return Some(format!("{:?} was applied", last.applied));
    }
    None
}

fn place(entry: Option<EntryId>) -> Option<u64> {
    entry.map(|entry| entry.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::observation::samples::{layout, seen};

    fn ballot(term: u64, candidate: u64) -> Ballot {
        Ballot { term, candidate }
    }

    fn entry(index: u64, term: u64) -> Option<EntryId> {
        Some(EntryId { index, ballot: ballot(term, 1) })
    }

    /// A follower in term 5 that has applied one entry less than it knows to be committed.
    fn status() -> GroupStatus {
        let (committed, applied) = (entry(8, 3), entry(7, 3));
        let (leader, is_leading, ballot) = (Some(NodeId([1; 32])), false, ballot(5, 1));
        GroupStatus { leader, is_leading, is_alone: false, ballot, committed, applied, voters: Vec::new() }
    }

    fn is_kept(statuses: &[(usize, u64, GroupStatus)]) -> bool {
        let observe = |(host, life, group): &(usize, u64, GroupStatus)| Observation {
            life: *life,
            group: Some(group.clone()),
            ..seen(*host, 1, layout(1, "a"))
        };
        check(&statuses.iter().map(observe).collect::<Vec<_>>()).is_ok()
    }

    #[test]
    fn two_leaders_under_one_ballot_are_found() {
        let leads = |node, ballot| {
            let leader = Some(NodeId([node; 32]));
            GroupStatus { leader, is_leading: true, ballot, ..status() }
        };
        assert!(is_kept(&[(0, 1, leads(1, ballot(5, 1))), (1, 1, leads(2, ballot(5, 2)))]));
        assert!(!is_kept(&[(0, 1, leads(1, ballot(5, 1))), (1, 1, leads(2, ballot(5, 1)))]));
    }

    #[test]
    fn two_entries_committed_at_one_place_are_found() {
        let other = |committed| GroupStatus { committed, applied: None, ..status() };
        assert!(is_kept(&[(0, 1, status()), (1, 1, other(entry(7, 3)))]));
        assert!(!is_kept(&[(0, 1, status()), (1, 1, other(entry(7, 4)))]));
        assert!(
            !is_kept(&[(0, 1, status()), (1, 1, other(entry(6, 4)))]),
            "a later entry of an earlier leader"
        );
        assert!(!is_kept(&[(0, 1, status()), (1, 1, other(entry(9, 2)))]));
    }

    #[test]
    fn what_falls_is_found_and_a_restart_may_forget_what_is_applied_but_no_vote() {
        let later = |change: fn(&mut GroupStatus), life| {
            let mut group = status();
            change(&mut group);
            is_kept(&[(0, 1, status()), (0, life, group)])
        };
        assert!(!later(|group| group.ballot = ballot(4, 9), 1));
        assert!(!later(|group| group.ballot = ballot(4, 9), 2));
        assert!(!later(|group| group.applied = entry(6, 3), 1));
        assert!(later(|group| group.applied = entry(6, 3), 2));
        assert!(!later(|group| (group.committed, group.applied) = (entry(7, 3), entry(7, 3)), 1));
        assert!(later(|group| (group.committed, group.applied) = (entry(7, 3), entry(7, 3)), 2));
    }

    #[test]
    fn what_is_applied_before_it_is_committed_is_found() {
        assert!(!is_kept(&[(0, 1, GroupStatus { applied: entry(9, 3), ..status() })]));
        assert!(is_kept(&[(0, 1, GroupStatus { applied: entry(8, 3), ..status() })]));
    }
}
