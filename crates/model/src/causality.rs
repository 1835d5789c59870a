//! Dots and version vectors: which writes a value has seen.
//!
//! A dot is the birth certificate of one write. A version vector says, per actor, up to which counter
//! the writes to one key have been seen.
//!
//! Invariant: an actor never issues the same counter twice, so a dot names one write for ever.
//! Source: Preguiça et al., "Dotted Version Vectors" (2010).

use smallvec::SmallVec;

/// Who issued a dot: one replica assignment, in one life of the node that holds it.
///
/// Both numbers are never used again: the assignment is the layout index that made it, the incarnation
/// rises at each start of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// The id of the replica assignment.
    pub assignment: u64,
    /// The node's incarnation when the dot was issued.
    pub incarnation: u64,
}

/// One write: its actor and the actor's counter, which starts at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who issued the dot.
    pub actor: Actor,
    /// The actor's counter at that write.
    pub counter: u64,
}

/// Per actor, the highest counter seen. Ordered by actor; at most one entry each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionVector(SmallVec<[Dot; 2]>);

impl VersionVector {
    /// Whether the write named by `dot` has been seen.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.0.iter().any(|seen| seen.actor == dot.actor && seen.counter >= dot.counter)
    }

    /// Whether everything `other` has seen has been seen here.
    #[must_use]
    pub fn descends(&self, other: &Self) -> bool {
        other.0.iter().all(|dot| self.covers(*dot))
    }

    /// Marks `dot`, and all of its actor's earlier ones, as seen.
    pub fn add(&mut self, dot: Dot) {
        match self.0.binary_search_by_key(&dot.actor, |seen| seen.actor) {
            Ok(at) => {
                if let Some(seen) = self.0.get_mut(at) {
                    seen.counter = seen.counter.max(dot.counter);
                }
            }
            Err(at) => self.0.insert(at, dot),
        }
    }

    /// Marks everything `other` has seen as seen.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|dot| self.add(*dot));
    }

    /// The highest dot seen of each actor, in actor order.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().copied()
    }

    /// How many actors have been seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing has been seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = Self::default();
        dots.into_iter().for_each(|dot| vector.add(dot));
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(assignment: u64, counter: u64) -> Dot {
        Dot { actor: Actor { assignment, incarnation: 1 }, counter }
    }

    #[test]
    fn covers_earlier_dots_of_the_same_actor_only() {
        let seen: VersionVector = [dot(2, 5), dot(1, 3)].into_iter().collect();
        assert!(seen.covers(dot(2, 4)) && seen.covers(dot(1, 3)));
        assert!(!seen.covers(dot(1, 4)) && !seen.covers(dot(3, 1)));
    }

    #[test]
    fn a_join_descends_both_sides() {
        let left: VersionVector = [dot(1, 5)].into_iter().collect();
        let right: VersionVector = [dot(1, 3), dot(2, 1)].into_iter().collect();
        let mut both = left.clone();
        both.join(&right);
        assert!(both.descends(&left) && both.descends(&right) && !left.descends(&right));
    }

    #[test]
    fn the_latest_dot_of_each_actor_is_kept_in_order() {
        let seen: VersionVector = [dot(2, 5), dot(1, 3), dot(2, 4)].into_iter().collect();
        assert_eq!(seen.iter().collect::<Vec<_>>(), [dot(1, 3), dot(2, 5)]);
        assert_eq!((seen.len(), seen.is_empty()), (2, false));
        assert!(VersionVector::default().is_empty());
    }
}
