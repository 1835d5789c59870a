//! The port for HTTP/1 and HTTP/2: accepting, the limits of each connection, stopping.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use slipring_model::limits;
use slipring_node::ClientLimits;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::keepalive::keep_alive;

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
    keepalive: Option<Duration>,
    stopping: watch::Receiver<bool>,
}

/// Serves `router` to what names one of `hosts`, on `listener`, until `stopping` holds `true`; requests under way are
/// finished. At most so many connections are served at a time as `limits` allow, and some more that ask for the node's
/// health.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    hosts: Hosts,
    limits: &ClientLimits,
    mut stopping: watch::Receiver<bool>,
) {
    let port = Port {
        router,
        hosts: Arc::new(hosts),
        seats: Seats::new(limits.http_connections),
        keepalive: limits.keepalive,
        stopping: stopping.clone(),
    };
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
        keep_alive(&stream, self.keepalive);
        let Ok(local) = stream.local_addr() else { return };
        let taken = self.seats.take();
        let guard = Guard {
            router: self.router.clone(),
            hosts: Arc::clone(&self.hosts),
            seat: Arc::clone(&taken.seat),
            arrived: local.ip(),
            stopping: self.stopping.clone(),
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
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .keep_alive(!is_reserve)
        .max_buf_size(HEAD_BYTES_MAX);
    let (silence, patience) = SILENCE;
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(silence)
        .keep_alive_timeout(patience);
    server
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::{get, put};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HALF: &[u8] = b"PUT /values HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe";
    const SEATS: usize = 3;

    async fn connect(port: SocketAddr, said: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(port).await.expect("accepted");
        stream.write_all(said).await.expect("sent");
        stream
    }

    /// The status of the answer to a request on a connection of its own.
    async fn status(port: SocketAddr, path: &str) -> String {
        let said = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let mut stream = connect(port, said.as_bytes()).await;
        // A connection that gave way may be reset behind its answer.
        let _ = stream.read_to_string(&mut answer).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Asks until the answer is this one; the test's own time limit ends it.
    async fn wait_for(port: SocketAddr, path: &str, expected: &str) {
        while status(port, path).await != expected {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn full_ports_answer_for_health_and_let_idle_connections_give_way() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound");
        let (entered, mut has_entered) = watch::channel(0);
        let entered = Arc::new(entered);
        let keep = move |body: Body| {
            entered.send_modify(|count| *count += 1);
            async { axum::body::to_bytes(body, 5).await.map_err(|_| StatusCode::BAD_REQUEST) }
        };
        let router = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/other", get(|| async { "other" }))
            .route("/values", put(keep));
        let hosts = Hosts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), &[], Vec::new());
        let (stopping, is_stopping) = watch::channel(false);
        let limits = ClientLimits { http_connections: SEATS, ..ClientLimits::default() };
        let serving = tokio::spawn(async move { serve(listener, router, hosts, &limits, is_stopping).await });
        let silent: Vec<_> = futures::future::join_all((0..SEATS + 2).map(|_| connect(port, b""))).await;
        assert_eq!(
            (status(port, "/other").await, status(port, "/healthz").await),
            ("200".into(), "200".into())
        );
        let mut busy = futures::future::join_all((0..SEATS).map(|_| connect(port, HALF))).await;
        let asking = async {
            has_entered.wait_for(|count| *count == SEATS).await.expect("the router lives");
            wait_for(port, "/other", "503").await;
            assert_eq!(status(port, "/healthz").await, "200");
            let _silent = futures::future::join_all((0..100).map(|_| connect(port, b""))).await;
            assert_eq!(status(port, "/healthz").await, "200", "the oldest of the reserve give way");
            let mut one = busy.pop().expect("a busy one");
            one.write_all(b"llo").await.expect("sent");
            wait_for(port, "/other", "200").await;
            let mut answer = [0; 12];
            one.read_exact(&mut answer).await.expect("answered");
            assert_eq!(&answer, b"HTTP/1.1 200");
        };
        tokio::time::timeout(Duration::from_secs(9), asking).await.expect("sooner than half bodies end");
        drop((silent, busy));
        stopping.send_replace(true);
        serving.await.expect("no panic");
    }
}
