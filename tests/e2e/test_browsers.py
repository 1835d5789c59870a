"""What a web page can send from an operator's browser reaches no route, and nothing changes."""

import http.client
import json
import re

import pytest

from conftest import ROOT, Cluster, Node, http as curl, slipring, wait_until

LOCAL = ("--membership", "local")
# What a page cannot keep its browser from saying.
FOREIGN = [
    {"Host": "evil.example"}, {"Host": "evil.example:{port}"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
    {"Origin": "http://{host}:1"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
]
# What a page can send with no question asked beforehand.
FORM_TYPES = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
BODIES = {
    "/v1/buckets": {"name": "planted"}, "/v1/buckets/{bucket}": {"replicas": 1}, "/v1/layout/changes": {"partitions": 512},
    "/v1/layout/plan": {"partitions": 512}, "/v1/registry/{name}": {"address": "10.0.0.1:1", "ttl_ms": 60000},
}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsers")
    node = Node(folder, 0, extra=("--advertise", "ring-0.ring:7946", "--advertise-redis", "127.0.0.1",
                                  "--advertise-http", "127.0.0.1", "--http-host", "ring.example")).start()
    yield node
    node.kill()


def ask(node, method, path, headers=(), body=None, version=11):
    """One request with exactly these headers; status and body."""
    host, port = node.http.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection._http_vsn, connection._http_vsn_str = version, f"HTTP/{version // 10}.{version % 10}"
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in dict(headers).items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    told = answer.status, answer.read()
    connection.close()
    return told


def operations(node):
    """Each method of each path of the description, with a body where it takes one."""
    described = json.loads(ask(node, "GET", "/openapi.json", {"Host": node.http})[1])
    for path, methods in described["paths"].items():
        place = path.replace("{bucket}", "default").replace("{key}", "kept").replace("{name}", "ring")
        for method in set(methods) - {"parameters"}:
            types = list(methods[method].get("requestBody", {}).get("content", {}))
            body = json.dumps(BODIES.get(path, {})).encode() if types else None
            yield method.upper(), place, types, body


def state(node):
    own = {"Host": node.http}
    paths = ("/v1/layout", "/v1/buckets", "/v1/kv/default", "/v1/kv/default/kept", "/v1/registry/ring")
    return [ask(node, "GET", path, own) for path in paths]


def test_no_route_is_open_to_a_page_from_elsewhere(node):
    assert ask(node, "PUT", "/v1/kv/default/kept", {"Host": node.http}, b"kept")[0] == 204
    before, (host, port) = state(node), node.http.rsplit(":", 1)
    cluster, asked = json.loads(before[0][1])["cluster"], list(operations(node))
    assert len(asked) >= 23
    for method, path, types, body in [*asked, ("OPTIONS", "/v1/layout/changes", [], None), ("GET", "/nowhere", [], None)]:
        for foreign in FOREIGN:
            headers = {"Host": node.http, **({"Content-Type": types[0]} if types else {})}
            headers |= {name: value.format(host=host, port=port) for name, value in foreign.items()}
            status, told = ask(node, method, path, headers, body)
            assert status == 403, (method, path, foreign, status, told)
            assert cluster.encode() not in told and b"evil" not in told
            if method != "HEAD":
                assert json.loads(told)["error"]["kind"] == "forbidden" and len(told) < 400, told
    assert state(node) == before


def test_changes_are_json_and_say_so(node):
    before = state(node)
    changes = [(m, p, body) for m, p, types, body in operations(node) if "application/json" in types or m in ("POST", "PATCH")]
    assert len(changes) == 6, changes
    for method, path, body in changes:
        for kind in FORM_TYPES:
            headers = {"Host": node.http, **({"Content-Type": kind} if kind else {})}
            status, told = ask(node, method, path, headers, body or b"")
            assert status == 415 and b"application/json" in told, (method, path, kind, status, told)
    assert state(node) == before


def test_values_are_of_any_type_where_the_browser_must_ask_first(node):
    """A PUT is never sent to another origin before the node has agreed to it, and it never agrees."""
    for kind in FORM_TYPES:
        headers = {"Host": node.http, **({"Content-Type": kind} if kind else {})}
        assert ask(node, "PUT", "/v1/kv/default/typed", headers, b"any")[0] == 204
    assert ask(node, "POST", "/v1/kv/default/typed", {"Host": node.http, "Content-Type": "text/plain"}, b"any")[0] == 405
    asked = {"Host": node.http, "Access-Control-Request-Method": "PUT"}
    host, port = node.http.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("OPTIONS", "/v1/kv/default/typed", headers=asked)
    answer = connection.getresponse()
    assert answer.status == 405 and not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]
    connection.close()


def test_own_hosts_and_own_pages_pass(node):
    port = node.http.rsplit(":", 1)[1]
    for headers in [
        {"Host": node.http}, {"Host": "localhost"}, {"Host": "127.0.0.9:1"}, {"Host": f"[::1]:{port}"}, {"Host": "ring-0.ring:80"},
        {"Host": "RING.example:443", "Origin": "https://ring.example", "Sec-Fetch-Site": "same-origin"},
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Host": node.http, "Sec-Fetch-Site": "none"},
    ]:
        for path in ("/healthz", "/readyz", "/v1/cluster"):
            assert ask(node, "GET", path, headers)[0] == 200, (path, headers)
    # Checks of load balancers may be as old as this; browsers are not.
    assert ask(node, "GET", "/healthz", version=10)[0] == 200
    assert ask(node, "GET", "/healthz", {"Origin": "http://evil.example"}, version=10)[0] == 403
    assert ask(node, "GET", "/healthz")[0] == 403


def test_the_command_line_goes_on_as_before(node):
    slipring("put", "said", "hello", node=node)
    assert slipring("get", "said", node=node).stdout == "hello\n"
    slipring("bucket", "create", "made", node=node)
    slipring("bucket", "set", "made", "--replicas", "2", node=node)
    slipring("bucket", "delete", "made", node=node)
    slipring("layout", "plan", "--split", node=node)
    slipring("layout", "revert", node=node, check=False)
    slipring("del", "said", node=node)
    slipring("status", node=node)


def methods_of_grpc():
    for file in sorted((ROOT / "proto" / "slipring" / "v1").glob("*.proto")):
        text = file.read_text()
        for service in re.split(r"\nservice ", text)[1:]:
            name = service.split()[0]
            yield from (f"slipring.v1.{name}/{method}" for method in re.findall(r"rpc (\w+)\(", service.split("\n}")[0]))
    yield from ("grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch")
    yield from (f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))


