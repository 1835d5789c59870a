"""Copies come back while clients write as fast as they can, at the share of background work that is the default."""

import json
import threading
import time

import pytest
import redis

from conftest import Cluster, Node, http, slipring, wait_until
from test_faults import check

# Not sooner, as other tests have it.
DEFAULT_SHARE = ("--background-share", "1", "--membership", "local")
WRITERS = 8
KEYS = 50
BALLAST = 4_000
# Seconds. Without a floor, and while pages were compared until they were equal, no time was enough.
WHOLE = ("--wait", "--timeout", "60")


class Client(threading.Thread):
    """A client of one node, with keys of its own: writes each key's values in order, and notes what became of each."""

    def __init__(self, name, node, stop):
        super().__init__()
        self.name_, self.node, self.stop = name, node, stop
        self.writes, self.acknowledged, self.added, self.maybe_added = {}, 0, 0, 0

    def run(self):
        turn, client = 0, None
        while not self.stop.is_set():
            turn += 1
            key, value, began = f"{self.name_}:{turn % KEYS}", f"{self.name_}={turn}", time.monotonic()
            try:
                client = client or redis.Redis(port=self.node.redis_port, decode_responses=True, socket_timeout=30, retry=None)
                client.set(key, value)
                outcome = "ok"
            except redis.ResponseError as error:
                outcome = "unknown" if str(error).startswith("UNKNOWN") else "refused"
            except (redis.ConnectionError, redis.TimeoutError):
                outcome, client = "unknown", None
                time.sleep(0.05)
            self.acknowledged += outcome == "ok"
            self.writes.setdefault(key, []).append((value, outcome, began, time.monotonic()))


class Load:
    """Writers on all nodes that serve, and how long each of their writes took."""

    def __init__(self, cluster):
        self.cluster, self.stop = cluster, threading.Event()
        self.clients = []

    def __enter__(self):
        for index in range(WRITERS):
            node = self.cluster.nodes[index % len(self.cluster.nodes)]
            self.clients.append(Client(f"w{index}", node, self.stop))
            self.clients[-1].start()
        self.wait_for(500)
        return self

    def __exit__(self, *_):
        self.stop.set()
        for client in self.clients:
            client.join()

    def acknowledged(self):
        return sum(client.acknowledged for client in self.clients)

    def wait_for(self, writes):
        before = self.acknowledged()
        wait_until("writes go on", lambda: self.acknowledged() > before + writes)

    def percentile(self, since, part=0.99):
        """Milliseconds that a part of the writes took which began after a moment and were acknowledged."""
        took = sorted(
            (write[3] - write[2]) * 1_000
            for client in self.clients for writes in list(client.writes.values()) for write in list(writes)
            if write[1] == "ok" and write[2] >= since
        )
        return took[int(len(took) * part)] if took else 0.0


@pytest.fixture
def loaded(request):
    cluster = Cluster(getattr(request, "param", 3), DEFAULT_SHARE)
    try:
        ballast = redis.Redis(port=cluster.nodes[0].redis_port)
        for first in range(0, BALLAST, 1_000):
            ballast.mset({f"ballast:{index}": b"x" * 100 for index in range(first, first + 1_000)})
        cluster.wait_until_whole()
        with Load(cluster) as load:
            yield cluster, load
        check(cluster, load.clients)
    finally:
        cluster.close()


def whole_after(cluster, load, node, what):
    """Waits until nothing lacks a copy, as that node sees it."""
    began, before = time.monotonic(), load.acknowledged()
    assert "may be stopped" in slipring("ok-to-stop", *WHOLE, node=node).stdout
    took = time.monotonic() - began
    rate = (load.acknowledged() - before) / max(took, 0.1)
    print(f"{what}: whole after {took:.1f} s beside {rate:.0f} writes a second, p99 {load.percentile(began):.1f} ms")


def test_each_node_is_whole_again_after_its_restart(loaded):
    cluster, load = loaded
    began = time.monotonic()
    load.wait_for(3_000)
    print(f"idle: p99 {load.percentile(began):.1f} ms")
    # The first node twice: the second time its peers were never in step with it for long. Then the others in turn.
    for index in (0, 0, 1, 2):
        node = cluster.nodes[index]
        assert node.terminate() == 0
        load.wait_for(200)
        node.start()
        whole_after(cluster, load, node, f"restart of node {index}")


def test_copies_of_a_replaced_node_are_made_again(loaded):
    cluster, load = loaded
    spare = Node(cluster.folder, 3, cluster.nodes[0].peer, (*DEFAULT_SHARE, "--spare"))
    cluster.started.append(spare.start())
    members = lambda: json.loads(http(cluster.nodes[0], "GET", "/v1/cluster")[1])["nodes"]
    wait_until("the spare is a member", lambda: len(members()) == 4)
    victim = cluster.nodes.pop()
    victim.kill()
    names = {node["addresses"]["peer"]: node["id"] for node in members()}
    began = time.monotonic()
    slipring("replace", names[victim.peer], "--by", names[spare.peer], "--force", *WHOLE, node=cluster.nodes[0])
    print(f"replaced after {time.monotonic() - began:.1f} s, p99 {load.percentile(began):.1f} ms")
    cluster.nodes.append(spare)
    whole_after(cluster, load, cluster.nodes[0], "replacement")


@pytest.mark.parametrize("loaded", [4], indirect=True)
def test_copies_of_a_removed_node_are_made_again(loaded):
    cluster, load = loaded
    members = json.loads(http(cluster.nodes[0], "GET", "/v1/cluster")[1])["nodes"]
    victim = cluster.nodes.pop()
    victim.kill()
    lost = next(node["id"] for node in members if node["addresses"]["peer"] == victim.peer)
    began = time.monotonic()
    slipring("remove", lost, "--lost", "--force", *WHOLE, node=cluster.nodes[0])
    print(f"removed after {time.monotonic() - began:.1f} s, p99 {load.percentile(began):.1f} ms")
    whole_after(cluster, load, cluster.nodes[0], "removal")
