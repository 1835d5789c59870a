//! The part of a Kubernetes API server that lists and watches EndpointSlices, in its wire format.
//!
//! Lists come in pages of two. A watch replays what happened since its version, then follows; it is chunked
//! without regard to where a line ends. Versions that were compacted are refused with 410 within the stream.
//! On demand it refuses requests, as a server that is busy, broken or strict does, and ends watches with an error.

#![expect(clippy::indexing_slicing, reason = "a test that panics says what is wrong")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub(crate) mod objections;
pub(crate) mod request;
mod selector;

use objections::{objection, too_old};
use request::{Asked, Request, read};

const PAGE: usize = 2;

/// What happened to which object, in the order of versions.
struct Happening {
    version: u64,
    kind: &'static str,
    before: Option<Value>,
    object: Value,
}

/// The answer to the next so many requests of a kind.
pub(crate) struct Refusal {
    pub(crate) asked: Asked,
    pub(crate) status: u16,
    /// In seconds.
    pub(crate) retry_after: Option<u32>,
    pub(crate) times: usize,
}

#[derive(Default)]
struct State {
    version: u64,
    compacted: u64,
    objects: BTreeMap<String, Value>,
    log: Vec<Happening>,
    expired: usize,
    lists: usize,
    refusal: Option<Refusal>,
    asked: Vec<(Asked, Instant)>,
    /// What watches say when they are closed, if not nothing.
    parting: Option<u16>,
    /// The version of the last bookmark.
    bookmarked: u64,
}

/// A server on loopback.
pub(crate) struct Kube {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Kube {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        // `true` while watches are open; sent again with each change.
        let changed = watch::Sender::new(true);
        let (shared, sender) = (Arc::clone(&state), changed.clone());
        let task = tokio::spawn(async move {
            // They end with this task: of a server that is gone, no connection is left.
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                connections.spawn(talk(stream, Arc::clone(&shared), sender.clone()));
            }
        });
        Self { port, state, changed, task }
    }

    /// Ends all watches; further ones wait.
    pub(crate) fn close_watches(&self) {
        self.changed.send_replace(false);
    }

    /// The same, but each says that something is wrong before it ends.
    pub(crate) fn break_watches(&self, status: u16) {
        self.state.lock().parting = Some(status);
        self.close_watches();
    }

    pub(crate) fn open_watches(&self) {
        self.state.lock().parting = None;
        self.changed.send_replace(true);
    }

    /// Waits until a watch has been told of the last version.
    pub(crate) async fn until_bookmarked(&self) {
        let until = Instant::now() + Duration::from_secs(40);
        let is_behind = |state: &State| state.bookmarked != state.version;
        while is_behind(&self.state.lock()) {
            assert!(Instant::now() < until, "no watch is open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Forgets the history.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock();
        state.compacted = state.version;
        state.log.clear();
    }

    /// Refuses requests from now on.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.state.lock().refusal = Some(refusal);
    }

    /// Refuses nothing any more.
    pub(crate) fn relent(&self) {
        self.state.lock().refusal = None;
    }

    /// When something was asked.
    pub(crate) fn asked(&self, what: Asked) -> Vec<Instant> {
        let state = self.state.lock();
        state.asked.iter().filter(|(asked, _)| *asked == what).map(|(_, at)| *at).collect()
    }

    /// How many watches were refused with 410, and how many lists were begun.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.expired, state.lists)
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        self.task.abort();
        self.changed.send_replace(false);
    }
}

