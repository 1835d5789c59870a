//! What gets through to the gRPC services, and how requests that no method ever saw are answered.
//!
//! Only HTTP/2 and only gRPC's own content type get through: a web page that is open in somebody's browser
//! can send neither, so it cannot write here.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use slipring_model::{Error, ErrorKind};
use tonic::{Code, Status};

use super::failure::{KIND, OUTCOME, UNCHANGED, failed, refused};

const CODE: &str = "grpc-status";

/// Lets gRPC through; a request that could not even be read is the client's fault, and has changed nothing.
pub(super) async fn pass(request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        let message = "this path speaks gRPC: content-type must begin with application/grpc\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    if request.version() != Version::HTTP_2 {
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n").into_response();
    }
    let mut response = next.run(request).await;
    blame(response.headers_mut());
    response
}

/// Anything that has no route.
pub(super) async fn no_such_service(request: Request) -> Response {
    if !is_grpc(request.headers()) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let message = "there is no such service here; reflection lists those that there are";
    Status::into_http::<axum::body::Body>(refused(Code::Unimplemented, message))
}

/// Whether a request says that it is one of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// The answer to a request that may come from a web page.
pub(crate) fn forbidden(message: &'static str) -> Response {
    refused(Code::PermissionDenied, message).into_http()
}

/// The answer to a request for which there is no room.
pub(crate) fn overloaded(message: &'static str) -> Response {
    failed(Error::new(ErrorKind::Overloaded, message)).into_http()
}

/// A status that stands in the head and was not made by us comes from reading the request: a message that is
/// too large or malformed, or a method that does not exist.
fn blame(head: &mut HeaderMap) {
    let Some(code) = head.get(CODE).map(|code| Code::from_bytes(code.as_bytes())) else { return };
    if code == Code::Ok || head.contains_key(KIND) {
        return;
    }
    if matches!(code, Code::OutOfRange | Code::Internal) {
        head.insert(CODE, (Code::InvalidArgument as i32).into());
    }
    head.insert(KIND, HeaderValue::from_static("invalid"));
    head.insert(OUTCOME, HeaderValue::from_static(UNCHANGED));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_content_type_of_grpc_gets_through() {
        let is_let_in = |kind: &'static str| {
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]))
        };
        assert!(is_let_in("application/grpc") && is_let_in("application/grpc+proto"));
        for other in ["text/plain", "application/grpc-web", "application/grpcx", "multipart/form-data"] {
            assert!(!is_let_in(other), "{other}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn what_a_method_said_is_left_alone() {
        let mut head = refused(Code::OutOfRange, "x").into_http::<axum::body::Body>().headers().clone();
        let before = head.clone();
        blame(&mut head);
        assert_eq!(head, before);
        let mut head = Status::out_of_range("too large").into_http::<axum::body::Body>().headers().clone();
        blame(&mut head);
        assert_eq!(head.get(CODE), Some(&HeaderValue::from_static("3")));
        assert_eq!(head.get(OUTCOME), Some(&HeaderValue::from_static(UNCHANGED)));
    }
}
