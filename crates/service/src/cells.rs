//! What a service may read and change: the cell of its request's key.

use bytes::Bytes;
use slipring_model::{Dot, VersionVector};

use crate::cell::{Cell, Value, ValueKind};

/// One change to a cell. The coordinator gives it a dot and a stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a register.
    Put {
        /// The bytes.
        value: Bytes,
        /// Unix milliseconds at which it expires.
        expires_at: Option<u64>,
        /// Replaces only the siblings this covers; all when absent.
        seen: Option<VersionVector>,
    },
    /// Deletes what `seen` covers; all when absent.
    Remove {
        /// What the deleter had seen.
        seen: Option<VersionVector>,
    },
    /// Adds to the running sum; increments on different replicas add up.
    Add(i64),
}

/// The cell of one request's key at one instant, and the change the service makes to it.
///
/// Every method that reads sees the cell as it was when the request began. The last change wins.
#[derive(Debug)]
pub struct Cells<'c> {
    cell: &'c Cell<'c>,
    now_ms: u64,
    next: Option<Dot>,
    change: Option<Change>,
}

impl<'c> Cells<'c> {
    /// A view on `cell` at `now_ms` (Unix milliseconds).
    #[must_use]
    pub fn new(cell: &'c Cell<'c>, now_ms: u64) -> Self {
        Self { cell, now_ms, next: None, change: None }
    }

    /// The same view, where the change gets the dot `next`.
    #[must_use]
    pub fn before(mut self, next: Dot) -> Self {
        self.next = Some(next);
        self
    }

    /// The value; `None` when absent, deleted or expired.
    #[must_use]
    pub fn value(&self) -> Option<Value<'c>> {
        self.cell.value(self.now_ms)
    }

    /// The value as an integer: `Ok(None)` when absent, `Err(())` when it is not a canonical 64-bit integer.
    ///
    /// # Errors
    /// The value exists and is no integer.
    #[expect(clippy::result_unit_err, reason = "the caller words the error in its own protocol")]
    pub fn integer(&self) -> Result<Option<i64>, ()> {
        match self.value() {
            None => Ok(None),
            Some(Value { kind: ValueKind::Counter(total), .. }) => Ok(Some(total)),
            Some(value) => crate::cell::integer(&value.bytes).map(Some).ok_or(()),
        }
    }

    /// Every concurrent register, in dot order.
    pub fn siblings(&self) -> impl Iterator<Item = &'c [u8]> + use<'c> {
        self.cell.values(self.now_ms)
    }

    /// How many siblings of any kind the cell holds.
    #[must_use]
    pub fn sibling_count(&self) -> usize {
        self.cell.siblings.len()
    }

    /// All the writes this cell has seen: the causal context to hand to a client.
    #[must_use]
    pub fn context(&self) -> &'c VersionVector {
        &self.cell.context
    }

    /// All the writes that this cell has seen when the change is made.
    #[must_use]
    pub fn context_after_change(&self) -> VersionVector {
        let mut context = self.cell.context.clone();
        self.next.into_iter().for_each(|dot| context.add(dot));
        context
    }

    /// Writes a register in place of everything here.
    pub fn put(&mut self, value: impl Into<Bytes>, expires_at: Option<u64>) {
        self.change = Some(Change::Put { value: value.into(), expires_at, seen: None });
    }

    /// Writes a register in place of what the writer had seen; the rest stays as siblings.
    pub fn put_having_seen(&mut self, seen: VersionVector, value: impl Into<Bytes>, expires_at: Option<u64>) {
        self.change = Some(Change::Put { value: value.into(), expires_at, seen: Some(seen) });
    }

    /// Adds to the value, which must be absent or an integer. Keeps the time to live.
    ///
    /// An expired value starts again from nothing.
    pub fn add(&mut self, delta: i64) {
        self.change = Some(if self.cell.is_expired(self.now_ms) {
            Change::Put { value: delta.to_string().into(), expires_at: None, seen: None }
        } else {
            Change::Add(delta)
        });
    }

    /// Deletes everything here. Without anything here it changes nothing.
    pub fn remove(&mut self) {
        self.change = (!self.cell.siblings.is_empty()).then_some(Change::Remove { seen: None });
    }

    /// Deletes what the deleter had seen; the rest stays.
    pub fn remove_having_seen(&mut self, seen: VersionVector) {
        self.change = (!self.cell.siblings.is_empty()).then_some(Change::Remove { seen: Some(seen) });
    }

    /// Whether the change decides when a value expires; keeping an expiry as it is decides nothing.
    #[must_use]
    pub fn sets_expiry(&self) -> bool {
        match &self.change {
            Some(Change::Put { expires_at: Some(at), .. }) => {
                self.value().and_then(|value| value.expires_at) != Some(*at)
            }
            _ => false,
        }
    }

    /// Takes the change back.
    pub fn withdraw(&mut self) {
        self.change = None;
    }

    /// The change made, if any.
    #[must_use]
    pub fn into_change(self) -> Option<Change> {
        self.change
    }
}

