//! Fault proxies: one stands before each node, and every byte between two nodes goes through the one before the
//! node that was dialled. It knows who dials by the address the dialler comes from.
//!
//! A connection uses two ways, one for each direction, and each may be impaired by itself. A cut holds bytes, and
//! the end of a stream, as a network does whose lost packets are sent again; nobody can connect meanwhile.
//!
//! Invariant: between accepting and closing, bytes of one direction leave in the order in which they came, or not
//! at all; after the first that did not, the connection breaks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::link::{Counts, Impairment, Link};

/// Bytes read at once.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces on their way in one direction of a connection; more wait with the sender.
const PIECES_AHEAD: usize = 64;

/// All proxies of a run.
pub(crate) struct Proxies {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    /// Proxies end with it.
    _runtime: Runtime,
}

struct Shared {
    /// The address that each node dials from.
    nodes: Vec<IpAddr>,
    links: BTreeMap<(usize, usize), Link>,
    /// Where each node listens, once it does.
    targets: Mutex<BTreeMap<usize, SocketAddr>>,
    strangers: AtomicU64,
}

/// Bytes on all ways together, and connections, by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that arrived.
    pub forwarded: u64,
    /// Bytes that a cut held for a while.
    pub held: u64,
    /// Bytes that vanished.
    pub dropped: u64,
    /// Bytes that took longer.
    pub delayed: u64,
    /// Bytes that arrived at a limited rate.
    pub throttled: u64,
    /// Connections that were broken.
    pub broken: u64,
    /// Connections from somebody who is no node of this run.
    pub strangers: u64,
}

impl Proxies {
    /// Starts a proxy on `host` before each of the nodes, which dial from these addresses.
    pub(crate) fn start(host: IpAddr, nodes: Vec<IpAddr>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let count = nodes.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let links = pairs.map(|pair| (pair, Link::default())).collect();
        let shared =
            Arc::new(Shared { nodes, links, targets: Mutex::default(), strangers: AtomicU64::new(0) });
        let mut addresses = Vec::new();
        for node in 0..count {
            let listener = runtime.block_on(TcpListener::bind((host, 0))).context("a proxy cannot listen")?;
            addresses.push(listener.local_addr()?);
            runtime.spawn(accept(Arc::clone(&shared), node, listener));
        }
        Ok(Self { shared, addresses, _runtime: runtime })
    }

