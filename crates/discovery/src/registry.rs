//! A registry that a Slipring node serves over HTTP: addresses under a name, each for a while.

pub(crate) mod book;

use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::http::request;
use crate::location::{InvalidLocation, Location};
use crate::source::{Failure, Found, Kept, Source, Withdrawn, keep_up};

/// How often the list is read.
const POLL: Duration = Duration::from_secs(2);
/// How long an entry lives, and how often it is renewed.
const LIFE: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);

/// A name in one node's registry.
pub(crate) struct Registry {
    host: String,
    path: String,
}

/// The list, as the registry gives it.
#[derive(Deserialize)]
struct List {
    addresses: Vec<String>,
}

/// An entry, as the registry takes it.
#[derive(Serialize)]
struct Entry<'a> {
    address: &'a str,
    ttl_ms: u128,
}

impl Registry {
    /// `registry://host:port/name`.
    pub(crate) fn new(location: &Location) -> Result<Self, InvalidLocation> {
        location.expect_options(&[])?;
        location.host()?;
        location.endpoints()?;
        if !book::is_name(&location.path) {
            return Err(
                location.invalid(format!("write registry://host:port/name; a name is {}", book::NAME))
            );
        }
        Ok(Self { host: location.host()?.to_owned(), path: format!("/v1/registry/{}", location.path) })
    }

    async fn list(&self) -> Result<Vec<String>, Failure> {
        let (status, body) = request(&self.host, Method::GET, &self.path, Vec::new()).await?;
        if status != StatusCode::OK {
            return Err(Failure::say(format!("{} answered {status}", self.host)));
        }
        let list: List =
            serde_json::from_slice(&body).map_err(|error| Failure::new("its answer is no list", &error))?;
        Ok(list.addresses)
    }

    async fn put(&self, address: &str) -> Result<(), Failure> {
        let entry = Entry { address, ttl_ms: LIFE.as_millis() };
        let body = serde_json::to_vec(&entry).expect("an entry is plain data");
        let (status, body) = request(&self.host, Method::PUT, &self.path, body).await?;
        if status.is_success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&body).chars().take(200).collect::<String>();
        Err(Failure::say(format!("{} answered {status}: {said}", self.host)))
    }

    async fn remove(&self, address: &str) -> Result<(), Failure> {
        let path = format!("{}?address={address}", self.path);
        request(&self.host, Method::DELETE, &path, Vec::new()).await.map(|_| ())
    }
}

impl Source for Registry {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async {
            loop {
                match self.list().await {
                    Ok(addresses) => found.publish(addresses),
                    Err(failure) => return failure,
                }
                tokio::time::sleep(POLL).await;
            }
        })
    }

    fn can_announce(&self) -> bool {
        true
    }

    fn announce<'a>(
        &'a self,
        address: &'a str,
        mut withdrawn: Withdrawn,
        kept: &'a Kept<'a>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            keep_up(RENEWAL, &mut withdrawn, kept, || self.put(address)).await?;
            self.remove(address).await
        })
    }
}
