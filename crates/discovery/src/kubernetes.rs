//! Kubernetes: the endpoints of the EndpointSlices that a label selector names, listed and then watched.
//!
//! Endpoints that are not ready count as well: a node is ready only once it has found the others. Those that
//! are being terminated do not. The service account needs `list` and `watch` on `endpointslices`; without
//! `watch`, the list is read anew after each rest.

mod refusal;
mod slice;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use http::Response;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Config, ResourceExt};
use tower::util::MapResponseLayer;

use self::refusal::{Requested, refused};
use self::slice::PortChoice;
use crate::location::{InvalidLocation, Location};
use crate::source::{Failure, Found, Source};

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(5);
/// After how many seconds the server ends a watch, and how long it may be silent: so a connection that has
/// died without a word is noticed.
const WATCH_SECONDS: u32 = 60;
const SILENCE: Duration = Duration::from_secs(75);
/// The most slices remembered; more addresses than those of one are hardly believed anyway.
const SLICES_MAX: usize = 1024;

/// EndpointSlices in one namespace.
pub(crate) struct Kubernetes {
    /// Without one, that of the configuration.
    namespace: Option<String>,
    selector: String,
    port: PortChoice,
    /// A file to take the server and the credentials from, in place of the environment's.
    kubeconfig: Option<PathBuf>,
}

/// What each slice said last, and what a list that is not complete yet has said.
#[derive(Default)]
struct Slices {
    known: BTreeMap<String, Vec<String>>,
    listed: BTreeMap<String, Vec<String>>,
}

impl Kubernetes {
    /// `kubernetes://namespace/?selector=name=value&port=name`.
    pub(crate) fn new(location: &Location) -> Result<Self, InvalidLocation> {
        location.expect_options(&["selector", "port", "kubeconfig"])?;
        let namespace = match location.hosts.as_slice() {
            [] => None,
            [namespace] => Some(namespace.clone()),
            _ => return Err(location.invalid("it takes one namespace")),
        };
        // A plus sign is never part of a selector; a space would end the source.
        let selector = location.option("selector").unwrap_or_default().replace('+', " ");
        if selector.is_empty() {
            let example = "kubernetes://namespace/?selector=kubernetes.io/service-name=slipring";
            return Err(
                location.invalid(format!("without a selector all services would be meant; write {example}"))
            );
        }
        let port = location.option("port").map_or(PortChoice::Only, PortChoice::read);
        let kubeconfig = location.option("kubeconfig").map(PathBuf::from);
        Ok(Self { namespace, selector, port, kubeconfig })
    }

    async fn config(&self) -> Result<Config, Failure> {
        let mut config = match &self.kubeconfig {
            None => Config::infer().await.map_err(|error| Failure::new("no configuration", &error))?,
            Some(path) => {
                let failed = |error| Failure::new(&path.display().to_string(), &error);
                let file = Kubeconfig::read_from(path).map_err(failed)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
            }
        };
        config.connect_timeout = Some(CONNECTING);
        config.read_timeout = Some(SILENCE);
        // What it would repeat by itself, nobody would hear of.
        config.default_retry = false;
        Ok(config)
    }

    async fn list_and_watch(&self, found: &Found) -> Result<Infallible, Failure> {
        let config = self.config().await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let requested = Requested::default();
        let client = client(config, &requested).map_err(|error| Failure::new("no client", &error))?;
        let kind = GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice");
        let resource = ApiResource::from_gvk_with_plural(&kind, "endpointslices");
        let slices: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource);
        let watch = watcher::Config::default().labels(&self.selector).timeout(WATCH_SECONDS);
        let mut events = std::pin::pin!(watcher::watcher(slices, watch));
        let mut held = Slices::default();
        while let Some(event) = events.next().await {
            let event = event.map_err(|error| refused(&error, &namespace).asking(requested.taken()))?;
            if held.apply(event, &self.port) {
                found.publish(held.known.values().flatten().cloned());
            }
        }
        Err(Failure::say("the watch ended"))
    }
}

impl Slices {
    /// Takes an event in; `true` when what is known may have changed.
    fn apply(&mut self, event: Event<DynamicObject>, port: &PortChoice) -> bool {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => insert(&mut self.listed, &object, port),
            Event::InitDone => {
                self.known = std::mem::take(&mut self.listed);
                return true;
            }
            Event::Apply(object) => {
                insert(&mut self.known, &object, port);
                return true;
            }
            Event::Delete(object) => return self.known.remove(&object.name_any()).is_some(),
        }
        false
    }
}

/// A client that notes what rest the server asks for.
fn client(config: Config, requested: &Requested) -> Result<Client, kube::Error> {
    let requested = requested.clone();
    let note = MapResponseLayer::new(move |response: Response<_>| {
        requested.note(response.headers());
        response
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&note).build())
}

/// Keeps what a slice says; one that cannot be read says nothing.
fn insert(slices: &mut BTreeMap<String, Vec<String>>, object: &DynamicObject, port: &PortChoice) {
    let name = object.name_any();
    match slice::addresses(&object.data, port) {
        Ok(addresses) if slices.len() < SLICES_MAX || slices.contains_key(&name) => {
            slices.insert(name, addresses);
        }
        Ok(_) => tracing::warn!(slice = name, "left out, for there are more than {SLICES_MAX} slices"),
        Err(error) => {
            tracing::warn!(slice = name, %error, "left out, for it cannot be read");
            slices.remove(&name);
        }
    }
}

impl Source for Kubernetes {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async {
            let Err(failure) = self.list_and_watch(found).await;
            failure
        })
    }
}
