//! The group's log and vote, on disk before anybody is told.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slipring_model::Mutant;

use crate::aside::aside;
use crate::protocol::{Entry, Group, LogId, Vote, decode, encode};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("layout group entries");
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("layout group state");

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// Names and encoded values kept beside the log.
#[derive(Clone)]
pub(crate) struct Log(pub(crate) Arc<Database>);

impl Log {
    /// Reads a value; `None` when it was never kept.
    pub(crate) fn get<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let transaction = self.0.begin_read().map_err(io::Error::other)?;
        let table = match transaction.open_table(STATE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table.map_err(io::Error::other)?,
        };
        let stored = table.get(name).map_err(io::Error::other)?;
        stored.map(|bytes| decode(bytes.value()).map_err(|error| damaged(name, &error))).transpose()
    }

    /// Keeps a value; it is on disk when this returns.
    pub(crate) fn put<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        self.write(|_, state| Ok(state.insert(name, encode(value).as_ref()).map(drop)?))
    }

    /// Puts entries that count as agreed on in the place of all others, which lay up to `before`, with the vote they
    /// were made under and whatever goes with them.
    pub(crate) fn begin_anew(
        &self,
        before: LogId,
        entries: &[Entry],
        vote: &Vote,
        records: &[(&'static str, Bytes)],
    ) -> io::Result<()> {
        self.write(|table, state| {
            table.retain(|_, _| false)?;
            for entry in entries {
                table.insert(entry.log_id().index, encode(entry).as_ref())?;
            }
            state.insert(PURGED, encode(&before).as_ref())?;
            state.insert(VOTE, encode(vote).as_ref())?;
            state.insert(COMMITTED, encode(&entries.last().map(RaftEntry::log_id)).as_ref())?;
            for (name, bytes) in records {
                state.insert(*name, bytes.as_ref())?;
            }
            Ok(())
        })
    }

    /// The last entry that is known to be agreed on.
    pub(crate) fn committed(&self) -> io::Result<Option<LogId>> {
        Ok(self.get::<Option<LogId>>(COMMITTED)?.flatten())
    }

    /// The vote that is on disk.
    pub(crate) fn vote(&self) -> io::Result<Option<Vote>> {
        self.get(VOTE)
    }

    fn write(
        &self,
        change: impl FnOnce(
            &mut redb::Table<'_, u64, &'static [u8]>,
            &mut redb::Table<'_, &'static str, &'static [u8]>,
        ) -> Result<(), redb::Error>,
    ) -> io::Result<()> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.0.begin_write()?;
            {
                let mut entries = transaction.open_table(ENTRIES)?;
                let mut state = transaction.open_table(STATE)?;
                change(&mut entries, &mut state)?;
            }
            Ok(transaction.commit()?)
        };
        aside(write).map_err(io::Error::other)
    }

    pub(crate) fn entries(&self, range: impl RangeBounds<u64>) -> io::Result<Vec<Entry>> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let transaction = self.0.begin_read().map_err(io::Error::other)?;
        let table = match transaction.open_table(ENTRIES) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table.map_err(io::Error::other)?,
        };
        let stored = table.range::<u64>(bounds).map_err(io::Error::other)?;
        stored
            .map(|entry| {
                let (index, bytes) = entry.map_err(io::Error::other)?;
                decode(bytes.value()).map_err(|error| damaged(&format!("entry {}", index.value()), &error))
            })
            .collect()
    }

    fn last(&self) -> io::Result<Option<Entry>> {
        let transaction = self.0.begin_read().map_err(io::Error::other)?;
        let table = match transaction.open_table(ENTRIES) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table.map_err(io::Error::other)?,
        };
        let last = table.last().map_err(io::Error::other)?;
        last.map(|(_, bytes)| decode(bytes.value()).map_err(|error| damaged("the last entry", &error)))
            .transpose()
    }
}

pub(crate) fn damaged(what: &str, why: &str) -> io::Error {
    let message = format!(
        "the layout group's {what} cannot be read: {why}; restore the data directory, or remove it and join anew"
    );
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl RaftLogReader<Group> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.entries(range)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.vote()
    }
}

impl RaftLogStorage<Group> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Group>> {
        let last_purged_log_id: Option<LogId> = self.get(PURGED)?;
        let last_log_id = self.last()?.map(|entry| entry.log_id()).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if Mutant::ForgetVote.is_planted() {
            return Ok(());
        }
        self.put(VOTE, vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.put(COMMITTED, &committed)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.committed()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let appended = self.write(|table, _| {
            for entry in entries {
                table.insert(entry.log_id().index, encode(&entry).as_ref())?;
            }
            Ok(())
        });
        match appended {
            Ok(()) => {
                callback.io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.io_completed(Err(io::Error::other(error.to_string())));
                Err(error)
            }
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |log_id| log_id.index + 1);
        self.write(|table, _| Ok(table.retain_in(from.., |_, _| false)?))
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let through = (Bound::Unbounded, Bound::Included(log_id.index));
        self.write(|table, state| {
            state.insert(PURGED, encode(&log_id).as_ref())?;
            Ok(table.retain_in::<u64, _>(through, |_, _| false)?)
        })
    }
}
