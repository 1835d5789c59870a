//! What arrives from peers, handed to whoever waits for it.

use std::sync::Weak;

use futures::future::BoxFuture;
use slipring_model::{ErrorKind, NodeId};
use slipring_replication::{ReadInput, WriteInput};
use slipring_transport::Inbox;
use slipring_wire::{Hello, Message, Reply, Request};

use crate::core::Core;
use crate::health::Answer;
use crate::requests::{Entry, Timer};

/// The node's end of the transport.
pub(crate) struct Receiver(pub(crate) Weak<Core>);

impl Inbox for Receiver {
    fn connected(&self, peer: &Hello) {
        tracing::info!(peer = %peer.node.short(), incarnation = peer.incarnation, "connected");
        if let Some(core) = self.0.upgrade() {
            let view = core.view();
            let layout = view.as_ref().map(|view| view.layout.as_ref());
            core.muster.met(peer, layout);
            if let Some(layout) = layout {
                core.muster.review(layout);
            }
            if core.muster.refuses(peer.node) {
                // It may never ask anything: it may think that it is alone.
                core.answer(peer.node, 0, Reply::RolledBack);
            }
            core.hints.wake();
            core.recovery.met(peer.node);
            core.gossip.met(peer.node);
            core.room_of_new_connection(peer.node);
        }
    }

    fn disconnected(&self, peer: NodeId) {
        tracing::info!(peer = %peer.short(), "disconnected");
        if let Some(core) = self.0.upgrade() {
            core.peer_lost(peer);
        }
    }

    fn messages(&self, from: NodeId, messages: Vec<Message>) {
        let Some(core) = self.0.upgrade() else { return };
        let is_refused = core.muster.refuses(from);
        for message in messages {
            match message {
                Message::Request { id, .. } if is_refused => core.answer(from, id, Reply::RolledBack),
                Message::Reply { reply: Reply::RolledBack, .. } => core.was_rolled_back(),
                Message::Reply { .. } if is_refused => drop(core.metrics.replies_late.inc()),
                Message::Reply { id, reply: Reply::Removed } if core.asks(id, from) => core.was_removed(),
                Message::Request { id, request } => core.serve(from, id, request),
                Message::Reply { id, reply } => core.replied(from, id, reply),
            }
        }
    }

    fn asked(&self, hello: &Hello, request: Request) -> BoxFuture<'static, Reply> {
        let (core, asker) = (self.0.upgrade(), hello.node);
        Box::pin(async move {
            let answer = match (core, request) {
                (Some(core), Request::Join(descriptor)) => core.admit_node(&descriptor).await,
                (Some(core), Request::Introduce(introduction)) => core.meet(asker, &introduction),
                (None, _) => Err(crate::failure::unavailable("the node is stopping")),
                _ => {
                    let message =
                        "only an introduction or a request to join may come from a node that is no member";
                    Err(slipring_model::Error::new(ErrorKind::Invalid, message))
                }
            };
            answer.unwrap_or_else(crate::failure::failed)
        })
    }
}

impl Core {
    /// Whether a request of this number waits for a peer's answer.
    fn asks(&self, id: u64, peer: NodeId) -> bool {
        let is_asked = |entry: &mut Entry| (matches!(entry, Entry::Ask { to, .. } if *to == peer), false);
        self.requests.with(id, is_asked).is_some_and(|(is_asked, _)| is_asked)
    }

