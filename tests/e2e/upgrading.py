"""Nodes of an earlier build become nodes of this one, one after the other, while clients work.

Run by `cargo xtask upgrade`, which builds both. The two builds have a version of the protocol in common.
"""

import json
import os
import pathlib

import pytest
import redis

from conftest import PATIENCE, Cluster, Node, answered, http, slipring, wait_until
from test_history import History

BEFORE = pathlib.Path(os.environ["SLIPRING_BINARY_BEFORE"])
FILLED = 5_000
WHOLE = ("ok-to-stop", "--wait", "--timeout", str(PATIENCE))


class Earlier(Cluster):
    """Nodes of the earlier build."""

    def join(self, extra=()):
        node = Node(self.folder, len(self.started), self.nodes[0].peer if self.nodes else None, extra)
        node.binary = BEFORE
        self.started.append(node)
        self.nodes.append(node.start())
        return node


@pytest.fixture
def earlier():
    cluster = Earlier(3)
    yield cluster
    cluster.close()


def spoken(cluster, node=0):
    """The newest version that each member speaks, as one node's layout says."""
    nodes = json.loads(http(cluster.nodes[node], "GET", "/v1/layout")[1])["nodes"]
    return sorted(entry["versions"]["newest"] for entry in nodes.values())


def split(cluster):
    return slipring("layout", "commit", "--split", node=cluster.nodes[0], check=False)


def partitions(cluster):
    return json.loads(http(cluster.nodes[0], "GET", "/v1/layout/moves")[1])["partitions"]


def renew(node, earlier):
    """The same directory and addresses, this build."""
    assert node.terminate() == 0
    node.binary = Node(earlier.folder, 0).binary
    node.start()
    slipring(*WHOLE, node=node)


def assert_filled(cluster):
    keys = [f"filled:{index}" for index in range(FILLED)]
    for node in cluster.nodes:
        client = redis.Redis(port=node.redis_port, decode_responses=True)
        assert answered(lambda: client.mget(keys)) == [f"value-{index}" for index in range(FILLED)]


def are_counted_once(cluster):
    """Whether every node lists every other one at its port for cluster clients, and their masters have each key once."""
    views = [redis.Redis(port=node.cluster_port, decode_responses=True) for node in cluster.nodes]
    ports = {str(node.cluster_port) for node in cluster.nodes}
    listed = [{address.rsplit(":", 1)[1] for address in view.execute_command("CLUSTER NODES")} for view in views]
    total = redis.Redis(port=cluster.nodes[0].redis_port).dbsize()
    return all(each == ports for each in listed) and sum(view.dbsize() for view in views) == total


def test_nodes_are_upgraded_one_by_one_under_load_and_nothing_is_lost(earlier):
    client = redis.Redis(port=earlier.nodes[0].redis_port)
    wait_until("the keys are written", lambda: client.mset({f"filled:{i}": f"value-{i}" for i in range(FILLED)}))
    old = spoken(earlier)
    print(f"the earlier build speaks {old}")
    with History(earlier) as history:
        second, first, last = earlier.nodes
        for node in (first, second):
            renew(node, earlier)
        count = partitions(earlier)
        before = history.acknowledged()
        wait_until("clients go on", lambda: all(now > then + 200 for now, then in zip(history.acknowledged(), before)))
        renew(last, earlier)
        assert spoken(earlier)[0] >= old[-1]
        wait_until("all speak what a split needs", lambda: "version" not in split(earlier).stderr)
        wait_until("it is split once", lambda: partitions(earlier) == 2 * count)
        joined = Node(earlier.folder, len(earlier.started), earlier.nodes[0].peer)
        earlier.started.append(joined)
        earlier.nodes.append(joined.start())
        earlier.wait_until_whole()
    print(f"{history.acknowledged()} writes and reads on the way")
    assert min(history.acknowledged()) > 500
    history.check()
    assert_filled(earlier)
    wait_until("cluster clients see each key once", lambda: are_counted_once(earlier))
