//! The guard in front of every route of the port, HTTP and gRPC alike: what it refuses reaches no handler.
//!
//! It refuses requests that a web page may have sent (`hosts`), gives connections of the reserve the routes for health
//! alone, and lets bodies arrive only as long as they keep coming.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tower::Service;

use crate::grpc;

use super::bodies::{Arrival, Held, Paced};
use super::failure::Failure;
use super::hosts::Hosts;
use super::seats::Seat;

/// What a connection of the reserve may ask for.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// How much of a refused body is taken in, and for how long.
const REFUSED_BYTES_MAX: usize = 16 * 1024;
const REFUSED_TIME: Duration = Duration::from_secs(1);

/// The routes of one connection, guarded.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) router: Router,
    pub(super) hosts: Arc<Hosts>,
    pub(super) seat: Arc<Seat>,
    /// The address of this machine that the connection came in at.
    pub(super) arrived: IpAddr,
    pub(super) stopping: watch::Receiver<bool>,
}

impl Guard {
    /// The answer to a request that is refused.
    fn refusal<B>(&self, request: &Request<B>) -> Option<Response> {
        let is_grpc = grpc::is_grpc(request.headers());
        let asked = (request.version(), request.uri(), request.headers());
        if let Err(foreign) = self.hosts.judge(asked, self.arrived) {
            let message = foreign.message();
            return Some(match is_grpc {
                true => grpc::forbidden(message),
                false => Failure::new(StatusCode::FORBIDDEN, "forbidden", message).into_response(),
            });
        }
        if self.seat.is_reserve() && !HEALTH.contains(&request.uri().path()) {
            let message =
                "as many connections are open as this node's HTTP port takes, and all are busy; back off";
            return Some(match is_grpc {
                true => grpc::overloaded(message),
                false => Failure::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).into_response(),
            });
        }
        None
    }
}

impl<B> Service<Request<B>> for Guard
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asked = self.seat.asked();
        let end = End { is_http1: request.version() < Version::HTTP_2, guard: self.clone() };
        if let Some(refusal) = self.refusal(&request) {
            let body = request.into_body();
            return Box::pin(async move {
                let is_whole = take_in(body).await;
                Ok(end.mark(refusal, is_whole).map(|body| Body::new(Held { body, _asked: asked })))
            });
        }
        let (is_grpc, arrival) = (grpc::is_grpc(request.headers()), Arrival::default());
        let request = request.map(|body| match body.is_end_stream() {
            true => {
                arrival.note_whole();
                Body::empty()
            }
            false => Body::new(Paced::new(body, arrival.clone())),
        });
        let answering = self.router.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            let answer = if arrival.is_late() && !is_grpc { too_late() } else { answer };
            let answer = end.mark(answer, arrival.is_whole());
            Ok(answer.map(|body| Body::new(Held { body, _asked: asked })))
        })
    }
}

/// What must be known of a connection to say in an answer that it is the last.
struct End {
    is_http1: bool,
    guard: Guard,
}

impl End {
    /// Says in an answer that the connection ends with it, if so: its client must not send another request there.
    fn mark(&self, mut answer: Response, is_whole: bool) -> Response {
        // Behind a body that was not read there is no telling where the next request begins.
        let is_last = !is_whole || self.guard.seat.is_reserve() || *self.guard.stopping.borrow();
        if self.is_http1 && is_last {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// Takes in a small body that is refused: a client that is cut off while it sends may never read why. Whether that is all
/// of it.
async fn take_in<B>(body: B) -> bool
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return true;
    }
    // What is longer or later is not worth more: the client has been answered.
    let taken = axum::body::to_bytes(Body::new(body), REFUSED_BYTES_MAX);
    tokio::time::timeout(REFUSED_TIME, taken).await.is_ok_and(|taken| taken.is_ok())
}

fn too_late() -> Response {
    let message = "the body came too slowly or not at all; nothing was done, send it again";
    Failure::new(StatusCode::REQUEST_TIMEOUT, "invalid", message).into_response()
}
