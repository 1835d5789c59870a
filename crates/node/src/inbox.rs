//! What arrives from peers, handed to whoever waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use slipring_model::{ErrorKind, NodeId};
use slipring_replication::{ReadInput, WriteInput};
use slipring_transport::Inbox;
use slipring_wire::{Hello, Message, Reply, Request};

use crate::authority::{Standing, may_ask, may_ask_without_a_connection};
use crate::core::Core;
use crate::failure::waited_in_vain;
use crate::health::Answer;
use crate::requests::{Entry, Timer};

/// The node's end of the transport.
pub(crate) struct Receiver(pub(crate) Weak<Core>);

impl Inbox for Receiver {
    fn dialled(&self, by: &Hello) {
        if let Some(core) = self.0.upgrade() {
            core.was_dialled(by);
        }
    }

    fn connected(&self, peer: &Hello) {
        tracing::info!(peer = %peer.node.short(), incarnation = peer.incarnation, "connected");
        if let Some(core) = self.0.upgrade() {
            core.connected(peer);
        }
    }

    fn disconnected(&self, peer: NodeId, unsent: BTreeSet<u64>) {
        tracing::info!(peer = %peer.short(), "disconnected");
        if let Some(core) = self.0.upgrade() {
            core.peer_lost(peer, &unsent);
        }
    }

    fn messages(&self, from: NodeId, messages: Vec<Message>) {
        let Some(core) = self.0.upgrade() else { return };
        let standing = core.standing(from);
        for message in messages {
            match message {
                Message::Request { id, request } if may_ask(standing, &request) => {
                    core.serve(from, id, request)
                }
                Message::Request { id, request } => core.deny(from, standing, id, request),
                Message::Reply { .. } if standing == Standing::Outdated => {
                    core.metrics.refusals.replies.inc();
                }
                Message::Reply { id, reply } => core.replied(from, id, reply),
            }
        }
    }

    fn asked(&self, hello: &Hello, request: Request) -> BoxFuture<'static, Reply> {
        let (core, asker) = (self.0.upgrade(), hello.node);
        Box::pin(async move {
            let answer = match (core, request) {
                (None, _) => Err(crate::failure::unavailable("the node is stopping")),
                (Some(_), request) if !may_ask_without_a_connection(&request) => {
                    let message =
                        "only an introduction or a request to join may come from a node that is no member";
                    Err(slipring_model::Error::new(ErrorKind::Invalid, message))
                }
                (Some(core), Request::Join(descriptor)) => core.admit_node(asker, &descriptor).await,
                (Some(core), Request::Introduce(introduction)) => core.meet(asker, &introduction),
                (Some(_), _) => Err(crate::failure::unavailable("this node answers no such question")),
            };
            answer.unwrap_or_else(crate::failure::failed)
        })
    }
}

impl Core {
    /// A peer that has proven who it is is connected.
    fn connected(&self, peer: &Hello) {
        let view = self.view();
        let layout = view.as_ref().map(|view| view.layout.as_ref());
        self.muster.met(peer, layout);
        if let Some(layout) = layout {
            self.review_starts(layout);
            if self.muster.refuses(peer.node) {
                // It may never ask anything: it may think that it is alone.
                self.show_start(peer.node, layout);
            } else {
                self.met_at(peer.node, &peer.peer_address, layout);
            }
        }
        if self.standing(peer.node) != Standing::Stranger {
            self.hints.wake();
            self.recovery.met(peer.node);
            self.gossip.met(peer.node);
            self.room_of_new_connection(peer.node);
        }
    }

    /// Refuses what a peer may not ask for, and says why.
    fn deny(self: &Arc<Self>, from: NodeId, standing: Standing, id: u64, request: Request) {
        self.metrics.refusals.requests.inc();
        match (standing, request) {
            (Standing::Outdated, _) => {
                if let Some(view) = self.view() {
                    self.show_start(from, &view.layout);
                }
                self.answer(from, id, Reply::RolledBack);
            }
            (Standing::Stranger, Request::Layout(words)) => self.answer_stranger(from, id, &words),
            (Standing::Stranger, _) => {
                self.look_for_newer_members();
                self.answer(from, id, crate::failure::failed(self.no_member(from)));
            }
            _ => self.answer(from, id, crate::failure::failed(self.no_member(from))),
        }
    }

