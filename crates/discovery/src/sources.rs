//! Sources as an operator writes them: what each is, and all of them together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use thiserror::Error;

use crate::Discovery;
use crate::address::InvalidAddress;
use crate::announcement::Announcement;
use crate::dns::Dns;
use crate::follower::Follower;
use crate::location::{InvalidLocation, Location};
use crate::registry::Registry;
use crate::seeds::StaticSeeds;
use crate::source::Source;

/// The most sources one node asks.
const SOURCES_MAX: usize = 16;
/// The most addresses given as candidates at a time.
const CANDIDATES_MAX: usize = 1024;
/// How long withdrawing may take.
const WITHDRAWING: Duration = Duration::from_millis(1500);
/// Every scheme, and the feature that it needs, if any.
const SCHEMES: &[(&str, Option<&str>)] = &[
    ("dns", None),
    ("dns+srv", None),
    ("registry", None),
    ("etcd", Some("etcd")),
    ("zookeeper", Some("zookeeper")),
    ("kubernetes", Some("kubernetes")),
    ("libp2p", Some("libp2p")),
];

/// Why a text names no source.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidSource {
    /// It has no scheme and is no address.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// It has a scheme whose parts it lacks.
    #[error(transparent)]
    Location(#[from] InvalidLocation),
    /// There is no such scheme.
    #[error("\"{0}\" begins with a scheme that does not exist; there are: {known}", known = schemes())]
    Unknown(String),
    /// The scheme exists, but not in this build.
    #[error(
        "\"{text}\" needs the feature {feature}, which this build does not have: build with --features {feature}"
    )]
    NotBuilt {
        /// What was given.
        text: String,
        /// The cargo feature to build with.
        feature: &'static str,
    },
    /// An address cannot be put there.
    #[error("\"{0}\" cannot be announced at: only registry, etcd and zookeeper can, and libp2p with listen=")]
    CannotAnnounce(String),
    /// There are more than one node asks.
    #[error("there are more than {SOURCES_MAX} sources")]
    TooMany,
}

fn schemes() -> String {
    let names: Vec<String> = SCHEMES.iter().map(|(scheme, _)| format!("{scheme}://")).collect();
    names.join(", ")
}

/// Addresses and other sources, asked together.
///
/// Must be used within a Tokio runtime; what it started ends when it is dropped.
#[derive(Default)]
pub struct Sources {
    seeds: StaticSeeds,
    remote: Vec<Remote>,
    announcements: Mutex<Vec<Announcement>>,
}

struct Remote {
    name: String,
    source: Arc<dyn Source>,
    follower: Follower,
}

impl Sources {
    /// Reads what an operator wrote: in each text words separated by spaces, each of them one
    /// `scheme://...` or addresses separated by commas. Nothing is contacted yet. A source that others know this node by
    /// keeps its key in `folder`; without one it is somebody else at each start.
    ///
    /// # Errors
    /// [`InvalidSource`] tells which word is none, and why.
    pub fn read<S: AsRef<str>>(texts: &[S], folder: Option<&Path>) -> Result<Self, InvalidSource> {
        let (mut addresses, mut remote) = (Vec::new(), Vec::new());
        for word in texts.iter().flat_map(|text| text.as_ref().split_whitespace()) {
            if word.contains("://") {
                let location = Location::parse(word)?;
                let source = open(&location, folder)?;
                let follower = Follower::new(word, Arc::clone(&source));
                remote.push(Remote { name: word.to_owned(), source, follower });
            } else {
                addresses.extend(word.split(',').filter(|address| !address.is_empty()).map(str::to_owned));
            }
        }
        if remote.len() > SOURCES_MAX {
            return Err(InvalidSource::TooMany);
        }
        Ok(Self { seeds: StaticSeeds::new(addresses)?, remote, announcements: Mutex::default() })
    }

    /// Like [`read`](Self::read), for sources that are told of this node and need not be asked.
    ///
    /// # Errors
    /// [`InvalidSource`], also for a source that cannot be told anything.
    pub fn read_for_announcing<S: AsRef<str>>(
        texts: &[S],
        folder: Option<&Path>,
    ) -> Result<Self, InvalidSource> {
        let sources = Self::read(texts, folder)?;
        let deaf =
            sources.remote.iter().find(|remote| !remote.source.can_announce()).map(|remote| &remote.name);
        match sources.seeds.addresses().first().or(deaf) {
            Some(text) => Err(InvalidSource::CannotAnnounce(text.clone())),
            None => Ok(sources),
        }
    }
}

impl Discovery for Sources {
    fn is_empty(&self) -> bool {
        self.seeds.is_empty() && self.remote.is_empty()
    }

