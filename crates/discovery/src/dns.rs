//! The domain name system: a name's addresses with one port, or the services (SRV) of a name.
//!
//! No answer is cached here: a list is asked for anew when its records' time to live is over, but at least so
//! often and at most so often. "No such name" and "no such record" are empty lists, not failures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::address::PER_SOURCE_MAX;
use crate::location::{InvalidLocation, Location};
use crate::source::{Failure, Found, Source};

/// How soon and how late a name is asked for again.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a server may take, and how often it is asked before the lookup fails.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// How many names of services are looked up at a time.
const LOOKUPS_MAX: usize = 8;

/// A name, and what about it is asked.
pub(crate) struct Dns {
    name: String,
    question: Question,
    /// The server to ask; without one, the system's.
    server: Option<SocketAddr>,
}

enum Question {
    /// A and AAAA; every address has this port.
    Addresses(u16),
    /// SRV, then the addresses of each target.
    Services,
}

/// What was heard, and until when it holds.
type Answer = (Vec<String>, Instant);

impl Dns {
    /// `dns://name:port`.
    pub(crate) fn addresses(location: &Location) -> Result<Self, InvalidLocation> {
        let host = location.host()?;
        let port = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        match port {
            Some((name, port)) if port != 0 => Self::new(location, name, Question::Addresses(port)),
            _ => Err(location.invalid("write dns://name:port")),
        }
    }

    /// `dns+srv://_service._tcp.name`.
    pub(crate) fn services(location: &Location) -> Result<Self, InvalidLocation> {
        let name = location.host()?;
        if name.contains(':') {
            return Err(location.invalid("the ports are in the records: write dns+srv://_service._tcp.name"));
        }
        Self::new(location, name, Question::Services)
    }

    fn new(location: &Location, name: &str, question: Question) -> Result<Self, InvalidLocation> {
        location.expect_options(&["server"])?;
        if hickory_resolver::proto::rr::Name::from_utf8(name).is_err() || name.is_empty() {
            return Err(location.invalid("that is no domain name"));
        }
        let server = location.option("server").map(str::parse).transpose();
        let server = server.map_err(|_| location.invalid("the option server is an IP address and a port"))?;
        Ok(Self { name: name.to_owned(), question, server })
    }

    fn resolver(&self) -> Result<TokioResolver, Failure> {
        let failed = |error: NetError| Failure::new("the resolver cannot start", &error);
        let mut builder = match self.server {
            None => TokioResolver::builder_tokio().map_err(failed)?,
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = PATIENCE;
        options.attempts = ATTEMPTS;
        if self.server.is_some() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        builder.build().map_err(failed)
    }

    async fn lookup(&self, resolver: &TokioResolver) -> Result<Answer, Failure> {
        let answer = match self.question {
            Question::Addresses(port) => addresses(resolver, &self.name, port).await,
            Question::Services => services(resolver, &self.name).await,
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) if error.is_no_records_found() => Ok((Vec::new(), Instant::now())),
            Err(error) => Err(Failure::new(&self.name, &error)),
        }
    }
}

async fn addresses(resolver: &TokioResolver, name: &str, port: u16) -> Result<Answer, NetError> {
    let lookup = resolver.lookup_ip(name).await?;
    Ok((lookup.iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect(), lookup.valid_until()))
}

/// The addresses of each target, the preferred ones first. A target without any is left out.
async fn services(resolver: &TokioResolver, name: &str) -> Result<Answer, NetError> {
    let lookup = resolver.lookup(name, RecordType::SRV).await?;
    let records = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(service) if !service.target.is_root() => Some(service.clone()),
        _ => None,
    });
    let mut targets: Vec<_> = records.collect();
    fastrand::shuffle(&mut targets);
    targets.truncate(PER_SOURCE_MAX);
    targets.sort_by_key(|service| service.priority);
    let each = targets.into_iter().map(|service| async move {
        let target = service.target.to_utf8();
        addresses(resolver, &target, service.port).await.inspect_err(|error| {
            tracing::warn!(target, %error, "a service's host has no address");
        })
    });
    let found: Vec<_> = stream::iter(each).buffered(LOOKUPS_MAX).collect().await;
    let mut answer = (Vec::new(), lookup.valid_until());
    for (addresses, until) in found.into_iter().flatten() {
        answer.0.extend(addresses);
        answer.1 = answer.1.min(until);
    }
    Ok(answer)
}

impl Source for Dns {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async {
            // Made anew after each failure: the system's servers may have changed.
            let resolver = match self.resolver() {
                Ok(resolver) => resolver,
                Err(failure) => return failure,
            };
            loop {
                match self.lookup(&resolver).await {
                    Ok((addresses, until)) => {
                        found.publish(addresses);
                        let rest = until.saturating_duration_since(Instant::now());
                        tokio::time::sleep(rest.clamp(POLL.0, POLL.1)).await;
                    }
                    Err(failure) => return failure,
                }
            }
        })
    }
}
