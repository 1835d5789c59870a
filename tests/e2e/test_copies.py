"""A bucket of real nodes gets other numbers of copies while clients work and a node dies."""

import json
import threading
import time

import pytest
import redis

from conftest import Cluster, http, slipring, wait_until
from test_faults import Writer, check
from test_moving import assert_filled, fill, layout, plan_node


@pytest.fixture
def five():
    cluster = Cluster(5)
    yield cluster
    cluster.close()


def bucket(cluster, name="default", node=0):
    """A bucket as one node shows it."""
    return next(b for b in cluster.status(node)["buckets"] if b["name"] == name)


def copies_of(cluster, number):
    """How many copies each partition of the bucket's own table has, on all nodes' word."""
    tables = [layout(cluster, index)["tables"][str(8 + number)] for index in range(len(cluster.nodes))]
    assert all(table == tables[0] for table in tables)
    return {len(holders["replicas"]) for holders in tables[0]}


def test_copies_come_and_go_while_clients_write_and_a_node_dies(five):
    fill(five, 10_000)
    stop = threading.Event()
    writers = [Writer(five, f"w{index}", stop) for index in range(4)]
    for writer in writers:
        writer.start()
    try:
        slipring("bucket", "set", "default", "--replicas", "5", node=five.nodes[0])
        time.sleep(0.2)
        five.nodes[3].kill()
        time.sleep(1)
        five.nodes[3].start()
        five.wait_until_whole()
        assert copies_of(five, 0) == {5} and bucket(five)["copies"] == 5
        assert bucket(five, "cache")["copies"] == 2, "the others stay as they are"
        five.nodes[4].kill()
        # Some partitions would lie where too few answer.
        def is_refused():
            done = slipring("bucket", "set", "default", "--replicas", "2", node=five.nodes[1], check=False)
            return done.returncode == 1 and "start those nodes first" in done.stderr

        wait_until("the death is known", is_refused)
        five.nodes[4].start()
        five.wait_until_whole()
        slipring("bucket", "set", "default", "--replicas", "2", node=five.nodes[1])
        time.sleep(0.2)
        five.nodes[2].kill()
        time.sleep(1)
        five.nodes[2].start()
        five.wait_until_whole()
        assert copies_of(five, 0) == {2} and bucket(five, node=4)["copies"] == 2
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    acknowledged = sum(w[1] == "ok" for writer in writers for ws in writer.writes.values() for w in ws)
    print(f"{acknowledged} writes acknowledged on the way")
    assert acknowledged > 300
    check(five, writers)
    assert_filled(five.nodes[4], 10_000)


def test_copies_and_drains_are_planned_and_taken_back_together(five):
    slipring("bucket", "create", "kept", node=five.nodes[0])
    number = bucket(five, "kept")["number"]
    client = redis.Redis(port=five.nodes[0].redis_port, db=number, decode_responses=True)
    for index in range(500):
        client.set(f"k:{index}", index)
    drained = five.nodes[4]
    changes = ["--replicas", "kept=4", "--drain", drained.peer]
    plan = json.loads(slipring("layout", "plan", *changes, "--json", node=five.nodes[0]).stdout)
    own = [moved for moved in plan["plan"]["moves"] if moved["table"] == 8 + number]
    assert {moved["copies"] for moved in own} == {4} and len(own) == 256
    assert plan["plan"]["load_after"][plan_node(five, drained)]["replicas"] == 0 and plan["objection"] is None
    epoch = str(plan["plan"]["epoch"])
    slipring("layout", "commit", *changes, "--epoch", epoch, node=five.nodes[1])
    assert bucket(five, "kept", node=1)["policy"]["replicas"] == 4
    slipring("layout", "revert", node=five.nodes[2])
    slipring("layout", "watch", node=five.nodes[2])
    five.wait_until_whole()
    assert bucket(five, "kept")["policy"]["replicas"] == 3 == bucket(five, "kept")["copies"]
    changed = http(five.nodes[3], "PATCH", "/v1/buckets/kept", data=b'{"replicas": 1}')
    assert changed[0] == 200 and json.loads(changed[1])["policy"]["replicas"] == 1, changed
    five.wait_until_whole()
    for node in five.nodes:
        client = redis.Redis(port=node.redis_port, db=number, decode_responses=True)
        assert client.mget([f"k:{index}" for index in range(500)]) == [str(index) for index in range(500)]
    for body, status, word in [
        (b'{"replicas": 8}', 400, "1..=7"),
        (b'{"replicas": 3, "epoch": 1}', 409, "look again"),
        (b'{"copies": 3}', 400, "no change of a bucket"),
    ]:
        answer = http(five.nodes[3], "PATCH", "/v1/buckets/kept", data=body)
        assert answer[0] == status and word in answer[1].decode(), answer
    assert http(five.nodes[3], "PATCH", "/v1/buckets/none", data=b'{"replicas": 3}')[0] == 404
