//! One HTTP/1.1 request on a connection of its own, bounded in time and size.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::source::Failure;

/// How long a request may take, from dialling to the last byte.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Sends one request to `host` (`name:port`) and reads the whole answer.
pub(crate) async fn request(
    host: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Failure> {
    match tokio::time::timeout(TIMEOUT, exchange(host, method, path, body)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::say(format!("{host} did not answer within {TIMEOUT:?}"))),
    }
}

async fn exchange(
    host: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Failure> {
    let stream = TcpStream::connect(host).await.map_err(|error| Failure::new(host, &error))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| Failure::new(host, &error))?;
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    let request =
        request.body(Full::new(Bytes::from(body))).map_err(|error| Failure::new("the request", &error))?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|error| Failure::new(host, &error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| Failure::say(format!("{host}: its answer cannot be read: {error}")))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // The connection may end with the last byte of the answer, which is then there already.
        _ = connection => answered.await,
    }
}
