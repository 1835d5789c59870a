//! One form for every error: what the router and its parts refuse by themselves becomes JSON as the routes' errors are.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::failure::Failure;
use crate::grpc;

/// The longest text of an error that is kept; those of the router are short.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Hands on a request, and an error in the one form. Calls of gRPC have a form of their own.
pub(super) async fn give(request: Request, next: Next) -> Response {
    let (is_grpc, method) = (grpc::is_grpc(request.headers()), request.method().clone());
    let response = next.run(request).await;
    let status = response.status();
    if is_grpc || !(status.is_client_error() || status.is_server_error()) || is_json(response.headers()) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = to_bytes(body, TEXT_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let failure = Failure::new(status, kind(status), message(status, &method, text.trim()));
    // Allow and the like stay.
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.remove(header::CONTENT_LENGTH);
    let mut response = failure.into_response();
    response.headers_mut().extend(head.headers);
    response
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == HeaderValue::from_static("application/json"))
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        status if status.is_client_error() => "invalid",
        _ => "internal",
    }
}

fn message(status: StatusCode, method: &Method, text: &str) -> String {
    if !text.is_empty() {
        return text.to_owned();
    }
    match status {
        StatusCode::NOT_FOUND => {
            "there is no such path; /openapi.json describes those that there are".to_owned()
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            format!("this path does not take {method}; the header Allow names the methods that it takes")
        }
        status => status.canonical_reason().unwrap_or("the request failed").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use serde_json::Value;
    use tower::Service;

    use super::*;

    async fn answer(method: &str, path: &str, kind: &'static str) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut router: Router = Router::new()
            .route("/text", get(|| async { (StatusCode::BAD_REQUEST, "because") }))
            .route("/json", get(|| async { Failure::invalid("own").into_response() }))
            .route("/fine", get(|| async { "fine" }))
            .layer(axum::middleware::from_fn(give));
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let response =
            router.call(request.body(Body::empty()).expect("a request")).await.expect("infallible");
        let (head, body) = response.into_parts();
        (head.status, head.headers, to_bytes(body, 10_000).await.expect("a body").to_vec())
    }

    #[tokio::test]
    async fn every_error_has_the_one_form() {
        for (method, path, status, kind, message) in [
            ("GET", "/text", 400, "invalid", "because"),
            ("GET", "/json", 400, "invalid", "own"),
            ("GET", "/nosuch", 404, "not_found", "there is no such path"),
            ("PUT", "/text", 405, "invalid", "does not take PUT"),
        ] {
            let (found, headers, body) = answer(method, path, "text/plain").await;
            let told: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((found.as_u16(), told["error"]["kind"].as_str()), (status, Some(kind)), "{path}");
            assert!(told["error"]["message"].as_str().is_some_and(|text| text.contains(message)), "{told}");
            assert_eq!(headers.contains_key("allow"), status == 405);
        }
        assert_eq!(answer("GET", "/fine", "text/plain").await.2, b"fine");
        assert_eq!(answer("GET", "/text", "application/grpc").await.2, b"because");
    }
}
