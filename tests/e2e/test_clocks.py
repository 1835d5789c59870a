"""Wall clocks that are wrong: a value lasts as long as it was given, whichever node's clock jumps, and nothing is dropped
before its time."""

import glob
import os
import re
import time

import pytest
import redis

from conftest import Cluster, Node, http, is_passing, slipring, wait_until

HOURS = 7_200_000


def library():
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    assert found, "libfaketime is not installed: cargo xtask tools"
    return found[0]


class WrongCluster(Cluster):
    """A cluster whose nodes' wall clocks this test sets, each as far off true time as it says."""

    def __init__(self, *offsets):
        self.offsets = offsets
        super().__init__(len(offsets))

    def join(self, extra=()):
        index = len(self.nodes)
        node = Node(self.folder, index, self.nodes[0].peer if self.nodes else None, extra)
        node.clock = self.folder / f"clock-{index}"
        node.environment = {
            "LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": str(node.clock), "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "SLIPRING_EXPIRY_INTERVAL_MS": "50",
        }
        self.set(node, self.offsets[index])
        self.started.append(node)
        self.nodes.append(node.start())
        return node

    def set(self, node, offset):
        new = node.clock.with_suffix(".new")
        new.write_text(offset)
        os.replace(new, node.clock)

    def jump(self, index, offset, by_ms):
        """Sets a node's clock, and waits until every node has noticed."""
        self.set(self.nodes[index], offset)
        identity = self.status(index)["node"]

        def is_noticed():
            seen = [self.status(teller) for teller in range(len(self.nodes))]
            ahead = [n["clock_ahead_ms"] for s in seen for n in s["nodes"] if n["id"] == identity]
            return all(ms is not None and abs(ms - by_ms) < 1_000 for ms in ahead)

        wait_until(f"every node notices the clock of node {index}", is_noticed)


def client(node):
    return redis.Redis(port=node.redis_port, decode_responses=True)


def metric(node, name):
    text = http(node, "GET", "/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def let_sweep(through, node, name):
    """Waits until a node has swept every partition: values that are over lie in all of them, and it drops them."""
    before, keys = metric(node, "slipring_expired_keys_total"), [f"{name}-{number}" for number in range(1_000)]
    pipe = client(through).pipeline(transaction=False)
    for key in keys:
        pipe.set(key, "x", px=1)
    pipe.execute()
    wait_until("a node sweeps", lambda: metric(node, "slipring_expired_keys_total") >= before + len(keys))


def values(node, keys):
    return sum(value == "v" for value in client(node).mget(keys))


def test_a_clock_that_jumps_empties_no_keys():
    cluster = WrongCluster("+0", "+0", "+0")
    try:
        first, jumping = cluster.nodes[:2]
        keys = [f"lasts-{number}" for number in range(500)]
        for key in keys:
            client(first).set(key, "v", ex=3_600)
        client(first).set("count", "5", ex=3_600)
        cluster.jump(1, "+2h", HOURS)
        let_sweep(first, jumping, "during")
        assert [values(node, keys) for node in cluster.nodes] == [500] * 3
        assert client(jumping).incr("count") == 6
        assert client(jumping).set("lasts-0", "other", nx=True) is None
        assert 3_000 < client(jumping).ttl("count") <= 3_600
        # A start under the wrong clock believes it no more.
        assert jumping.terminate() == 0
        jumping.start()
        assert wait_until("it serves", lambda: (values(jumping, keys),)) == (500,)
        let_sweep(first, jumping, "restarted")
        cluster.jump(1, "+0", 0)
        let_sweep(first, jumping, "after")
        assert [values(node, keys) for node in cluster.nodes] == [500] * 3
        assert client(first).incr("count") == 7
    finally:
        cluster.close()


@pytest.mark.parametrize("offset, by_ms", [("+2h", HOURS), ("-2h", -HOURS)])
def test_five_seconds_last_five_seconds_through_a_wrong_clock(offset, by_ms):
    cluster = WrongCluster("+0", "+0", "+0")
    try:
        cluster.jump(2, offset, by_ms)
        began = time.monotonic()
        client(cluster.nodes[2]).set("short", "v", ex=5)
        lasted = {}
        while len(lasted) < 3 and time.monotonic() < began + 60:
            for node in cluster.nodes:
                if client(node).get("short") is None:
                    lasted.setdefault(node.index, time.monotonic() - began)
        assert sorted(lasted) == [0, 1, 2] and all(4 < seconds < 8 for seconds in lasted.values()), lasted
        status = slipring("status", node=cluster.nodes[0]).stdout
        assert "OFF" in status and "mend its time service (NTP)" in status, status
        assert abs(metric(cluster.nodes[0], "slipring_clock_offset_seconds") - by_ms / 1_000) < 2
        assert abs(client(cluster.nodes[2]).info("server")["clock_ahead_ms"] - by_ms) < 2_000
        assert "off the agreed time" in cluster.nodes[0].log.read_text()
    finally:
        cluster.close()


def test_two_nodes_that_disagree_refuse_times_to_live():
    cluster = WrongCluster("+0", "+2h")
    try:
        agree = lambda: [cluster.status(index)["clocks_agree"] for index in (0, 1)]
        wait_until("both notice that their clocks disagree", lambda: agree() == [False, False])
        for node in cluster.nodes:
            clocks = "clocks is within 10 s of each other"
            for command in (("SET", "k", "v", "EX", "5"), ("EXPIRE", "lasts", "5"), ("GETEX", "lasts", "PX", "99")):
                with pytest.raises(redis.ResponseError, match=clocks):
                    client(node).execute_command(*command)
            status, body, _ = http(node, "PUT", "/v1/kv/default/k?ttl_ms=5000", data=b"v")
            assert status == 503 and clocks in body.decode(), body
            assert client(node).set("lasts", "v") and client(node).get("lasts") == "v"
            assert client(node).get("k") is None
        assert "writes with a time to live are refused" in slipring("status", node=cluster.nodes[0]).stdout
        cluster.jump(1, "+0", 0)
        wait_until("a time to live is taken again", lambda: client(cluster.nodes[1]).set("k", "v", ex=100), is_passing=is_passing)
        assert 90 < client(cluster.nodes[0]).ttl("k") <= 100
    finally:
        cluster.close()


def test_a_node_alone_holds_its_time_when_its_clock_jumps():
    cluster = WrongCluster("+0")
    try:
        node, keys = cluster.nodes[0], [f"lasts-{number}" for number in range(100)]
        for key in keys:
            client(node).set(key, "v", ex=3_600)
        cluster.jump(0, "+2h", HOURS)
        let_sweep(node, node, "during")
        assert values(node, keys) == 100
        assert 3_000 < client(node).ttl(keys[0]) <= 3_600
    finally:
        cluster.close()
