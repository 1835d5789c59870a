//! The part of a Kubernetes API server that lists and watches EndpointSlices, in its wire format.
//!
//! Lists come in pages of two. A watch replays what happened since its version, then follows; it is chunked
//! without regard to where a line ends. Versions that were compacted are refused with 410 within the stream.

#![expect(clippy::indexing_slicing, reason = "a test that panics says what is wrong")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PAGE: usize = 2;

/// What happened to which object, in the order of versions.
struct Happening {
    version: u64,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    version: u64,
    compacted: u64,
    objects: BTreeMap<String, Value>,
    log: Vec<Happening>,
    expired: usize,
    lists: usize,
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
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(talk(stream, Arc::clone(&shared), sender.clone()));
            }
        });
        Self { port, state, changed, task }
    }

    /// Ends all watches; further ones wait.
    pub(crate) fn close_watches(&self) {
        self.changed.send_replace(false);
    }

    pub(crate) fn open_watches(&self) {
        self.changed.send_replace(true);
    }

    /// Forgets the history.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock();
        state.compacted = state.version;
        state.log.clear();
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

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    body: Vec<u8>,
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let unescaped = |text: &str| text.replace("%3D", "=").replace("%2F", "/");
    let query = pairs.map(|(name, value)| (name.to_owned(), unescaped(value))).collect();
    Some(Request { method, path: path.to_owned(), query, body })
}

async fn talk(stream: TcpStream, state: Arc<Mutex<State>>, changed: watch::Sender<bool>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let name = request.path.split("/endpointslices/").nth(1).map(str::to_owned);
        let is_watch = request.query.contains_key("watch");
        let (status, answer) = match request.method.as_str() {
            "GET" if is_watch => {
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
        let head = format!(
            "HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        if stream.write_all(format!("{head}{answer}").as_bytes()).await.is_err() {
            return;
        }
    }
}

fn change(state: &mut State, kind: &'static str, name: String, object: Option<Value>) -> Value {
    state.version += 1;
    let version = state.version;
    let mut object = object.unwrap_or_else(|| state.objects[&name].clone());
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    if kind == "DELETED" {
        state.objects.remove(&name);
    } else {
        state.objects.insert(name, object.clone());
    }
    state.log.push(Happening { version, kind, object: object.clone() });
    object
}

fn is_selected(object: &Value, request: &Request) -> bool {
    let namespace = request.path.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next());
    if object["metadata"]["namespace"].as_str() != namespace {
        return false;
    }
    let Some((label, value)) =
        request.query.get("labelSelector").and_then(|selector| selector.split_once('='))
    else {
        return true;
    };
    object["metadata"]["labels"][label] == value
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
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410,
        });
        say(stream, "ERROR", &status).await?;
        return stream.write_all(b"0\r\n\r\n").await;
    }
    loop {
        let happened: Vec<(u64, &str, Value)> = {
            let state = state.lock();
            let new = state.log.iter().filter(|happening| happening.version > seen);
            new.map(|happening| (happening.version, happening.kind, happening.object.clone())).collect()
        };
        for (version, kind, object) in happened {
            seen = version;
            if is_selected(&object, request) {
                say(stream, kind, &object).await?;
            }
        }
        let bookmark = json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": { "resourceVersion": seen.to_string(), "creationTimestamp": null },
        });
        say(stream, "BOOKMARK", &bookmark).await?;
        if is_open.changed().await.is_err() || !*is_open.borrow_and_update() {
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
