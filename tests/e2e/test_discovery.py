"""Nodes that find each other: by names of a real dnsmasq, by a registry that a node serves."""

import http.client
import http.server
import json
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import BINARY, COMMAND_TIMEOUT, PATIENCE, Node, free_port, http as curl, wait_until


class Dns:
    """A dnsmasq on loopback that knows what it is told, and nobody to ask."""

    def __init__(self, folder, *extra):
        self.hosts, self.port, self.extra, self.process = folder / "hosts", free_port(), extra, None
        self.queries = folder / "queries"
        self.say()
        self.start()

    def say(self, *lines):
        self.hosts.write_text("".join(line + "\n" for line in lines))
        if self.process:
            self.process.send_signal(signal.SIGHUP)

    def start(self):
        command = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
                   "--pid-file", "--bind-interfaces", "--listen-address=127.0.0.1", f"--port={self.port}", "--local=/test/",
                   f"--addn-hosts={self.hosts}", "--log-queries", f"--log-facility={self.queries}", *self.extra]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("dnsmasq serves", lambda: socket.create_connection(("127.0.0.1", self.port), timeout=1).close() is None)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def asked(self, name):
        """How often it was asked for an address of that name."""
        return self.queries.read_text().count(f"query[A] {name} ")

    def source(self, location):
        return f"{location}?server=127.0.0.1:{self.port}"


class Board:
    """A registry that answers what it is told to, and as late."""

    def __init__(self):
        board = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix("/v1/registry/")
                board.asked.append(name)
                status, body, delay = board.answers[name]
                time.sleep(delay)
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                self.send_error(405)

            do_DELETE = do_PUT

            def log_message(self, *_):
                pass

        self.answers, self.asked = {}, []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def say(self, name, *addresses, delay=0):
        """Answers with a list; the source that it is."""
        return self.answer(name, json.dumps({"addresses": addresses}).encode(), delay=delay)

    def answer(self, name, body, status=200, delay=0):
        self.answers[name] = (status, body, delay)
        return f"registry://127.0.0.1:{self.server.server_port}/{name}"


@pytest.fixture
def board():
    board = Board()
    yield board
    board.server.shutdown()
    board.server.server_close()


@pytest.fixture
def nodes(tmp_path):
    """Makes nodes; those that run at the end are killed."""
    made = []

    def make(join=None, extra=(), address=None):
        node = Node(tmp_path, len(made), join, extra)
        if address:
            node.peer, node.extra = address, ("--bind", address.split(":")[0], *extra)
        made.append(node)
        return node

    yield make
    for node in made:
        node.kill()


@pytest.fixture
def dns(tmp_path):
    dns = Dns(tmp_path)
    yield dns
    dns.stop()


def members(node):
    return len(json.loads(curl(node, "GET", "/v1/cluster")[1])["nodes"])


def listed(node, name):
    status, body, _ = curl(node, "GET", f"/v1/registry/{name}")
    assert status == 200
    return json.loads(body)["addresses"]


def test_a_node_waits_for_a_name_and_joins_who_is_behind_it(nodes, dns):
    port = free_port()
    founder = nodes(address=f"127.0.0.2:{port}").start()
    joiner = nodes(dns.source(f"dns://ring.test:{port}"), address=f"127.0.0.3:{port}").launch()
    wait_until("nobody was behind the name more than once", lambda: dns.asked("ring.test") > 2)
    assert joiner.process.poll() is None and not joiner.ready.exists(), "it founds no cluster of its own"
    # The name stands for the joiner too, as a headless service's does, and for one who is not there.
    dns.say("127.0.0.3 ring.test", "127.0.0.4 ring.test", "127.0.0.2 ring.test")
    joiner.wait()
    assert members(joiner) == members(founder) == 2


