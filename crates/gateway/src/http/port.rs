//! The port for HTTP/1 and HTTP/2: accepting, the limits of each connection, stopping.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use slipring_model::limits;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// How long a client of HTTP/1 may take for the head of its next request.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// The longest head of a request, and what is read ahead of a body.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a connection of HTTP/2 may be silent before it is asked for a sign of life, and how long that may take.
const SILENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves `router` on `listener` until `stopping` holds `true`; requests under way are finished.
///
/// While as many connections are open as there may be, further ones wait to be accepted.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    places: usize,
    mut stopping: watch::Receiver<bool>,
) {
    let server = server();
    let places = Arc::new(Semaphore::new(places));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place.expect("the semaphore is never closed"), listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            // A sender that is gone means the same as one that says so.
            _ = stopping.wait_for(|is_stopping| *is_stopping) => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (server, router, watcher) = (server.clone(), router.clone(), graceful.watcher());
                tokio::spawn(async move {
                    let talk = server.serve_connection(connection(stream), TowerToHyperService::new(router));
                    if let Err(error) = watcher.watch(talk).await {
                        tracing::debug!(%error, "a connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn server() -> Builder<TokioExecutor> {
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES_MAX);
    let (silence, patience) = SILENCE;
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(silence)
        .keep_alive_timeout(patience);
    server
}

fn connection(stream: TcpStream) -> TokioIo<TcpStream> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small answers to a connection may be late");
    }
    TokioIo::new(stream)
}