def test_no_method_of_grpc_is_open_to_a_page_from_elsewhere(node):
    before, methods = state(node), list(methods_of_grpc())
    assert len(methods) >= 14, methods
    for method in methods:
        for foreign in ("Host: evil.example", "Origin: http://evil.example", "Sec-Fetch-Site: cross-site"):
            headers = [part for header in ("Content-Type: application/grpc", "TE: trailers", foreign) for part in ("-H", header)]
            status, _, told = curl(node, "POST", f"/{method}", "--http2-prior-knowledge", *headers, data=b"")
            assert (status, told.get("grpc-status"), told.get("slipring-outcome")) == (200, "7", "unchanged"), (method, foreign, told)
    assert state(node) == before


@pytest.fixture(scope="module")
def three():
    cluster = Cluster(3, LOCAL)
    yield cluster
    cluster.close()


def ids(cluster):
    return {node["addresses"]["peer"]: node["id"] for node in cluster.status()["nodes"]}


def test_a_page_gives_no_node_up_and_reads_nothing(three):
    a, b, c = three.nodes
    assert ask(a, "PUT", "/v1/kv/default/secret", {"Host": a.http}, b"42")[0] == 204
    epoch = three.status()["epoch"]
    lost = [{"node": node.peer, "state": "lost"} for node in (b, c)]
    body = json.dumps({"changes": lost, "force": True}).encode()
    page = {"Host": a.http, "Content-Type": "text/plain", "Origin": "http://evil.example"}
    assert ask(a, "POST", "/v1/layout/changes", page, body)[0] == 403
    # A browser that says nothing of where the page is from.
    assert ask(a, "POST", "/v1/layout/changes", {"Host": a.http, "Content-Type": "text/plain"}, body)[0] == 415
    rebound = {"Host": "evil.example"}
    assert ask(a, "GET", "/v1/kv/default/secret", rebound)[0] == 403
    assert ask(a, "DELETE", "/v1/kv/default/secret", rebound | {"Origin": "http://evil.example"})[0] == 403
    assert ask(a, "GET", "/v1/kv/default/secret", {"Host": a.http}) == (200, b"42")
    assert three.status()["epoch"] == epoch and all(node.process.poll() is None for node in three.nodes)


def test_a_living_node_is_given_up_only_under_its_whole_id(three):
    a, b, c = three.nodes
    id_, epoch = ids(three)[c.peer], three.status()["epoch"]
    for name in (c.peer, c.http, id_[:12], id_[:-1]):
        for change in ({"node": name, "state": "lost"}, {"node": b.peer, "replaces": name}):
            body = json.dumps({"changes": [change], "force": True}).encode()
            status, told, _ = curl(a, "POST", "/v1/layout/changes", data=body)
            assert status == 409 and b"whole id" in told, (change, status, told)
        for command in (("remove", name, "--lost"), ("layout", "commit", "--lost", name), ("replace", name, "--by", b.peer)):
            done = slipring(*command, "--force", node=a, check=False)
            assert done.returncode == 1 and "whole id" in done.stderr, (command, done.stderr)
    assert three.status()["epoch"] == epoch and c.process.poll() is None
    told = slipring("remove", id_, "--lost", node=a, check=False)
    assert told.returncode == 1 and "answers" in told.stderr, "without force it is refused as before"
    slipring("remove", id_, "--lost", "--force", node=a)
    wait_until("what was given up stops", lambda: c.process.poll() is not None)