    /// Hands a reply to the request that waits for it, if it was put to that peer; one that is late finds nobody. Both
    /// are dropped otherwise.
    fn replied(&self, from: NodeId, id: u64, reply: Reply) {
        enum Waiting {
            Read,
            Write,
            Other,
        }
        let is_stale = matches!(reply, Reply::Stale { .. });
        let waiting = self.requests.with(id, |entry| match (entry.asked(from), &*entry) {
            (None, _) => (None, false),
            (Some(asked), Entry::Read { .. }) => (Some((Waiting::Read, asked)), is_stale),
            (Some(asked), Entry::Write(_)) => (Some((Waiting::Write, asked)), false),
            (Some(asked), Entry::Forward { .. } | Entry::Ask { .. }) => (Some((Waiting::Other, asked)), true),
        });
        let Some((waiting, entry)) = waiting else {
            self.metrics.replies_late.inc();
            return;
        };
        let Some((waiting, from)) = waiting.map(|(waiting, from)| ((waiting, entry), from)) else {
            self.metrics.refusals.replies.inc();
            return;
        };
        match (waiting, reply) {
            ((Waiting::Read, Some(Entry::Read { work, .. })), Reply::Stale { epoch })
            | ((Waiting::Other, Some(Entry::Forward { work, .. })), Reply::Stale { epoch }) => {
                self.submit_again(work, epoch);
            }
            ((Waiting::Write, _), Reply::Stale { epoch }) => self.send_again(id, from, epoch),
            ((Waiting::Read, _), reply) => {
                let is_overloaded = matches!(reply, Reply::Failed { kind: ErrorKind::Overloaded, .. });
                self.requests.note_overload(id, is_overloaded);
                self.drive_read(id, read_input(from, reply));
            }
            ((Waiting::Write, _), Reply::Overtaken { cell }) => self.overtaken(id, from, &cell),
            ((Waiting::Write, _), reply) => {
                let input = match reply {
                    Reply::Stored => WriteInput::Acked { from },
                    _ => WriteInput::Failed { from },
                };
                self.drive_write(id, input);
            }
            ((Waiting::Other, Some(Entry::Ask { to, reply: sender })), reply) => {
                self.look_for_dismissal(to, &reply);
                drop(sender.send(Some(reply)));
            }
            ((Waiting::Other, Some(Entry::Forward { work, tried, .. })), reply) => {
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
            ((Waiting::Other, _), _) => drop(self.metrics.replies_late.inc()),
        }
    }

    /// Ends this node if a member says that the cluster goes on without it. Its directory stays as it is: this is no word
    /// of the layout group, which may have lost its majority, but it is no stranger's either.
    fn look_for_dismissal(&self, from: NodeId, reply: &Reply) {
        if *reply == Reply::Removed && self.standing(from) == Standing::Member {
            self.was_removed();
        }
    }

    /// Fails whatever waits for a peer whose connection is gone; what has not left for it is tried elsewhere.
    fn peer_lost(&self, peer: NodeId, unsent: &BTreeSet<u64>) {
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
                Some((None, Some(Entry::Forward { work, tried, .. }))) if unsent.contains(&id) => {
                    self.submit_avoiding(work, tried, None);
                }
                Some((None, Some(Entry::Forward { work, tried, .. }))) => {
                    self.forward_failed(work, tried, false)
                }
                _ => {}
            }
        }
    }

    /// Tells requests whose timers are due.
    pub(crate) fn tick(&self) {
        let mut late = Vec::new();
        for (id, timer) in self.requests.due(self.now()) {
            match timer {
                Timer::Hedge => {
                    self.drive_read(id, ReadInput::Dawdled);
                    self.drive_write(id, WriteInput::Dawdled);
                }
                Timer::Deadline => late.extend(self.deadline_passed(id)),
            }
        }
        self.give_up_forwarded(late);
    }

    /// Ends what is late; a forwarded request is returned, to be ended with its like.
    fn deadline_passed(&self, id: u64) -> Option<(u64, Entry)> {
        let over = self.requests.with(id, |entry| match entry {
            Entry::Read { .. } => (Some(true), false),
            Entry::Write(_) => (Some(false), false),
            Entry::Forward { .. } | Entry::Ask { .. } => (None, true),
        });
        match over {
            Some((Some(true), _)) => self.drive_read(id, ReadInput::DeadlinePassed),
            Some((Some(false), _)) => self.drive_write(id, WriteInput::DeadlinePassed),
            Some((None, Some(Entry::Ask { reply, .. }))) => drop(reply.send(None)),
            Some((None, Some(entry @ Entry::Forward { .. }))) => return Some((id, entry)),
            _ => {}
        }
        None
    }

    /// Ends forwarded requests whose time is up. Those that still wait here for their peer were not done.
    fn give_up_forwarded(&self, late: Vec<(u64, Entry)>) {
        let mut of_peers: BTreeMap<NodeId, BTreeSet<u64>> = BTreeMap::new();
        for (id, entry) in &late {
            if let Entry::Forward { to, .. } = entry {
                of_peers.entry(*to).or_default().insert(*id);
            }
        }
        for (peer, ids) in &mut of_peers {
            *ids =
                self.transport.get().map_or_else(BTreeSet::new, |transport| transport.withdraw(*peer, ids));
        }
        for (id, entry) in late {
            let Entry::Forward { work, to, tried } = entry else { continue };
            self.judge(to, Answer::None { after: self.now().since(work.began) });
            match of_peers.get(&to).is_some_and(|unsent| unsent.contains(&id)) {
                true => self.reply(work.reply_to, Err(waited_in_vain())),
                false => self.forward_failed(work, tried, true),
            }
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
