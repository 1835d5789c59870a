"""The addresses that a node announces to peers and clients."""

import json
import subprocess

import pytest

from conftest import COMMAND_TIMEOUT, Node, http


@pytest.mark.parametrize("own, hosts", [
    ((), ["localhost", "localhost", "localhost"]),
    (("--advertise-redis", "127.0.0.1"), ["127.0.0.1", "localhost", "127.0.0.1"]),
    (("--advertise-redis-cluster", "127.0.0.1"), ["localhost", "localhost", "127.0.0.1"]),
    (("--advertise-http", "127.0.0.1"), ["localhost", "127.0.0.1", "localhost"]),
])
def test_clients_are_sent_to_the_announced_addresses(tmp_path, own, hosts):
    node = Node(tmp_path, 0, extra=("--advertise", "localhost:7946", *own)).start()
    try:
        assert [address.rsplit(":", 1)[0] for address in (node.redis, node.http, node.redis_cluster)] == hosts
        assert node.peer == "localhost:7946"
        told = json.loads(http(node, "GET", "/v1/cluster")[1])["nodes"][0]["addresses"]
        assert told == {"peer": node.peer, "redis": node.redis, "http": node.http, "redis_cluster": node.redis_cluster}
        for sub in ("slots", "shards", "nodes"):
            command = ["redis-cli", "-p", str(node.cluster_port), "cluster", sub]
            told = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT).stdout
            other = next(host for host in ("localhost", "127.0.0.1") if host != hosts[2])
            assert hosts[2] in told and other not in told, told
    finally:
        node.kill()
