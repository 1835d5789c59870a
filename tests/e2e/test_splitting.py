"""Partitions are split under load while a node is away: nothing moves, and nothing is lost."""

import json
import threading
import time

import pytest
import redis
from redis.cluster import RedisCluster

from conftest import Cluster, http, slipring, wait_until
from test_faults import Writer, check
from test_moving import assert_balanced, assert_filled, fill, layout, moving

FILLED = 3_000


class SmartClient(threading.Thread):
    """A cluster-aware client that goes on whatever the slots become; an error while a node is dead is no harm."""

    def __init__(self, node, stop):
        super().__init__()
        self.stop, self.rounds, self.wrong, self.last_error = stop, 0, [], None
        self.client = RedisCluster(host="127.0.0.1", port=node.cluster_port, decode_responses=True, socket_timeout=5)

    def run(self):
        while not self.stop.is_set():
            key, value = f"smart:{self.rounds % 500}", str(self.rounds)
            try:
                self.client.set(key, value)
                if (found := self.client.get(key)) != value:
                    self.wrong.append((key, value, found))
                self.rounds += 1
            except (redis.RedisError, OSError) as error:
                self.last_error = error
                time.sleep(0.02)


def progress(cluster, node=0):
    return json.loads(http(cluster.nodes[node], "GET", "/v1/layout/moves")[1])


def partitions_seen(cluster):
    return [cluster.status(index)["partitions"] for index in range(len(cluster.nodes))]


def assert_slots(node, partitions):
    """CLUSTER SLOTS names each slot once, in ranges of whole partitions."""
    client = redis.Redis(port=node.cluster_port, decode_responses=True)
    ranges = client.execute_command("CLUSTER SLOTS")
    bounds = sorted(tuple(map(int, key)) if isinstance(key, tuple) else (key[0], key[1]) for key in ranges)
    assert bounds[0][0] == 0 and bounds[-1][1] == 16383
    assert all(left[1] + 1 == right[0] for left, right in zip(bounds, bounds[1:]))
    each = 16384 // partitions
    assert all(first % each == 0 and (last + 1) % each == 0 for first, last in bounds)


def scan_on(node, cursor, seen):
    """One page more; the cursor to go on from."""
    client = redis.Redis(port=node.redis_port, decode_responses=True)
    cursor, keys = client.scan(cursor=cursor, count=100)
    seen.update(keys)
    return cursor


@pytest.fixture
def coarse():
    cluster = Cluster(3, ("--partition-bits", "5"))
    yield cluster
    cluster.close()


def test_partitions_split_twice_under_load_while_a_node_dies_and_returns(coarse):
    fill(coarse, FILLED)
    stop = threading.Event()
    writers = [Writer(coarse, f"w{index}", stop) for index in range(3)]
    smart = SmartClient(coarse.nodes[0], stop)
    threads = [*writers, smart]
    for thread in threads:
        thread.start()
    seen = set()
    cursor = scan_on(coarse.nodes[0], 0, seen)
    try:
        before = layout(coarse)
        plan = json.loads(slipring("layout", "plan", "--split", "--json", node=coarse.nodes[0]).stdout)["plan"]
        assert (plan["partitions_before"], plan["partitions_after"], plan["moves"]) == (32, 64, [])
        shown = slipring("layout", "plan", "--split", node=coarse.nodes[0]).stdout
        assert "32 partitions would be split into 64" in shown and "0 partitions would move" in shown
        assert layout(coarse)["epoch"] == before["epoch"], "a plan changes nothing"
        late = slipring("layout", "commit", "--split", "--epoch", "1", node=coarse.nodes[0], check=False)
        assert late.returncode == 1 and "look again" in late.stderr

        coarse.wait_until_three_vote()
        victim = coarse.nodes[1]
        victim.kill()
        wait_until("two of three split", lambda: slipring("layout", "commit", "--split", node=coarse.nodes[0], check=False).returncode == 0)
        assert progress(coarse)["partitions"] == 64 and moving(coarse) == 0
        for _ in range(5):
            cursor = scan_on(coarse.nodes[2], cursor, seen)
        victim.start()
        wait_until("the split is heard of", lambda: partitions_seen(coarse) == [64] * 3)
        # Its start is an epoch, too.
        coarse.wait_until_whole()
        slipring("layout", "commit", "--split", "--epoch", str(layout(coarse)["epoch"]), node=coarse.nodes[1])
        wait_until("everybody has heard of the second", lambda: partitions_seen(coarse) == [128] * 3)
        assert json.loads(http(coarse.nodes[2], "POST", "/v1/layout/changes", data=b'{"partitions": 128}')[1])["partitions"] == 128
        refused = http(coarse.nodes[2], "POST", "/v1/layout/changes", data=b'{"partitions": 64}')
        assert refused[0] == 409 and b"128 partitions" in refused[1]
        assert http(coarse.nodes[2], "POST", "/v1/layout/plan", data=b'{"partitions": 100}')[0] == 400
        while cursor:
            cursor = scan_on(coarse.nodes[1], cursor, seen)
        assert {f"filled:{index}" for index in range(FILLED)} <= seen, "a cursor from before the splits missed keys"
        rounds = smart.rounds
        wait_until("the cluster client goes on", lambda: smart.rounds > rounds + 100)
        coarse.wait_until_whole()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert smart.wrong == [], smart.last_error
    coarse.wait_until_repaired()
    for node in coarse.nodes:
        assert_slots(node, 128)
        assert_filled(node, FILLED)
    check(coarse, writers)
    acknowledged = sum(w[1] == "ok" for writer in writers for ws in writer.writes.values() for w in ws)
    print(f"{acknowledged} writes acknowledged, {smart.rounds} rounds of the cluster client")
    assert acknowledged > 200


def test_what_was_split_moves_counts_and_survives_a_restart_of_all(coarse):
    fill(coarse, FILLED)
    for _ in range(2):
        slipring("layout", "commit", "--split", node=coarse.nodes[0])
    slipring("layout", "revert", node=coarse.nodes[0])
    assert progress(coarse)["partitions"] == 128, "a split is not taken back"
    sizes = [redis.Redis(port=node.redis_port).dbsize() for node in coarse.nodes]
    assert sizes == [FILLED] * 3
    for node in coarse.nodes:
        node.kill()
    for node in coarse.nodes:
        node.launch()
    for node in coarse.nodes:
        node.wait()
    coarse.wait_until_whole()
    coarse.join()
    coarse.wait_until_whole()
    assert partitions_seen(coarse) == [128] * 4
    assert b"slipring_layout_partitions 128" in http(coarse.nodes[3], "GET", "/metrics")[1]
    assert_balanced(coarse)
    for node in coarse.nodes:
        assert_filled(node, FILLED)
        assert_slots(node, 128)
    wait_until("every key is counted once", lambda: redis.Redis(port=coarse.nodes[3].redis_port).dbsize() == FILLED)
    drained = coarse.nodes[3]
    slipring("drain", drained.peer, "--wait", node=coarse.nodes[0])
    assert_filled(drained, FILLED)
