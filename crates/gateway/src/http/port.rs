//! The port for HTTP/1 and HTTP/2: accepting, the limits of each connection, stopping.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use slipring_model::limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::guard::Guard;
use super::hosts::Hosts;
use super::line::Line;
use super::seats::Seats;

/// The longest head of a request, and what is read ahead of a body.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a connection of HTTP/2 may be silent before it is asked for a sign of life, and how long that may take.
const SILENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What every connection of the port gets.
struct Port {
    router: Router,
    hosts: Arc<Hosts>,
    seats: Arc<Seats>,
}

/// Serves `router` to what names one of `hosts`, on `listener`, until `stopping` holds `true`; requests under way are
/// finished. At most `seats_max` connections are served at a time, and some more that ask for the node's health.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    hosts: Hosts,
    seats_max: usize,
    mut stopping: watch::Receiver<bool>,
) {
    let port = Port { router, hosts: Arc::new(hosts), seats: Seats::new(seats_max) };
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            // A sender that is gone means the same as one that says so.
            _ = stopping.wait_for(|is_stopping| *is_stopping) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => port.open(stream, graceful.watcher()),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

impl Port {
    /// Serves one connection in a task of its own, until it ends or loses its seat.
    fn open(&self, stream: TcpStream, watcher: Watcher) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small answers to a connection may be late");
        }
        let Ok(local) = stream.local_addr() else { return };
        let taken = self.seats.take();
        let guard = Guard {
            router: self.router.clone(),
            hosts: Arc::clone(&self.hosts),
            seat: Arc::clone(&taken.seat),
            arrived: local.ip(),
        };
        tokio::spawn(async move {
            let server = server(taken.seat.is_reserve());
            let line = TokioIo::new(Line::new(stream, Arc::clone(&taken.seat)));
            let talk = server.serve_connection(line, TowerToHyperService::new(guard));
            tokio::select! {
                ended = watcher.watch(talk) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended");
                    }
                }
                () = taken.seat.is_lost() => tracing::debug!("a connection lost its seat"),
            }
            drop(taken);
        });
    }
}

/// What speaks with one connection; with one of the reserve about one request. Seats have the times of HTTP/1.
fn server(is_reserve: bool) -> Builder<TokioExecutor> {
    let mut server = Builder::new(TokioExecutor::new());
    let mut http1 = server.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(None).keep_alive(!is_reserve).max_buf_size(HEAD_BYTES_MAX);
    let (silence, patience) = SILENCE;
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(silence)
        .keep_alive_timeout(patience);
    server
}