#[cfg(test)]
mod tests {
    use slipring_model::{Actor, Dot, Timestamp};

    use super::*;

    fn at(counter: u64) -> Dot {
        Dot { actor: Actor { assignment: 1, incarnation: 1 }, counter }
    }

    fn put(value: &'static str) -> Change {
        Change::Put { value: Bytes::from_static(value.as_bytes()), expires_at: Some(100), seen: None }
    }

    #[test]
    fn a_service_sees_the_cell_as_it_was_when_the_request_began() {
        let change = put("7");
        let cell = Cell::default().changed(&change, at(1), Timestamp(1));
        let cells = Cells::new(&cell, 99);
        assert_eq!(cells.value().map(|value| value.bytes.into_owned()), Some(b"7".to_vec()));
        assert_eq!(cells.siblings().collect::<Vec<_>>(), [b"7"]);
        assert_eq!((cells.sibling_count(), cells.context()), (1, &cell.context));
        let over = Cells::new(&cell, 100);
        assert_eq!((over.value(), over.siblings().count(), over.sibling_count()), (None, 0, 1));
        assert_eq!(Cells::new(&Cell::default(), 0).sibling_count(), 0);
        let changed = cell.clone().changed(&change, at(2), Timestamp(2));
        assert_eq!(Cells::new(&cell, 99).before(at(2)).context_after_change(), changed.context);
        assert_eq!(Cells::new(&cell, 99).context_after_change(), cell.context);
    }

    #[test]
    fn a_value_is_read_as_an_integer_or_said_not_to_be_one() {
        let (seven, word) = (put("7"), put("seven"));
        let seven = Cell::default().changed(&seven, at(1), Timestamp(1));
        let nine = seven.clone().changed(&Change::Add(2), at(2), Timestamp(2));
        let word = Cell::default().changed(&word, at(1), Timestamp(1));
        let integer = |cell: &Cell<'_>, now| Cells::new(cell, now).integer();
        assert_eq!((integer(&seven, 99), integer(&nine, 99)), (Ok(Some(7)), Ok(Some(9))));
        assert_eq!((integer(&seven, 100), integer(&word, 99)), (Ok(None), Err(())));
    }

    #[test]
    fn an_expiry_is_set_where_it_differs_and_can_be_withdrawn() {
        let change = put("7");
        let cell = Cell::default().changed(&change, at(1), Timestamp(1));
        let sets = |now_ms, change: &dyn Fn(&mut Cells<'_>)| {
            let mut cells = Cells::new(&cell, now_ms);
            change(&mut cells);
            let sets = cells.sets_expiry();
            cells.withdraw();
            assert!(!cells.sets_expiry() && cells.into_change().is_none());
            sets
        };
        assert!(sets(99, &|cells| cells.put("8", Some(101))));
        assert!(!sets(99, &|cells| cells.put("8", Some(100))), "it is as it was");
        assert!(sets(100, &|cells| cells.put("8", Some(100))), "the value was over");
        assert!(!sets(99, &|cells| cells.put("8", None)));
        assert!(!sets(99, &|cells| cells.add(1)));
        assert!(!sets(99, &|cells| cells.remove()));
        assert!(!sets(99, &|_| {}));
    }

    #[test]
    fn the_last_change_wins_and_a_deletion_of_nothing_is_none() {
        let (empty, change) = (Cell::default(), put("7"));
        let cell = Cell::default().changed(&change, at(1), Timestamp(1));
        let made = |cell: &Cell<'_>, change: &dyn Fn(&mut Cells<'_>)| {
            let mut cells = Cells::new(cell, 99);
            cells.put("0", None);
            change(&mut cells);
            cells.into_change()
        };
        let seen = || cell.context.clone();
        let wrote = Change::Put { value: "8".into(), expires_at: Some(5), seen: None };
        assert_eq!(made(&cell, &|cells| cells.put("8", Some(5))), Some(wrote));
        let wrote = Change::Put { value: "8".into(), expires_at: None, seen: Some(seen()) };
        assert_eq!(made(&cell, &|cells| cells.put_having_seen(seen(), "8", None)), Some(wrote));
        assert_eq!(made(&cell, &|cells| cells.add(3)), Some(Change::Add(3)));
        assert_eq!(made(&cell, &|cells| cells.remove()), Some(Change::Remove { seen: None }));
        let removed = Some(Change::Remove { seen: Some(seen()) });
        assert_eq!(made(&cell, &|cells| cells.remove_having_seen(seen())), removed);
        assert_eq!(made(&empty, &|cells| cells.remove()), None);
        assert_eq!(made(&empty, &|cells| cells.remove_having_seen(seen())), None);
    }
}
