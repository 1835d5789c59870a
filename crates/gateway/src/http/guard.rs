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
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use futures::future::BoxFuture;
use tower::Service;

use crate::grpc;

use super::bodies::{Held, Late, Paced};
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
        if let Some(refusal) = self.refusal(&request) {
            let body = request.into_body();
            return Box::pin(async move {
                take_in(body).await;
                Ok(refusal.map(|body| Body::new(Held { body, _asked: asked })))
            });
        }
        let (is_grpc, late) = (grpc::is_grpc(request.headers()), Late::default());
        let request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(Paced::new(body, late.clone())),
        });
        let answering = self.router.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            let answer = if late.is_so() && !is_grpc { too_late() } else { answer };
            Ok(answer.map(|body| Body::new(Held { body, _asked: asked })))
        })
    }
}

/// Takes in a small body that is refused: a client that is cut off while it sends may never read why.
async fn take_in<B>(body: B)
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if !body.is_end_stream() {
        // What is longer or later is not worth more: the client has been answered.
        let taken = axum::body::to_bytes(Body::new(body), REFUSED_BYTES_MAX);
        drop(tokio::time::timeout(REFUSED_TIME, taken).await);
    }
}

fn too_late() -> Response {
    let message = "the body came too slowly or not at all; nothing was done, send it again";
    Failure::new(StatusCode::REQUEST_TIMEOUT, "invalid", message).into_response()
}
