"""Values that expire: counts leave them out from their last millisecond on, and dropping them keeps up with writers."""

import re
import time

import pytest
import redis

from conftest import Cluster, http, wait_until


def client(node, db=0):
    return redis.Redis(port=node.redis_port, db=db, decode_responses=True, socket_timeout=60)


def dropped(node):
    text = http(node, "GET", "/metrics")[1].decode()
    return int(float(re.search(r"^slipring_expired_keys_total (\S+)$", text, re.MULTILINE).group(1)))


def keyspace(node, db=0):
    found = client(node).info("keyspace").get(f"db{db}", {"keys": 0, "expires": 0})
    return found["keys"], found["expires"]


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(3)
    yield cluster
    cluster.close()


def test_counts_leave_expired_keys_out_at_once(cluster):
    first = client(cluster.nodes[0])
    first.set("stays", "v")
    for number in range(200):
        first.psetex(f"short-{number}", 20, "v")
    wait_until("every value expires", lambda: not first.exists(*(f"short-{number}" for number in range(200))))
    # No wait here: a count of the next moment must not see them.
    counts = [client(node).dbsize() for node in cluster.nodes]
    assert counts == [1, 1, 1]
    assert [keyspace(node) for node in cluster.nodes] == [(1, 0)] * 3


def test_info_counts_the_keys_that_will_expire(cluster):
    first = client(cluster.nodes[1])
    first.flushdb()
    assert keyspace(cluster.nodes[0]) == (0, 0)
    first.mset({"a": 1, "b": 2, "c": 3, "d": 4})
    first.expire("a", 100)
    first.expire("b", 100)
    first.set("e", 5, ex=100)
    assert keyspace(cluster.nodes[2]) == (5, 3)
    first.persist("a")
    first.delete("b")
    first.set("e", "lasts")
    first.expire("c", 100)
    first.incr("c")
    assert [keyspace(node) for node in cluster.nodes] == [(4, 1)] * 3
    first.pexpire("c", 1)
    wait_until("it expires", lambda: first.get("c") is None)
    assert keyspace(cluster.nodes[0]) == (3, 0), "what was added to it counts no more than the value"


def test_counts_are_right_after_a_clean_end_and_after_a_kill():
    cluster = Cluster(1)
    try:
        node = cluster.nodes[0]
        for end in (node.terminate, node.kill):
            pipe = client(node).pipeline(transaction=False)
            pipe.flushdb()
            for number in range(500):
                pipe.set(f"short-{number}", "v", px=1)
                pipe.set(f"long-{number}", "v", ex=1000)
                pipe.set(f"lasting-{number}", "v")
            pipe.execute()
            end()
            node.start()
            wait_until("all keys are counted", lambda: keyspace(node) == (1_000, 500))
            assert client(node).dbsize() == 1_000
    finally:
        cluster.close()


def test_dropping_keeps_up_with_writers_of_short_lives(cluster):
    """A node drops at least nine tenths of what it may drop: values that ended more than two seconds ago."""
    status = http(cluster.nodes[0], "POST", "/v1/buckets", data=b'{"name": "sessions", "preset": "cache"}')[0]
    assert status in (200, 201)
    writer = wait_until("the bucket is known", lambda: client(cluster.nodes[0], 1).ping() and client(cluster.nodes[0], 1))
    before = sum(dropped(node) for node in cluster.nodes)
    began, number, written = time.monotonic(), 0, []
    while time.monotonic() < began + 7:
        pipe = writer.pipeline(transaction=False)
        for _ in range(200):
            pipe.set(f"s:{number}", "0123456789012345678901234567890123456789", px=500)
            number += 1
        pipe.execute()
        written.append((time.monotonic(), number))
    now = time.monotonic()
    gone = sum(dropped(node) for node in cluster.nodes) - before
    count = writer.dbsize()
    # Two copies of each, and a second for what the sweep is at.
    droppable = 2 * max(so_far for at, so_far in written if at < now - 3.5)
    recent = number - max(so_far for at, so_far in written if at < now - 1.5)
    assert droppable > 2_000
    assert gone > 0.9 * droppable, f"{gone} of {droppable} were dropped, {number} written"
    assert count <= recent, f"{count} keys are counted, {recent} were written in the last 1.5 s"
    wait_until("all are dropped", lambda: sum(dropped(node) for node in cluster.nodes) - before >= 2 * number)
    assert writer.dbsize() == 0
