//! etcd: one key for each address under a prefix, each on a lease that its node renews.
//!
//! The list is read once and then followed by a watch from the next revision on; when the watch ends for any
//! reason (a server that restarts, a revision that was compacted away), it begins anew with a read.

mod messages;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use self::messages::{
    DELETE, Event, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::location::{InvalidLocation, Location};
use crate::source::{Failure, Found, Kept, Source, Withdrawn, keep_up};

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How often a silent server is asked for a sign of life, and how long that may take.
const SILENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// How long a lease lives, in seconds, and how often it is renewed.
const LIFE_SECONDS: i64 = 10;
const RENEWAL: Duration = Duration::from_secs(3);
/// The most keys read and remembered.
const KEYS_MAX: usize = 4096;

/// A prefix in the keys of a cluster of etcd.
pub(crate) struct Etcd {
    endpoints: Vec<Endpoint>,
    /// Which one to try next.
    turn: AtomicUsize,
    /// With a slash at its end.
    prefix: String,
}

/// A connection to one of the servers.
struct Client(Grpc<Channel>);

impl Etcd {
    /// `etcd://host:port[,host:port]/prefix`.
    pub(crate) fn new(location: &Location) -> Result<Self, InvalidLocation> {
        location.expect_options(&[])?;
        if location.path.is_empty() {
            return Err(location.invalid("write etcd://host:port/prefix"));
        }
        let endpoint = |host: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{host}"));
            let endpoint = endpoint.map_err(|error| location.invalid(error.to_string()))?;
            let (silence, patience) = SILENCE;
            Ok(endpoint
                .connect_timeout(TIMEOUT)
                .http2_keep_alive_interval(silence)
                .keep_alive_timeout(patience)
                .keep_alive_while_idle(true))
        };
        let endpoints = location.endpoints()?.iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(Self { endpoints, turn: AtomicUsize::new(0), prefix: format!("{}/", location.path) })
    }

    /// Connects to the next server in turn.
    async fn connect(&self) -> Result<Client, Failure> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let endpoint = self.endpoints.iter().cycle().nth(turn % self.endpoints.len());
        let endpoint = endpoint.expect("a location has at least one host");
        let what = endpoint.uri().to_string();
        let channel = endpoint.connect().await.map_err(|error| Failure::new(&what, &error))?;
        Ok(Client(Grpc::new(channel)))
    }

    /// The first key and the first behind the last: a slash and the letter after it.
    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let mut end = self.prefix.clone();
        end.pop();
        (self.prefix.clone().into_bytes(), format!("{end}0").into_bytes())
    }

    async fn read_and_watch(&self, found: &Found) -> Result<Infallible, Failure> {
        let client = self.connect().await?;
        let (key, range_end) = self.range();
        let request = RangeRequest { key: key.clone(), range_end: range_end.clone(), limit: KEYS_MAX as i64 };
        let range: RangeResponse = client.ask("/etcdserverpb.KV/Range", request).await?;
        let start_revision = range.header.map_or(0, |header| header.revision) + 1;
        let mut keys: BTreeMap<Vec<u8>, String> =
            range.kvs.into_iter().take(KEYS_MAX).map(|pair| (pair.key, text(&pair.value))).collect();
        found.publish(keys.values().cloned());
        let create = WatchCreateRequest { key, range_end, start_revision };
        let mut answers = client.watch(WatchRequest { create: Some(create) }).await?;
        while let Some(answer) =
            answers.message().await.map_err(|error| Failure::new("the watch ended", &error))?
        {
            if answer.canceled {
                return Err(Failure::say(format!("the watch was cancelled: {}", answer.cancel_reason)));
            }
            if !answer.events.is_empty() {
                apply(&mut keys, answer.events);
                found.publish(keys.values().cloned());
            }
        }
        Err(Failure::say("the watch ended"))
    }

    async fn keep(&self, address: &str, withdrawn: &mut Withdrawn, kept: &Kept<'_>) -> Result<(), Failure> {
        let client = self.connect().await?;
        let grant = LeaseGrantRequest { ttl: LIFE_SECONDS, id: 0 };
        let lease: LeaseGrantResponse = client.ask("/etcdserverpb.Lease/LeaseGrant", grant).await?;
        if !lease.error.is_empty() {
            return Err(Failure::say(format!("no lease is granted: {}", lease.error)));
        }
        let key = format!("{}{address}", self.prefix).into_bytes();
        let renew = || async {
            client.renew(lease.id).await?;
            client.ensure(&key, address, lease.id).await
        };
        keep_up(RENEWAL, withdrawn, kept, renew).await?;
        // The key goes with its lease.
        let revoke = LeaseRevokeRequest { id: lease.id };
        client.ask::<_, LeaseRevokeResponse>("/etcdserverpb.Lease/LeaseRevoke", revoke).await.map(|_| ())
    }
}

