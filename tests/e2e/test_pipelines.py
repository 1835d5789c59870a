"""Pipelines that are sent as a whole before any reply is read, as clients do by default."""

import socket

import pytest
import redis

from conftest import PATIENCE, Cluster, wait_until

MEGABYTES_12 = bytes(12 * 1024 * 1024)


@pytest.fixture(scope="module")
def node():
    """A node whose clients have as much memory as on a large machine."""
    cluster = Cluster(1, ("--clients-memory", "512MiB"))
    yield cluster.nodes[0]
    cluster.close()


def test_redis_py_gets_and_sets_sixty_thousand_kilobytes(node):
    client = redis.Redis(port=node.redis_port, socket_timeout=60)
    client.set("kilobyte", bytes(1024))
    pipe = client.pipeline(transaction=False)
    for _ in range(30_000):
        pipe.get("kilobyte").set("kilobyte", bytes(1024))
    assert pipe.execute() == [bytes(1024), True] * 30_000


@pytest.mark.parametrize("transaction", [False, True])
def test_redis_py_gets_and_sets_large_values_by_turns(node, transaction):
    client = redis.Redis(port=node.redis_port, socket_timeout=60)
    client.set("large", MEGABYTES_12)
    pipe = client.pipeline(transaction=transaction)
    for _ in range(4):
        pipe.get("large").set("large", MEGABYTES_12)
    assert pipe.execute() == [MEGABYTES_12, True] * 4


@pytest.fixture
def small():
    cluster = Cluster(1, ("--clients-memory", "64MiB"))
    yield cluster.nodes[0]
    cluster.close()


def test_client_that_takes_no_reply_is_closed_and_named(small):
    """It sends more than its share, half of the memory; others are served all the while."""
    echo = b"*2\r\n$4\r\nECHO\r\n$1048576\r\n" + bytes(1 << 20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", small.redis_port), timeout=PATIENCE) as greedy:
        name = "%s:%d" % greedy.getsockname()
        with pytest.raises(ConnectionError):
            for _ in range(64):
                greedy.sendall(echo)
                assert redis.Redis(port=small.redis_port).ping()
    said = lambda: [line for line in small.log.read_text(errors="replace").splitlines() if "takes no replies" in line]
    told = wait_until("the log tells why", said)
    assert len(told) == 1 and name in told[0] and "raise clients_memory" in told[0], told
