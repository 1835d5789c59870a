"""Nodes that find each other: by names of a real dnsmasq, by a registry that a node serves."""

import http.client
import json
import signal
import socket
import subprocess

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

    def put(name, body):
        connection.request("PUT", f"/v1/registry/{name}", body if isinstance(body, bytes) else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read()

    good = {"address": "a:1", "ttl_ms": 1000}
    wrong = [b"", b"[]", b"\xff", {}, {**good, "x": 1}, {**good, "address": "a"}, {**good, "address": "a:1\n"},
             {**good, "ttl_ms": 0}, {**good, "ttl_ms": 2**64}, {**good, "ttl_ms": 300_001}, {**good, "ttl_ms": -1}]
    for body in wrong:
        assert put("ring", body)[0] == 400, body
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
