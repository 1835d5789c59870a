"""Pipelines that are sent as a whole before any reply is read, as clients do by default."""

import pytest
import redis

from conftest import Cluster

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
