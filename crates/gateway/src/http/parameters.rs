//! Parameters of queries, and headers of Slipring's own: every route refuses those that it does not take, and says which
//! it takes.
//!
//! The description of the interface names them, so that what is described and what is taken are the same.

use std::sync::LazyLock;

use axum::extract::{FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::OPENAPI;
use super::failure::Failure;

/// How much of a wrong name is repeated.
const SHOWN_CHARS_MAX: usize = 40;

/// How the headers of Slipring's own begin.
const OWN: &str = "slipring-";

/// The last part of a path that takes all that is left.
const REST: &str = "{key}";

/// What one method of one route takes.
struct Route {
    path: String,
    method: String,
    names: Vec<String>,
    /// Its headers that begin as `OWN` does.
    headers: Vec<String>,
}

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| routes(OPENAPI));

/// Refuses a request with a parameter that its route does not take.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match unknown(&request) {
        Some(failure) => failure.into_response(),
        None => next.run(request).await,
    }
}

/// The parameters of a request; a wrong value is answered as every error is.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Query::try_from_uri(&parts.uri).map(|Query(parameters)| Self(parameters)).map_err(|error| {
            Failure::invalid(format!(
                "the parameters cannot be read: {}",
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
            ))
        })
    }
}

fn unknown(request: &Request) -> Option<Failure> {
    let mut own =
        request.headers().keys().map(HeaderName::as_str).filter(|name| name.starts_with(OWN)).peekable();
    let query = request.uri().query().filter(|query| !query.is_empty());
    if query.is_none() && own.peek().is_none() {
        return None;
    }
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    // A path or a method that is not taken is answered as such.
    let route = route(request.uri().path(), method.as_str())?;
    let is_taken = |name: &str| route.headers.iter().any(|taken| taken.eq_ignore_ascii_case(name));
    if let Some(wrong) = own.find(|name| !is_taken(name)) {
        return Some(refusal("header", wrong, &route.headers));
    }
    let Ok(Query(given)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) else {
        return Some(Failure::invalid("the query cannot be read; nothing was done"));
    };
    let wrong = given.into_iter().map(|(name, _)| name).find(|name| !route.names.contains(name))?;
    Some(refusal("parameter", &wrong, &route.names))
}

fn refusal(what: &str, wrong: &str, taken: &[String]) -> Failure {
    let shown: String = wrong.chars().take(SHOWN_CHARS_MAX).collect();
    let advice = match taken {
        [] => "it takes none".to_owned(),
        names => format!("it takes {}", names.join(", ")),
    };
    Failure::invalid(format!("this request takes no {what} \"{shown}\": {advice}; nothing was done"))
}

/// The route of a request, if there is one.
fn route(path: &str, method: &str) -> Option<&'static Route> {
    let is_asked =
        |route: &&Route| route.method.eq_ignore_ascii_case(method) && is_path_of(&route.path, path);
    ROUTES.iter().find(is_asked)
}

fn is_path_of(described: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    for part in described.split('/') {
        match parts.next() {
            None => return false,
            Some(_) if part == REST => return true,
            Some(found) if part == found || part.starts_with('{') => {}
            Some(_) => return false,
        }
    }
    parts.next().is_none()
}

fn routes(description: &str) -> Vec<Route> {
    let document: Value = serde_json::from_str(description).unwrap_or_default();
    let mut routes = Vec::new();
    let paths = document.get("paths").and_then(Value::as_object);
    for (path, methods) in paths.into_iter().flatten() {
        for (method, described) in methods.as_object().into_iter().flatten() {
            let lists = [methods.get("parameters"), described.get("parameters")];
            let all: Vec<&Value> =
                lists.into_iter().flatten().filter_map(Value::as_array).flatten().collect();
            let mut headers = names(&all, "header");
            headers.retain(|name| name.to_ascii_lowercase().starts_with(OWN));
            let (path, method) = (path.clone(), method.clone());
            routes.push(Route { path, method, names: names(&all, "query"), headers });
        }
    }
    routes
}

/// The names of the parameters in one place.
fn names(parameters: &[&Value], place: &str) -> Vec<String> {
    let there = parameters.iter().filter(|parameter| parameter.get("in").is_some_and(|found| found == place));
    there.filter_map(|parameter| parameter.get("name")?.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parameters_come_from_the_description() {
        let of = |path, method| route(path, method).map(|route| route.names.join(" "));
        for key in ["/v1/kv/b/k", "/v1/kv/b/k/l", "/v1/kv/b//", "/v1/kv/b/%2F"] {
            assert_eq!(of(key, "PUT").as_deref(), Some("key_encoding ttl_ms"), "{key}");
            assert_eq!(of(key, "GET").as_deref(), Some("key_encoding"), "{key}");
        }
        let headers = route("/v1/kv/b/k", "DELETE").map(|route| route.headers.join(" "));
        assert_eq!(headers.as_deref(), Some("Slipring-Read-Acks Slipring-Write-Acks Slipring-Timeout-Ms"));
        assert_eq!(of("/v1/kv/b", "GET").as_deref(), Some("cursor count key_encoding"));
        assert_eq!(of("/v1/registry/a", "DELETE").as_deref(), Some("address"));
        assert_eq!(of("/healthz", "GET").as_deref(), Some(""));
        for (path, method) in
            [("/v1/kv/b/k", "POST"), ("/v1/kv", "GET"), ("/v1/buckets/b/c", "GET"), ("/nosuch", "GET")]
        {
            assert_eq!(of(path, method), None, "{path}");
        }
    }
}