def test_a_node_joins_by_a_record_of_services(nodes, tmp_path):
    founder = nodes().start()
    port = founder.peer.rsplit(":", 1)[1]
    dns = Dns(tmp_path, f"--srv-host=_peer._tcp.ring.test,one.test,{port}")
    try:
        dns.say("127.0.0.1 one.test")
        joiner = nodes(dns.source("dns+srv://_peer._tcp.ring.test")).start()
        assert members(joiner) == 2
    finally:
        dns.stop()


def test_a_name_server_that_dies_or_lies_harms_no_cluster(nodes, dns):
    founder = nodes().start()
    dns.say(*(f"127.9.{index // 250}.{index % 250 + 1} ring.test" for index in range(1000)))
    liar = dns.source(f"dns://ring.test:{free_port()}")
    joiner = nodes(extra=("--join", liar, "--join", founder.peer)).start()
    dns.stop()
    # Who has joined once needs no source any more, not even to start again.
    joiner.kill()
    joiner.start()
    assert members(joiner) == members(founder) == 2


def test_nodes_find_each_other_through_a_registry_that_one_of_them_serves(nodes):
    port = free_port()
    board = f"registry://127.0.0.1:{port}/ring-1"
    founder = nodes(extra=("--announce", board))
    founder.http = f"127.0.0.1:{port}"
    with socket.create_server(("127.0.0.1", port)) as nobody:
        nobody.settimeout(PATIENCE)
        early = nodes(board).launch()
        for _ in range(3):
            nobody.accept()[0].close()
    assert early.process.poll() is None and not early.ready.exists()
    founder.start()
    early.wait()
    late = nodes(board).start()
    assert members(late) == 3
    everybody = sorted(node.peer for node in (founder, early, late))
    wait_until("all three are listed", lambda: sorted(listed(founder, "ring-1")) == everybody)
    assert listed(founder, "ring-2") == []

    late.terminate()
    assert late.peer not in listed(founder, "ring-1"), "who stops takes itself off the list first"
    wait_until("the others are listed still", lambda: early.peer in listed(founder, "ring-1"))
    early.kill()
    wait_until("who was killed lapses", lambda: listed(founder, "ring-1") == [founder.peer])


def test_a_registry_that_forgets_is_told_again(nodes):
    port = free_port()
    board = f"registry://127.0.0.1:{port}/ring"
    server = nodes()
    server.http = f"127.0.0.1:{port}"
    server.start()
    founder = nodes(extra=("--announce", board)).start()
    wait_until("the node is listed", lambda: listed(server, "ring") == [founder.peer])
    server.kill()
    server.start()
    wait_until("the node is listed again", lambda: listed(server, "ring") == [founder.peer])