impl Client {
    /// The connection, ready for one more call.
    async fn ready(&self) -> Result<Grpc<Channel>, Failure> {
        let mut calls = self.0.clone();
        calls.ready().await.map_err(|error| Failure::new("not connected any more", &error))?;
        Ok(calls)
    }

    /// One question, one answer.
    async fn ask<Q, A>(&self, method: &'static str, question: Q) -> Result<A, Failure>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let asked = async {
            let mut calls = self.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            let request = tonic::Request::new(question);
            let answer = calls.unary(request, PathAndQuery::from_static(method), codec).await;
            answer.map(tonic::Response::into_inner).map_err(|error| Failure::new(method, &error))
        };
        in_time(method, asked).await
    }

    /// Gives the lease another life; fails when it is over.
    async fn renew(&self, id: i64) -> Result<(), Failure> {
        let method = "/etcdserverpb.Lease/LeaseKeepAlive";
        let renewed = async {
            let mut calls = self.ready().await?;
            let codec = ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
            let questions = tonic::Request::new(stream::iter([LeaseKeepAliveRequest { id }]));
            let answers = calls.streaming(questions, PathAndQuery::from_static(method), codec).await;
            let mut answers = answers.map_err(|error| Failure::new(method, &error))?.into_inner();
            let answer = answers.message().await.map_err(|error| Failure::new(method, &error))?;
            match answer {
                Some(answer) if answer.ttl > 0 => Ok(()),
                _ => Err(Failure::say("the lease is over")),
            }
        };
        in_time(method, renewed).await
    }

    /// Writes the key unless it is there on this lease: it may be of an earlier start, or have been deleted.
    async fn ensure(&self, key: &[u8], address: &str, lease: i64) -> Result<(), Failure> {
        let request = RangeRequest { key: key.to_vec(), range_end: Vec::new(), limit: 1 };
        let range: RangeResponse = self.ask("/etcdserverpb.KV/Range", request).await?;
        if range.kvs.first().is_some_and(|pair| pair.lease == lease) {
            return Ok(());
        }
        let put = PutRequest { key: key.to_vec(), value: address.as_bytes().to_vec(), lease };
        self.ask::<_, PutResponse>("/etcdserverpb.KV/Put", put).await.map(|_| ())
    }

    async fn watch(&self, create: WatchRequest) -> Result<tonic::Streaming<WatchResponse>, Failure> {
        let method = "/etcdserverpb.Watch/Watch";
        let begun = async {
            let mut calls = self.ready().await?;
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            // The stream of questions stays open as long as the watch is wanted.
            let questions = tonic::Request::new(stream::iter([create]).chain(stream::pending()));
            let answers = calls.streaming(questions, PathAndQuery::from_static(method), codec).await;
            answers.map(tonic::Response::into_inner).map_err(|error| Failure::new(method, &error))
        };
        in_time(method, begun).await
    }
}

async fn in_time<T>(what: &str, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::say(format!("{what}: no answer within {TIMEOUT:?}"))),
    }
}

fn apply(keys: &mut BTreeMap<Vec<u8>, String>, events: Vec<Event>) {
    for event in events {
        let Some(pair) = event.pair else { continue };
        if event.kind == DELETE {
            keys.remove(&pair.key);
        } else if keys.len() < KEYS_MAX || keys.contains_key(&pair.key) {
            keys.insert(pair.key, text(&pair.value));
        }
    }
}

/// A value as text; what is none becomes something that is no address.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

impl Source for Etcd {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async {
            let Err(failure) = self.read_and_watch(found).await;
            failure
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
        Box::pin(async move { self.keep(address, &mut withdrawn, kept).await })
    }
}
