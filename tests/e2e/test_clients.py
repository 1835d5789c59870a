"""Ordinary clients against every node, owner of the key or not."""

import json
import subprocess

import pytest
import redis
from redis.cluster import RedisCluster

from conftest import COMMAND_TIMEOUT, http, slipring, wait_until


def cli(node, *arguments, options=()):
    command = ["redis-cli", "-p", str(node.redis_port), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT).stdout.strip()


def client(node, **options):
    return redis.Redis(port=node.redis_port, decode_responses=True, **options)


@pytest.mark.parametrize("options", [(), ("-3",), ("-c",)])
def test_redis_cli_reads_on_every_node_what_was_written_on_any(cluster, options):
    for index, writer in enumerate(cluster.nodes):
        assert cli(writer, "set", f"cli:{index}", f"v{index}", options=options) == "OK"
        for reader in cluster.nodes:
            assert cli(reader, "get", f"cli:{index}", options=options) == f"v{index}"


def test_unknown_commands_get_the_error_of_redis(cluster):
    expected = "ERR unknown command 'nosuch', with args beginning with: 'a' 'b'"
    assert cli(cluster.nodes[0], "nosuch", "a", "b") == expected


def test_redis_cli_understands_the_cluster(cluster):
    seed = cluster.nodes[1].redis_cluster
    for task in ("info", "check"):
        command = ["redis-cli", "--cluster", task, seed]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "16384 slots covered" in done.stdout or "3 masters" in done.stdout, done.stdout


def test_scan_sees_every_key_once_over_the_cluster(cluster):
    writer, reader = client(cluster.nodes[0]), client(cluster.nodes[1])
    writer.flushdb()
    with writer.pipeline(transaction=False) as pipe:
        for index in range(2000):
            pipe.set(f"scan:{index}", index)
        pipe.execute()
    # Each of these asks one replica, and that one may hear of a write, or a deletion, after the client.
    wait_until("every replica asked has heard of the keys", lambda: reader.dbsize() == 2000)
    found = list(reader.scan_iter(match="scan:*", count=50))
    assert sorted(found) == sorted(f"scan:{index}" for index in range(2000))
    assert len(reader.keys("scan:1??")) == 100
    assert reader.randomkey().startswith("scan:")
    writer.flushdb()
    wait_until("every replica asked has heard of the deletions", lambda: reader.dbsize() == 0)


def test_a_cluster_client_finds_its_way(cluster):
    smart = RedisCluster(host="127.0.0.1", port=cluster.nodes[0].cluster_port, decode_responses=True)
    for index in range(200):
        smart.set(f"smart:{index}", index)
    assert [smart.get(f"smart:{index}") for index in range(200)] == [str(index) for index in range(200)]
    slots = redis.Redis(port=cluster.nodes[2].cluster_port).execute_command("CLUSTER SLOTS")
    assert slots


def test_increments_through_all_nodes_add_up(cluster):
    clients = [client(node) for node in cluster.nodes]
    for turn in range(300):
        clients[turn % 3].incr("adds")
    assert [c.get("adds") for c in clients] == ["300"] * 3


def test_buckets_are_databases(cluster):
    http(cluster.nodes[0], "POST", "/v1/buckets", data=b'{"name": "second", "preset": "cache"}')
    number = json.loads(http(cluster.nodes[0], "GET", "/v1/buckets/second")[1])["number"]
    wait_until("all nodes know the bucket", lambda: all(http(n, "GET", "/v1/buckets/second")[0] == 200 for n in cluster.nodes))
    other = client(cluster.nodes[1], db=number)
    other.set("only-here", "1")
    # One acknowledgement is enough in a cache: a read may ask the copy that the write reaches later.
    wait_until("every copy has heard of the write", lambda: other.get("only-here") == "1")
    assert client(cluster.nodes[1]).get("only-here") is None
    assert http(cluster.nodes[2], "DELETE", "/v1/buckets/second")[0] == 204


@pytest.mark.parametrize("options", [(), ("--cluster",), ("-P", "16")])
def test_redis_benchmark_runs_without_an_error(cluster, options):
    port = cluster.nodes[1].cluster_port if "--cluster" in options else cluster.nodes[1].redis_port
    command = ["redis-benchmark", "-p", str(port), "-q", "-n", "5000", "-t",
               "ping_inline,ping_mbulk,set,get,incr,mset", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
    assert done.returncode == 0 and "rror" not in done.stdout + done.stderr, done.stdout + done.stderr


def test_http_keeps_values_contexts_and_conditions(cluster):
    a, b, c = cluster.nodes
    assert http(a, "PUT", "/v1/kv/default/web", data=b"one")[0] == 204
    status, body, headers = http(b, "GET", "/v1/kv/default/web")
    assert (status, body) == (200, b"one")
    tag = headers["etag"]
    assert http(c, "PUT", "/v1/kv/default/web", "-H", f"If-Match: {tag}", data=b"two")[0] == 204
    assert http(a, "PUT", "/v1/kv/default/web", "-H", f"If-Match: {tag}", data=b"three")[0] == 412
    assert http(a, "PUT", "/v1/kv/default/web", "-H", "If-None-Match: *", data=b"four")[0] == 412
    assert http(a, "GET", "/v1/kv/default/web", "-H", "Slipring-Read-Acks: 3")[1] == b"two"
    assert http(b, "DELETE", "/v1/kv/default/web")[0] == 204
    assert http(c, "GET", "/v1/kv/default/web")[0] == 404
    assert http(a, "PUT", "/v1/kv/default/short?ttl_ms=150", data=b"x")[0] == 204
    wait_until("the value expires", lambda: http(b, "GET", "/v1/kv/default/short")[0] == 404)
    assert http(a, "GET", "/v1/kv/nosuch/k")[0] == 404
    assert http(a, "PUT", "/v1/kv/default/k", "-H", "Slipring-Write-Acks: x", data=b"x")[0] == 400
    assert http(a, "POST", "/v1/kv/default/k", data=b"x")[0] == 405


def test_http_tells_about_the_node(cluster):
    for node in cluster.nodes:
        assert http(node, "GET", "/healthz")[0] == 200
        wait_until("the node has caught up since its start", lambda: http(node, "GET", "/readyz")[0] == 200)
        assert b"slipring_requests_coordinated_total" in http(node, "GET", "/metrics")[1]
        assert json.loads(http(node, "GET", "/openapi.json")[1])["openapi"].startswith("3.1")


def test_the_command_line_does_what_it_says(cluster):
    node = cluster.nodes[2]
    assert slipring("put", "c/1", "v", node=node).stdout == "ok\n"
    assert slipring("get", "c/1", node=cluster.nodes[0]).stdout == "v\n"
    assert json.loads(slipring("get", "c/1", "--json", node=node).stdout) == {"value": "v"}
    assert slipring("del", "c/1", node=node).returncode == 0
    assert slipring("get", "c/1", node=node, check=False).returncode == 1
    assert "reachable" in slipring("status", node=node).stdout
    assert len(json.loads(slipring("status", "--json", node=node).stdout)["nodes"]) == 3
    assert "primaries" in slipring("layout", "show", node=node).stdout
    slipring("bucket", "create", "cli-made", "--set", "replicas=2", node=node)
    assert "cli-made" in slipring("bucket", "list", node=node).stdout
    slipring("bucket", "delete", "cli-made", node=node)
    assert "redis_port" in slipring("config").stdout
    assert "_slipring" in slipring("completions", "bash").stdout
    nobody = slipring("status", "--node", "http://127.0.0.1:1", check=False)
    assert nobody.returncode == 1 and "--node" in nobody.stderr
