"""Redis Cluster clients while a node is gone and after it returns."""

import json
import subprocess

import pytest
from redis.cluster import RedisCluster

from conftest import COMMAND_TIMEOUT, Cluster, wait_until

# Enough that each node is the first replica of many.
KEYS = [f"gone:{index}" for index in range(300)]
# Seconds. Ten are promised on a machine that is not busy.
SOON = 30


@pytest.fixture(scope="module")
def ring():
    """Three nodes; each test stops one and starts it again."""
    cluster = Cluster(3)
    yield cluster
    cluster.close()


def smart(node):
    return RedisCluster(host="127.0.0.1", port=node.cluster_port, decode_responses=True, socket_timeout=5)


def told(node, sub, *options):
    """What `node` answers to a cluster command."""
    command = ["redis-cli", "-p", str(node.cluster_port), *options, "cluster", sub]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT).stdout


def slots(node):
    """First slot, last slot and the master's port, of each range."""
    return [(first, last, master[1]) for first, last, master in json.loads(told(node, "slots", "--json"))]


def line(node, of):
    """Flags, link state and ranges that `node` tells of another in CLUSTER NODES."""
    fields = next(row.split() for row in told(node, "nodes").splitlines() if f":{of.cluster_port}@" in row)
    return fields[2], fields[7], fields[8:]


def shard_nodes(node):
    """Port, role and health of each node of each shard."""
    shards = json.loads(told(node, "shards", "-3", "--json"))
    return [(n["port"], n["role"], n["health"]) for shard in shards for n in shard["nodes"]]


def all_written_and_read(client, value):
    for key in KEYS:
        client.set(key, value)
    return [client.get(key) for key in KEYS] == [value] * len(KEYS)


@pytest.mark.parametrize("stop", ["kill", "terminate"])
def test_cluster_clients_use_other_replicas_while_a_node_is_gone(ring, stop):
    alive, gone = ring.nodes[:2], ring.nodes[2]
    before = wait_until("every node is listed", lambda: (s := slots(alive[0])) and len({r[2] for r in s}) == 3 and s)
    running = smart(alive[0])
    assert all_written_and_read(running, "before")
    getattr(gone, stop)()

    lost = gone.cluster_port
    for node in alive:
        is_without = lambda node=node: all(lost != port for _, _, port in slots(node))
        wait_until("no slot names the node that is gone", is_without, SOON)
        flags, link, ranges = line(node, gone)
        assert flags in ("master,fail?", "master,fail") and (link, ranges) == ("disconnected", [])
        others = [(role, health) for port, role, health in shard_nodes(node) if port == lost]
        assert others == [("master", "fail")]
        assert "cluster_slots_ok:16384" in told(node, "info")
        wait_until("a fresh client works", lambda node=node: all_written_and_read(smart(node), "fresh"), SOON)
    wait_until("the running client works", lambda: all_written_and_read(running, "during"), SOON)
    benchmark = ["redis-benchmark", "-p", str(alive[0].cluster_port), "-q", "-n", "2000", "-t", "set,get", "--cluster"]
    done = subprocess.run(benchmark, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "rror" not in done.stdout, done.stdout + done.stderr
    wait_until("its line says that it failed", lambda: line(alive[0], gone)[0] == "master,fail", SOON)

    gone.start()
    ring.wait_until_whole()
    for node in ring.nodes:
        wait_until("the slots are as before", lambda node=node: slots(node) == before, SOON)
        assert all(health == "online" for _, _, health in shard_nodes(node))
        assert line(node, gone)[:2] == ("myself,master" if node is gone else "master", "connected")
    wait_until("the running client works", lambda: all_written_and_read(running, "after"), SOON)
    assert all_written_and_read(smart(gone), "returned")
