//! Writing keys through several nodes at once, and reading them back.
//!
//! Each write is classified by its own reply: acknowledged, refused, or unknown when the connection broke
//! before the reply came. A write is never repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, bail};

use super::client::{Client, Reply};

const WRITERS: usize = 4;
const PIPELINE: usize = 50;
const KEYS_PER_READ: usize = 200;
/// Times a read is asked again while the cluster settles.
const READ_TRIES: usize = 20;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Acknowledged,
    Refused,
    Unknown,
}

/// Writers at work.
pub(super) struct Load {
    done: Arc<AtomicUsize>,
    keys: usize,
    writers: Vec<JoinHandle<anyhow::Result<Vec<Outcome>>>>,
}

/// How many keys fared how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) written: usize,
    pub(super) acknowledged: usize,
    pub(super) refused: usize,
    pub(super) unknown: usize,
    pub(super) lost: usize,
    pub(super) wrong: usize,
}

impl Load {
    /// Begins to write `keys` keys through the nodes at `addresses`.
    pub(super) fn start(addresses: Vec<String>, keys: usize) -> Self {
        let done = Arc::new(AtomicUsize::new(0));
        let share = keys.div_ceil(WRITERS);
        let writer = |index: usize| {
            let (addresses, done) = (addresses.clone(), Arc::clone(&done));
            let range = (index * share).min(keys)..((index + 1) * share).min(keys);
            std::thread::spawn(move || write(&addresses, index, range, &done))
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self { done, keys, writers }
    }

    pub(super) fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn is_done(&self) -> bool {
        self.done() >= self.keys || self.writers.iter().all(JoinHandle::is_finished)
    }

    /// The outcome of every write, by key.
    pub(super) fn outcomes(self) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(self.keys);
        for writer in self.writers {
            let Ok(written) = writer.join() else { bail!("a writer failed; please report it") };
            outcomes.extend(written?);
        }
        Ok(outcomes)
    }
}

impl Tally {
    pub(super) fn of(outcomes: &[Outcome]) -> Self {
        let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
        Self {
            written: outcomes.len(),
            acknowledged: count(Outcome::Acknowledged),
            refused: count(Outcome::Refused),
            unknown: count(Outcome::Unknown),
            lost: 0,
            wrong: 0,
        }
    }
}

fn key(index: usize) -> Vec<u8> {
    format!("key:{index}").into_bytes()
}

fn value(index: usize) -> Vec<u8> {
    format!("value of key {index}, written once").into_bytes()
}

fn write(
    addresses: &[String],
    first: usize,
    range: std::ops::Range<usize>,
    done: &AtomicUsize,
) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(range.len());
    let mut turn = first;
    let mut client = connect(addresses, &mut turn)?;
    let keys: Vec<usize> = range.collect();
    for batch in keys.chunks(PIPELINE) {
        let commands: Vec<Vec<Vec<u8>>> =
            batch.iter().map(|index| vec![b"SET".to_vec(), key(*index), value(*index)]).collect();
        let mut is_broken = client.send(&commands).is_err();
        for _ in batch {
            let reply = if is_broken { None } else { client.receive().ok() };
            is_broken = reply.is_none();
            outcomes.push(match reply {
                Some(Reply::Okay) => Outcome::Acknowledged,
                Some(Reply::Error(message)) if message.starts_with("UNKNOWN") => Outcome::Unknown,
                Some(Reply::Error(_)) => Outcome::Refused,
                _ => Outcome::Unknown,
            });
        }
        done.fetch_add(batch.len(), Ordering::Relaxed);
        if is_broken {
            turn += 1;
            client = connect(addresses, &mut turn)?;
        }
    }
    Ok(outcomes)
}

/// A connection to the next node that takes one.
fn connect(addresses: &[String], turn: &mut usize) -> anyhow::Result<Client> {
    for _ in 0..addresses.len() {
        if let Some(Ok(client)) =
            addresses.get(*turn % addresses.len()).map(|address| Client::connect(address))
        {
            return Ok(client);
        }
        *turn += 1;
    }
    bail!("no node takes connections")
}

/// Reads every acknowledged key from one node and notes what is lost or wrong.
pub(super) fn verify(
    address: &str,
    outcomes: &[Outcome],
    tally: &mut Tally,
    progress: impl Fn(usize),
) -> anyhow::Result<()> {
    let mut client = Client::connect(address).with_context(|| address.to_owned())?;
    let indices: Vec<usize> = (0..outcomes.len()).collect();
    for batch in indices.chunks(KEYS_PER_READ) {
        let values = read(&mut client, batch)?;
        for (index, found) in batch.iter().zip(values) {
            let is_acknowledged = outcomes.get(*index) == Some(&Outcome::Acknowledged);
            match found {
                Reply::Value(None) if is_acknowledged => tally.lost += 1,
                Reply::Value(Some(bytes)) if bytes != value(*index) => tally.wrong += 1,
                _ => {}
            }
        }
        progress(batch.last().map_or(0, |last| last + 1));
    }
    Ok(())
}

fn read(client: &mut Client, batch: &[usize]) -> anyhow::Result<Vec<Reply>> {
    let mut command = vec![b"MGET".to_vec()];
    command.extend(batch.iter().map(|index| key(*index)));
    let mut last = None;
    for _ in 0..READ_TRIES {
        client.send(std::slice::from_ref(&command))?;
        match client.receive()? {
            Reply::Array(values) if values.len() == batch.len() => return Ok(values),
            other => last = Some(other),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bail!("the keys cannot be read: {last:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_each_outcome() {
        let tally =
            Tally::of(&[Outcome::Acknowledged, Outcome::Unknown, Outcome::Acknowledged, Outcome::Refused]);
        let expected = Tally { written: 4, acknowledged: 2, refused: 1, unknown: 1, lost: 0, wrong: 0 };
        assert_eq!(tally, expected);
    }
}
