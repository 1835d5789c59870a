//! What a coordinator has under way: one request of a client, or one hint it delivers.

use std::collections::BTreeMap;

use bytes::Bytes;
use slipring_model::{Dot, VersionVector};
use slipring_service::Change;

use super::machines::{ReadMachine, WriteMachine};
use super::network::Key;

/// What a client asks.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// The value.
    Read,
    /// A change without looking.
    Blind(Change),
    /// A change after a read of a majority.
    Looking(Change),
}

/// One request.
pub(super) struct Request {
    /// The replica that coordinates it.
    pub(super) at: usize,
    pub(super) key: Key,
    pub(super) ask: Ask,
    pub(super) phase: Phase,
    /// What was promised to be seen when it began.
    pub(super) promised: VersionVector,
    /// Whether its client has been answered.
    pub(super) is_answered: bool,
}

/// How far a request has come.
pub(super) enum Phase {
    Reading {
        machine: Box<dyn ReadMachine>,
        is_settled: bool,
        /// The repair that each replica was sent last.
        repairs: BTreeMap<usize, u64>,
    },
    Writing {
        machine: Box<dyn WriteMachine>,
        cell: Bytes,
        dot: Dot,
        is_finished: bool,
    },
    /// A hint on its way.
    Hinting {
        target: usize,
    },
}