    /// Where the others reach a node.
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        *self.addresses.get(node).expect("there is a proxy before each node")
    }

    /// Tells where a node listens.
    pub(crate) fn set_target(&self, node: usize, address: SocketAddr) {
        self.shared.targets.lock().insert(node, address);
    }

    pub(crate) fn impair(&self, from: usize, to: usize, cause: usize, impairment: Impairment) {
        self.shared.link(from, to).impair(cause, impairment);
    }

    /// Ends everything that `cause` did.
    pub(crate) fn relieve(&self, cause: usize) {
        self.shared.links.values().for_each(|link| link.relieve(cause));
    }

    pub(crate) fn clear(&self) {
        self.shared.links.values().for_each(Link::clear);
    }

    /// Breaks every connection between two nodes.
    pub(crate) fn reset(&self, a: usize, b: usize) {
        self.shared.link(a, b).reset();
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let sum = |of: fn(&Counts) -> &AtomicU64| {
            self.shared.links.values().map(|link| of(&link.counts).load(Ordering::Relaxed)).sum()
        };
        Traffic {
            forwarded: sum(|counts| &counts.forwarded),
            held: sum(|counts| &counts.held),
            dropped: sum(|counts| &counts.dropped),
            delayed: sum(|counts| &counts.delayed),
            throttled: sum(|counts| &counts.throttled),
            broken: sum(|counts| &counts.broken),
            strangers: self.shared.strangers.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    fn link(&self, from: usize, to: usize) -> &Link {
        self.links.get(&(from, to)).expect("there is a way from each node to each")
    }
}

async fn accept(shared: Arc<Shared>, node: usize, listener: TcpListener) {
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            // Out of files, for instance: those in use may come back.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        match shared.nodes.iter().position(|known| *known == address.ip()) {
            Some(from) => drop(tokio::spawn(connect(Arc::clone(&shared), from, node, stream))),
            None => drop(shared.strangers.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// Serves one connection to its end.
async fn connect(shared: Arc<Shared>, from: usize, to: usize, mut dialler: TcpStream) {
    let (there, back) = (shared.link(from, to), shared.link(to, from));
    let lost = (AtomicBool::new(false), AtomicBool::new(false));
    let mut node = None;
    let is_broken = tokio::select! {
        is_whole = carry(&shared, to, (&mut dialler, &mut node), (there, &lost.0), (back, &lost.1)) => !is_whole,
        () = broken(there, &lost.0) => true,
        () = broken(back, &lost.1) => true,
    };
    if is_broken {
        there.counts.broken.fetch_add(1, Ordering::Relaxed);
        // Without it both would see an orderly end. One that is gone needs neither.
        let _ = dialler.set_zero_linger();
        let _ = node.as_ref().map(TcpStream::set_zero_linger);
    }
}

/// Waits until a connection has to break: on demand, or because bytes of it are missing.
async fn broken(link: &Link, lost: &AtomicBool) {
    let before = link.condition().resets;
    link.until(|now| now.resets != before || (lost.load(Ordering::Relaxed) && !now.is_dropping)).await;
}

/// Connects and carries both directions; `false` when nobody answers.
async fn carry(
    shared: &Shared,
    to: usize,
    (dialler, node): (&mut TcpStream, &mut Option<TcpStream>),
    (there, there_lost): (&Link, &AtomicBool),
    (back, back_lost): (&Link, &AtomicBool),
) -> bool {
    let is_blocked = |link: &Link| link.condition().is_cut || link.condition().is_dropping;
    while is_blocked(there) || is_blocked(back) {
        there.until(|now| !now.is_cut && !now.is_dropping).await;
        back.until(|now| !now.is_cut && !now.is_dropping).await;
    }
    let target = shared.targets.lock().get(&to).copied();
    let Some(target) = target else { return false };
    let Ok(stream) = TcpStream::connect(target).await else { return false };
    let node = node.insert(stream);
    if dialler.set_nodelay(true).and_then(|()| node.set_nodelay(true)).is_err() {
        return false;
    }
    let (dialler_reads, dialler_writes) = dialler.split();
    let (node_reads, node_writes) = node.split();
    tokio::join!(
        pump(there, there_lost, dialler_reads, node_writes),
        pump(back, back_lost, node_reads, dialler_writes)
    );
    true
}

/// Carries one direction until its end.
async fn pump(link: &Link, lost: &AtomicBool, reader: ReadHalf<'_>, writer: WriteHalf<'_>) {
    let (pieces, queue) = mpsc::channel(PIECES_AHEAD);
    tokio::join!(collect(link, lost, reader, pieces), deliver(link, queue, writer));
}

async fn collect(
    link: &Link,
    lost: &AtomicBool,
    mut reader: ReadHalf<'_>,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let length = reader.read(&mut piece).await.unwrap_or(0);
        piece.truncate(length);
        let condition = link.condition();
        if condition.is_dropping {
            lost.store(true, Ordering::Relaxed);
            Counts::add(&link.counts.dropped, length);
        }
        match (length, condition.is_dropping) {
            // The end is lost as well; whoever watches for losses closes the connection.
            (0, true) => return link.until(|now| !now.is_dropping).await,
            (0, false) => return,
            (_, true) => {}
            (_, false) => {
                if !condition.delay.is_zero() {
                    Counts::add(&link.counts.delayed, length);
                }
                if pieces.send((Instant::now() + condition.delay, piece)).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn deliver(link: &Link, mut queue: mpsc::Receiver<(Instant, Vec<u8>)>, mut writer: WriteHalf<'_>) {
    while let Some((due, piece)) = queue.recv().await {
        sleep_until(due).await;
        if link.condition().is_cut {
            Counts::add(&link.counts.held, piece.len());
            link.until(|now| !now.is_cut).await;
        }
        if let Some(rate) = link.condition().bytes_per_second {
            Counts::add(&link.counts.throttled, piece.len());
            sleep(Duration::from_secs_f64(piece.len() as f64 / f64::from(rate.max(1)))).await;
        }
        if writer.write_all(&piece).await.is_err() {
            return;
        }
        Counts::add(&link.counts.forwarded, piece.len());
    }
    link.until(|now| !now.is_cut).await;
    // The other side may be gone already.
    let _ = writer.shutdown().await;
}

#[cfg(test)]
mod tests;