    fn candidates(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            let mut lists = join_all(self.remote.iter().map(|remote| remote.follower.candidates())).await;
            lists.insert(0, self.seeds.addresses().to_vec());
            in_turn(lists)
        })
    }

    fn places(&self) -> Vec<String> {
        let remote = self.remote.iter().map(|remote| remote.name.clone());
        self.seeds.addresses().iter().cloned().chain(remote).collect()
    }

    fn announce(&self, address: &str) {
        let able = self.remote.iter().filter(|remote| remote.source.can_announce());
        let mut announcements = self.announcements.lock();
        if announcements.iter().any(|announcement| announcement.is_of(address)) {
            return;
        }
        let begun = able.map(|remote| Announcement::begin(&remote.name, Arc::clone(&remote.source), address));
        announcements.extend(begun);
    }

    fn withdraw(&self) -> BoxFuture<'_, ()> {
        let announcements = std::mem::take(&mut *self.announcements.lock());
        Box::pin(async {
            let ended = join_all(announcements.into_iter().map(Announcement::end));
            if tokio::time::timeout(WITHDRAWING, ended).await.is_err() {
                tracing::warn!(
                    "not every source could be told that this node stops; what it holds lapses by itself"
                );
            }
        })
    }
}

/// One from each list, then the next of each: a source that says much does not crowd out others.
fn in_turn(lists: Vec<Vec<String>>) -> Vec<String> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut all = Vec::new();
    while !lists.is_empty() && all.len() < CANDIDATES_MAX {
        lists.retain_mut(|list| {
            let Some(address) = list.next() else { return false };
            if seen.insert(address.clone()) {
                all.push(address);
            }
            true
        });
    }
    all
}

/// The source at a location.
fn open(location: &Location, folder: Option<&Path>) -> Result<Arc<dyn Source>, InvalidSource> {
    // Only some sources keep anything.
    let _ = folder;
    Ok(match location.scheme.as_str() {
        "dns" => Arc::new(Dns::addresses(location)?),
        "dns+srv" => Arc::new(Dns::services(location)?),
        "registry" => Arc::new(Registry::new(location)?),
        #[cfg(feature = "etcd")]
        "etcd" => Arc::new(crate::etcd::Etcd::new(location)?),
        #[cfg(feature = "kubernetes")]
        "kubernetes" => Arc::new(crate::kubernetes::Kubernetes::new(location)?),
        #[cfg(feature = "libp2p")]
        "libp2p" => Arc::new(crate::dht::Dht::new(location, folder)?),
        #[cfg(feature = "zookeeper")]
        "zookeeper" => Arc::new(crate::zookeeper::ZooKeeper::new(location)?),
        scheme => match SCHEMES.iter().find(|(known, _)| *known == scheme) {
            Some((_, Some(feature))) => {
                return Err(InvalidSource::NotBuilt { text: location.text.clone(), feature });
            }
            _ => return Err(InvalidSource::Unknown(location.text.clone())),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Sources::read(&[text], None).err().expect("refused").to_string()
    }

    #[tokio::test]
    async fn addresses_come_in_any_number_of_texts() {
        let sources = Sources::read(&["a:1,b:2", "", " c:3  d:4, "], None).expect("sources");
        assert_eq!(sources.candidates().await, ["a:1", "b:2", "c:3", "d:4"]);
        assert!(!sources.is_empty());
        assert!(Sources::read(&["", " , "], None).expect("nothing").is_empty());
    }

    #[test]
    fn a_source_counts_before_it_is_heard() {
        assert!(!Sources::read(&["registry://127.0.0.1:1/x"], None).expect("a source").is_empty());
    }

    #[test]
    fn what_is_no_source_is_refused_with_the_way_out() {
        assert!(error("gopher://a:1").contains("dns+srv://"));
        assert!(error("a").contains("host:port"));
        assert!(error("dns://a").contains("dns://name:port"));
        assert!(error("dns://a:1,b:2").contains("separate sources by spaces"));
        assert!(error("registry://a:1").contains("/name"));
        assert!(error("dns://a:1?servr=x").contains("servr"));
        assert!(Sources::read(&vec!["registry://a:1/n"; SOURCES_MAX + 1], None).is_err());
    }

    #[cfg(not(feature = "etcd"))]
    #[test]
    fn a_source_that_is_not_built_names_its_feature() {
        assert!(error("etcd://a:1/p").contains("--features etcd"));
    }

    #[test]
    fn only_some_can_be_told() {
        assert!(Sources::read_for_announcing(&["registry://a:1/n"], None).is_ok());
        for deaf in ["a:1", "dns://a:1", "registry://a:1/n b:2"] {
            assert!(Sources::read_for_announcing(&[deaf], None).is_err(), "{deaf}");
        }
    }

    #[test]
    fn a_source_that_says_much_does_not_crowd_out_others() {
        let liar: Vec<String> = (1..=2000).map(|port| format!("liar:{port}")).collect();
        let all = in_turn(vec![vec![], liar, vec!["a:1".to_owned(), "liar:1".to_owned(), "b:1".to_owned()]]);
        assert_eq!(all.len(), CANDIDATES_MAX);
        assert_eq!(all.iter().position(|address| address == "b:1"), Some(4));
        assert_eq!(all.iter().filter(|address| *address == "liar:1").count(), 1);
    }
}
