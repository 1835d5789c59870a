//! How a cell lies on disk and travels between peers.
//!
//! `format, siblings, extra context`, numbers as LEB128. Only what the siblings' own dots do not already
//! say of the context is written, so the common cell, one value by one actor, costs about twenty bytes.
//! Equal cells have equal bytes.

use std::borrow::Cow;
use std::fmt;

use slipring_model::{Actor, Dot, Timestamp, VersionVector};

use super::{Cell, Content, Sibling};

const FORMAT: u8 = 2;
const KIND: u8 = 0b11;
const REGISTER: u8 = 0;
const SUM: u8 = 1;
const TOMBSTONE: u8 = 2;
const EXPIRED: u8 = 3;
const HAS_EXPIRY: u8 = 0b100;
const HAS_BASELINES: u8 = 0b1000;
const TAG_MAX: u8 = 0b1111;

/// Bytes that are not a cell of a known format. Nothing was read from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCell;

impl fmt::Display for InvalidCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are not a cell of a format this version knows")
    }
}

impl std::error::Error for InvalidCell {}

impl<'a> Cell<'a> {
    /// Reads a cell, borrowing values from `bytes`.
    ///
    /// # Errors
    /// [`InvalidCell`] for anything that [`Cell::encode`] does not write.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, InvalidCell> {
        let input = &mut bytes;
        if take_byte(input)? != FORMAT {
            return Err(InvalidCell);
        }
        let mut cell = Self::default();
        for _ in 0..take_count(input)? {
            let sibling = take_sibling(input)?;
            cell.context.add(sibling.dot);
            cell.siblings.push(sibling);
        }
        for _ in 0..take_count(input)? {
            cell.context.add(take_dot(input)?);
        }
        let is_ordered =
            cell.siblings.iter().zip(cell.siblings.iter().skip(1)).all(|(left, right)| left.dot < right.dot);
        if input.is_empty() && is_ordered { Ok(cell) } else { Err(InvalidCell) }
    }

    /// Appends the bytes of this cell to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_parts(out, true);
    }

    /// A 64-bit digest of what this cell has seen and holds.
    ///
    /// Dots name writes for ever, so contents need not be hashed; an expired value has the digest it had before.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut skeleton = Vec::with_capacity(64);
        self.encode_parts(&mut skeleton, false);
        xxhash_rust::xxh3::xxh3_64(&skeleton)
    }

    fn encode_parts(&self, out: &mut Vec<u8>, with_contents: bool) {
        out.push(FORMAT);
        put_number(out, self.siblings.len() as u64);
        for sibling in &self.siblings {
            put_sibling(out, sibling, with_contents);
        }
        let implied: VersionVector = self.siblings.iter().map(|sibling| sibling.dot).collect();
        let extra = || self.context.iter().filter(|dot| !implied.covers(*dot));
        put_number(out, extra().count() as u64);
        extra().for_each(|dot| put_dot(out, dot));
    }
}

fn put_sibling(out: &mut Vec<u8>, sibling: &Sibling<'_>, with_contents: bool) {
    put_dot(out, sibling.dot);
    out.extend_from_slice(&sibling.stamp.0.to_le_bytes());
    let kind = match sibling.content {
        _ if !with_contents => REGISTER,
        Content::Register(_) => REGISTER,
        Content::Sum(_) => SUM,
        Content::Tombstone => TOMBSTONE,
        Content::Expired => EXPIRED,
    };
    let expiry = if sibling.expires_at.is_some() { HAS_EXPIRY } else { 0 };
    let baselines = if sibling.baselines.is_empty() { 0 } else { HAS_BASELINES };
    out.push(kind + expiry + baselines);
    if let Some(at) = sibling.expires_at {
        put_number(out, at);
    }
    if !sibling.baselines.is_empty() {
        put_number(out, sibling.baselines.len() as u64);
        for (dot, sum) in &sibling.baselines {
            put_dot(out, *dot);
            put_number(out, zigzag(*sum));
        }
    }
    match &sibling.content {
        _ if !with_contents => {}
        Content::Register(value) => {
            put_number(out, value.len() as u64);
            out.extend_from_slice(value);
        }
        Content::Sum(sum) => put_number(out, zigzag(*sum)),
        Content::Tombstone | Content::Expired => {}
    }
}

fn take_sibling<'a>(input: &mut &'a [u8]) -> Result<Sibling<'a>, InvalidCell> {
    let dot = take_dot(input)?;
    let stamp = u64::from_le_bytes(take(input, 8)?.try_into().map_err(|_| InvalidCell)?);
    // A write on top of it could have no later one.
    if Timestamp(stamp) > Timestamp::LATEST {
        return Err(InvalidCell);
    }
    let tag = take_byte(input)?;
    if tag > TAG_MAX {
        return Err(InvalidCell);
    }
    let expires_at = if tag & HAS_EXPIRY == 0 { None } else { Some(take_number(input)?) };
    let mut baselines = Vec::new();
    if tag & HAS_BASELINES != 0 {
        for _ in 0..take_count(input)? {
            baselines.push((take_dot(input)?, unzigzag(take_number(input)?)));
        }
    }
    let content = match tag & KIND {
        REGISTER => {
            let length = take_count(input)?;
            Content::Register(Cow::Borrowed(take(input, length)?))
        }
        SUM => Content::Sum(unzigzag(take_number(input)?)),
        TOMBSTONE => Content::Tombstone,
        _ => Content::Expired,
    };
    Ok(Sibling { dot, stamp: Timestamp(stamp), expires_at, content, baselines })
}

fn put_dot(out: &mut Vec<u8>, dot: Dot) {
    put_number(out, dot.actor.assignment);
    put_number(out, dot.actor.incarnation);
    put_number(out, dot.counter);
}

fn take_dot(input: &mut &[u8]) -> Result<Dot, InvalidCell> {
    let actor = Actor { assignment: take_number(input)?, incarnation: take_number(input)? };
    Ok(Dot { actor, counter: take_number(input)? })
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(input: &mut &[u8]) -> Result<u64, InvalidCell> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input)?;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return Err(InvalidCell);
        }
        number += part << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(InvalidCell)
}

/// A count of things that each take at least one byte of what is left.
fn take_count(input: &mut &[u8]) -> Result<usize, InvalidCell> {
    let count = usize::try_from(take_number(input)?).map_err(|_| InvalidCell)?;
    if count <= input.len() { Ok(count) } else { Err(InvalidCell) }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], InvalidCell> {
    let (taken, rest) = input.split_at_checked(length).ok_or(InvalidCell)?;
    *input = rest;
    Ok(taken)
}

fn take_byte(input: &mut &[u8]) -> Result<u8, InvalidCell> {
    take(input, 1)?.first().copied().ok_or(InvalidCell)
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

impl<'a> Cell<'a> {
    /// A causal context as bytes, for clients to carry.
    #[must_use]
    pub fn encode_context(context: &VersionVector) -> Vec<u8> {
        let mut out = Vec::new();
        context.iter().for_each(|dot| put_dot(&mut out, dot));
        out
    }

    /// Reads what [`Cell::encode_context`] wrote.
    ///
    /// # Errors
    /// [`InvalidCell`] for anything else.
    pub fn decode_context(mut bytes: &'a [u8]) -> Result<VersionVector, InvalidCell> {
        let mut context = VersionVector::default();
        while !bytes.is_empty() {
            context.add(take_dot(&mut bytes)?);
        }
        Ok(context)
    }
}