def test_a_registry_takes_what_is_an_entry_and_only_so_many(nodes):
    node = nodes().start()
    connection = http.client.HTTPConnection(node.http)

    def put(name, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("PUT", f"/v1/registry/{name}", body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()

    good = {"address": "a:1", "ttl_ms": 1000}
    wrong = [b"", b"[]", b"\xff", {}, {**good, "x": 1}, {**good, "address": "a"}, {**good, "address": "a:1\n"},
             {**good, "ttl_ms": 0}, {**good, "ttl_ms": 2**64}, {**good, "ttl_ms": 300_001}, {**good, "ttl_ms": -1}]
    for body in wrong:
        assert put("ring", body)[0] == 400, body
    assert put("ring", good, "text/plain")[0] == 415
    assert put("UPPER", good)[0] == 400 and put("a" * 65, good)[0] == 400
    assert put("ring", b" " * 4096)[0] == 413
    assert listed(node, "ring") == []

    assert all(put("many", {"address": f"h{index}:1", "ttl_ms": 300_000})[0] == 204 for index in range(4096))
    status, body = put("other", good)
    assert status == 429 and b"4096" in body
    assert put("many", {"address": "h7:1", "ttl_ms": 1000})[0] == 204, "who is listed may be told again"
    wait_until("what lapsed makes room", lambda: put("other", {**good, "ttl_ms": 300_000})[0] == 204)
    assert curl(node, "DELETE", "/v1/registry/other?address=a:1")[0] == 204
    assert listed(node, "other") == []


def test_what_is_no_source_is_refused_with_the_way_out(tmp_path):
    def refusal(*flags):
        command = [BINARY, "start", "--data", tmp_path / "data", "--redis-port", "0", "--http-port", "0", "--peer-port", "0"]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
        assert done.returncode == 1
        return done.stderr

    assert "host:port" in refusal("--join", "nowhere")
    assert "dns+srv://" in refusal("--join", "gopher://a:1")
    assert "cannot be announced" in refusal("--announce", "dns://a:1")
    for feature in ("etcd", "zookeeper", "kubernetes", "libp2p"):
        said = refusal("--join", f"{feature}://127.0.0.1:1/p")
        # A build that has the feature waits for it instead, and is stopped by the time-out above.
        assert f"--features {feature}" in said


# Longer than a first answer of a source is waited for.
LATE = 1.5
SMALL = ("--workers", "1", "--partition-bits", "4", "--membership", "local")


def test_a_source_that_is_late_or_names_another_cluster_leads_nobody_there(nodes, board):
    own, other = nodes(extra=SMALL).start(), nodes(extra=SMALL).start()
    both = [nodes(board.say("late-both" if delay else "both", other.peer, own.peer, delay=delay), SMALL) for delay in (0, LATE)]
    late = nodes(board.say("late", own.peer, delay=LATE), SMALL)
    beside = nodes(own.peer, ("--join", board.say("other", other.peer, delay=LATE), *SMALL))
    for joiner in (*both, late, beside):
        joiner.launch()

    def assert_names_both(joiner):
        said = joiner.tail()
        assert joiner.process.poll() == 1 and f"{own.peer} (cluster" in said and f"{other.peer} (cluster" in said, said

    for joiner in both:
        wait_until("it joins neither", lambda: joiner.process.poll() is not None)
        assert_names_both(joiner)
    # Where the machine is slower than the source, it has heard of both.
    wait_until("it joins its own", lambda: beside.ready.exists() or beside.process.poll() is not None)
    if not beside.ready.exists():
        assert_names_both(beside)
    late.wait()
    count = 2 + beside.ready.exists()
    wait_until("they are members", lambda: members(own) == members(late) == count)
    assert members(other) == 1
    # Who is a member goes by what it knows itself, whatever its source says since.
    board.say("late", other.peer)
    late.kill()
    late.start()
    assert members(late) == count and members(other) == 1


def test_a_source_that_answers_rubbish_is_as_good_as_one_that_is_away(nodes, board):
    founder = nodes(extra=SMALL).start()
    rubbish = [b"", b"\xff\x00\r\n" * 100, b"<html>", b"[]", b"{}", b"null", b'{"addresses": null}', b'{"addresses": [1]}',
               b'{"addresses": "' + founder.peer.encode() + b'"}', b"[" * 100_000, b" " * 600_000]
    sources = [board.answer(f"body-{index}", body) for index, body in enumerate(rubbish)]
    sources.append(board.answer("failing", json.dumps({"addresses": [founder.peer]}).encode(), status=500))
    sources.append(board.say("no-addresses", "", "nowhere", "a:b", ":1", "a:99999", "a b:1", "\0:1", "a" * 5000 + ":1"))
    flags = [flag for source in sources for flag in ("--join", source)]
    alone = nodes(extra=(*flags, *SMALL)).launch()
    beside = nodes(founder.peer, (*flags, *SMALL)).launch()
    # Each once by one of them, and again by the other or both.
    asked = lambda: all(board.asked.count(f"body-{index}") > 2 for index in range(len(rubbish)))
    wait_until("every source was asked again", asked)
    assert alone.process.poll() is None and not alone.ready.exists(), "it founds no cluster of its own"
    beside.wait()
    assert members(beside) == members(founder) == 2
    board.say("body-0", founder.peer)
    alone.wait()
    assert members(alone) == 3