async fn talk(stream: TcpStream, state: Arc<Mutex<State>>, changed: watch::Sender<bool>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let name = request.path.split("/endpointslices/").nth(1).map(str::to_owned);
        let asked = request.asked();
        if let Some(answer) = asked.and_then(|asked| refusal(&mut state.lock(), asked)) {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let (status, answer) = match request.method.as_str() {
            "GET" if asked == Some(Asked::Watch) => {
                if follow(&mut stream, &request, &state, &changed).await.is_err() {
                    return;
                }
                continue;
            }
            "GET" => (200, list(&mut state.lock(), &request)),
            _ if !request.path.contains("endpointslices") => (201, json!({})),
            "DELETE" => (200, change(&mut state.lock(), "DELETED", name.expect("a name"), None)),
            _ => {
                let object: Value = serde_json::from_slice(&request.body).expect("JSON");
                let (kind, status) = if request.method == "PUT" { ("MODIFIED", 200) } else { ("ADDED", 201) };
                let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
                (status, change(&mut state.lock(), kind, name, Some(object)))
            }
        };
        changed.send_modify(|_| ());
        let answer = answer.to_string();
        if stream
            .write_all(response(status, "content-type: application/json\r\n", &answer).as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

fn response(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Said\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// Notes what is asked; the answer to it if it is refused.
fn refusal(state: &mut State, asked: Asked) -> Option<String> {
    state.asked.push((asked, Instant::now()));
    let refusal = state.refusal.as_mut().filter(|refusal| refusal.asked == asked && refusal.times > 0)?;
    refusal.times -= 1;
    let rest = refusal.retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    // Whoever is turned away before the request is looked at is told so in plain text.
    if refusal.status == 429 {
        let headers = format!("content-type: text/plain; charset=utf-8\r\n{rest}");
        return Some(response(429, &headers, "Too many requests, please try again later.\n"));
    }
    let headers = format!("content-type: application/json\r\n{rest}");
    Some(response(refusal.status, &headers, &objection(refusal.status, asked, "ring").to_string()))
}

fn change(state: &mut State, kind: &'static str, name: String, object: Option<Value>) -> Value {
    state.version += 1;
    let version = state.version;
    let mut object = object.unwrap_or_else(|| state.objects[&name].clone());
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    let before = state.objects.remove(&name);
    if kind != "DELETED" {
        state.objects.insert(name, object.clone());
    }
    state.log.push(Happening { version, kind, before, object: object.clone() });
    object
}

fn is_selected(object: &Value, request: &Request) -> bool {
    let namespace = request.path.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next());
    if object["metadata"]["namespace"].as_str() != namespace {
        return false;
    }
    let selector = request.query.get("labelSelector").map_or("", String::as_str);
    selector::selects(selector, &object["metadata"]["labels"])
}

/// What a watch tells of what happened: an object that is no longer selected has gone, for all it knows.
fn told(happening: &Happening, request: &Request) -> Option<(&'static str, Value)> {
    let was = happening.before.as_ref().is_some_and(|before| is_selected(before, request));
    let kind = match (was, is_selected(&happening.object, request)) {
        (false, false) => return None,
        (false, true) => "ADDED",
        (true, false) => "DELETED",
        (true, true) => happening.kind,
    };
    Some((kind, happening.object.clone()))
}

fn list(state: &mut State, request: &Request) -> Value {
    let from: usize = request.query.get("continue").map_or(0, |token| token.parse().expect("our own token"));
    state.lists += usize::from(from == 0);
    let selected: Vec<&Value> =
        state.objects.values().filter(|object| is_selected(object, request)).collect();
    let mut metadata = json!({ "resourceVersion": state.version.to_string() });
    if selected.len() > from + PAGE {
        metadata["continue"] = json!((from + PAGE).to_string());
        metadata["remainingItemCount"] = json!(selected.len() - from - PAGE);
    }
    let mut items: Vec<Value> = selected.into_iter().skip(from).take(PAGE).cloned().collect();
    for item in &mut items {
        // Within a list, items do not repeat what they are.
        item.as_object_mut().expect("an object").retain(|name, _| name != "kind" && name != "apiVersion");
    }
    json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata, "items": items })
}

async fn follow(
    stream: &mut BufReader<TcpStream>,
    request: &Request,
    state: &Mutex<State>,
    changed: &watch::Sender<bool>,
) -> std::io::Result<()> {
    let mut is_open = changed.subscribe();
    // A sender is held by this very task.
    let _ = is_open.wait_for(|is_open| *is_open).await;
    let mut seen: u64 =
        request.query.get("resourceVersion").map_or(0, |version| version.parse().expect("a number"));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let is_expired = seen < state.lock().compacted;
    if is_expired {
        state.lock().expired += 1;
        let oldest = state.lock().compacted;
        say(stream, "ERROR", &too_old(seen, oldest)).await?;
        return stream.write_all(b"0\r\n\r\n").await;
    }
    loop {
        let happened: Vec<(&str, Value)> = {
            let state = state.lock();
            let new = state.log.iter().filter(|happening| happening.version > seen);
            let happened = new.filter_map(|happening| told(happening, request)).collect();
            seen = state.version;
            happened
        };
        for (kind, object) in happened {
            say(stream, kind, &object).await?;
        }
        if request.query.get("allowWatchBookmarks").is_some_and(|allowed| allowed == "true") {
            let bookmark = json!({
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": { "resourceVersion": seen.to_string(), "creationTimestamp": null },
            });
            say(stream, "BOOKMARK", &bookmark).await?;
            state.lock().bookmarked = seen;
        }
        if is_open.changed().await.is_err() || !*is_open.borrow_and_update() {
            let parting = state.lock().parting;
            if let Some(status) = parting {
                say(stream, "ERROR", &objection(status, Asked::Watch, "ring")).await?;
            }
            return stream.write_all(b"0\r\n\r\n").await;
        }
    }
}

/// One line of a watch, in two chunks that end anywhere.
async fn say(stream: &mut BufReader<TcpStream>, kind: &str, object: &Value) -> std::io::Result<()> {
    let line = format!("{}\n", json!({ "type": kind, "object": object }));
    let (first, second) = line.as_bytes().split_at(line.len() / 3);
    for part in [first, second] {
        stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
        stream.write_all(part).await?;
        stream.write_all(b"\r\n").await?;
        stream.flush().await?;
    }
    Ok(())
}
