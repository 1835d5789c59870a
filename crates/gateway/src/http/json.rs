//! Bodies of JSON: what changes something is asked for in JSON, and says so.
//!
//! A browser lets any page send the types that forms send, with no question asked beforehand. `application/json` is not
//! among them: before it is sent to another origin the browser asks the node, which never agrees.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::failure::Failure;

/// The bytes of a body that is said to be JSON; they may be something else all the same.
pub(super) struct JsonBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        if !is_json(request.headers()) {
            let message = "this request needs the header Content-Type: application/json; nothing was done";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid", message).into_response());
        }
        Bytes::from_request(request, state).await.map(Self).map_err(IntoResponse::into_response)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(header::CONTENT_TYPE);
    let mut kinds = kinds.iter().map(HeaderValue::as_bytes);
    let kind = kinds.next().and_then(|kind| kind.split(|byte| *byte == b';').next());
    kinds.next().is_none()
        && kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_counts_as_json() {
        let is = |kinds: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for kind in kinds {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            is_json(&headers)
        };
        assert!(is(&["application/json"]) && is(&["Application/JSON; charset=utf-8"]));
        for kind in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/jsonp",
            "text/plain; application/json",
            "application/octet-stream",
        ] {
            assert!(!is(&[kind]), "{kind}");
        }
        assert!(!is(&[]) && !is(&["application/json", "text/plain"]));
    }
}