    /// Hands a reply to the request that waits for it; one that is late finds nobody and is dropped.
    fn replied(&self, from: NodeId, id: u64, reply: Reply) {
        enum Waiting {
            Read,
            Write,
            Other,
        }
        let is_stale = matches!(reply, Reply::Stale { .. });
        let waiting = self.requests.with(id, |entry| match entry {
            Entry::Read { .. } => (Waiting::Read, is_stale),
            Entry::Write(_) => (Waiting::Write, false),
            Entry::Forward { to, .. } | Entry::Ask { to, .. } => (Waiting::Other, *to == from),
        });
        match (waiting, reply) {
            (None, _) => drop(self.metrics.replies_late.inc()),
            (Some((Waiting::Read, Some(Entry::Read { work, .. }))), Reply::Stale { epoch })
            | (Some((Waiting::Other, Some(Entry::Forward { work, .. }))), Reply::Stale { epoch }) => {
                self.submit_again(work, epoch);
            }
            (Some((Waiting::Write, _)), Reply::Stale { epoch }) => self.send_again(id, from, epoch),
            (Some((Waiting::Read, _)), reply) => self.drive_read(id, read_input(from, reply)),
            (Some((Waiting::Write, _)), reply) => {
                let input = match reply {
                    Reply::Stored => WriteInput::Acked { from },
                    _ => WriteInput::Failed { from },
                };
                self.drive_write(id, input);
            }
            (Some((Waiting::Other, Some(Entry::Ask { reply: sender, .. }))), reply) => {
                drop(sender.send(Some(reply)));
            }
            (Some((Waiting::Other, Some(Entry::Forward { work, tried, .. }))), reply) => {
                match crate::failure::executed(reply) {
                    Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Overloaded) => {
                        self.submit_avoiding(work, tried, Some(error));
                    }
                    result => {
                        // Whom everybody refuses nobody is to blame for; what another one could do speaks against the rest.
                        if result.is_ok() {
                            tried
                                .iter()
                                .filter(|node| **node != from)
                                .for_each(|node| self.judge(*node, Answer::Refused));
                        }
                        self.judge(from, Answer::Given { after: self.now().since(work.began) });
                        self.reply(work.reply_to, result);
                    }
                }
            }
            (Some((Waiting::Other, _)), _) => drop(self.metrics.replies_late.inc()),
        }
    }

    /// Fails whatever waits for a peer whose connection is gone.
    fn peer_lost(&self, peer: NodeId) {
        for id in self.requests.ids() {
            let over = self.requests.with(id, |entry| match entry {
                Entry::Read { .. } => (Some(true), false),
                Entry::Write(_) => (Some(false), false),
                Entry::Forward { to, .. } | Entry::Ask { to, .. } => (None, *to == peer),
            });
            match over {
                Some((Some(true), _)) => self.drive_read(id, ReadInput::Failed { from: peer }),
                Some((Some(false), _)) => self.drive_write(id, WriteInput::Failed { from: peer }),
                Some((None, Some(Entry::Ask { reply, .. }))) => drop(reply.send(None)),
                Some((None, Some(Entry::Forward { work, tried, .. }))) => {
                    self.forward_failed(work, tried, false)
                }
                _ => {}
            }
        }
    }

    /// Tells requests whose timers are due.
    pub(crate) fn tick(&self) {
        for (id, timer) in self.requests.due(self.now()) {
            match timer {
                Timer::Hedge => self.drive_read(id, ReadInput::Dawdled),
                Timer::Deadline => self.deadline_passed(id),
            }
        }
    }

    fn deadline_passed(&self, id: u64) {
        let over = self.requests.with(id, |entry| match entry {
            Entry::Read { .. } => (Some(true), false),
            Entry::Write(_) => (Some(false), false),
            Entry::Forward { .. } | Entry::Ask { .. } => (None, true),
        });
        match over {
            Some((Some(true), _)) => self.drive_read(id, ReadInput::DeadlinePassed),
            Some((Some(false), _)) => self.drive_write(id, WriteInput::DeadlinePassed),
            Some((None, Some(Entry::Ask { reply, .. }))) => drop(reply.send(None)),
            Some((None, Some(Entry::Forward { work, to, tried }))) => {
                self.judge(to, Answer::None { after: self.now().since(work.began) });
                self.forward_failed(work, tried, true);
            }
            _ => {}
        }
    }
}

fn read_input(from: NodeId, reply: Reply) -> ReadInput {
    match reply {
        Reply::Digest(digest) => ReadInput::Digested { from, digest },
        Reply::Cell(cell) => ReadInput::Fetched { from, cell },
        Reply::Stored => ReadInput::Repaired { from },
        _ => ReadInput::Failed { from },
    }
}
