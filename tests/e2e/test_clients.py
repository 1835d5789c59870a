"""Ordinary clients against every node, owner of the key or not."""

import json
import subprocess

import pytest
import redis
from redis.cluster import RedisCluster

from conftest import http, slipring, wait_until


def cli(node, *arguments, options=()):
    command = ["redis-cli", "-p", str(node.redis_port), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()


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
    seed = cluster.nodes[1].redis
    for task in ("info", "check"):
        done = subprocess.run(["redis-cli", "--cluster", task, seed], capture_output=True, text=True, timeout=30)
        assert "16384 slots covered" in done.stdout or "3 masters" in done.stdout, done.stdout


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_gets_what_a_real_server_gives(cluster, real_redis, protocol):
    """The same commands on both, and the same replies."""
    commands = [
        ("SET", "d:a", "1"), ("GET", "d:a"), ("SET", "d:a", "2", "NX"), ("SET", "d:a", "3", "XX", "GET"),
        ("SET", "d:n", "x", "NX", "GET"), ("SET", "d:n", "y", "EX", "100"), ("TTL", "d:n"), ("PERSIST", "d:n"), ("TTL", "d:n"),
        ("SET", "d:n", "z", "KEEPTTL"), ("GETSET", "d:a", "5"), ("GETDEL", "d:a"), ("GET", "d:a"), ("SETNX", "d:b", "1"),
        ("SETNX", "d:b", "2"), ("SETEX", "d:c", "50", "v"), ("PSETEX", "d:d", "50000", "v"), ("TTL", "d:c"),
        ("MSET", "d:e", "1", "d:f", "2"), ("MGET", "d:e", "d:f", "d:none"), ("INCR", "d:i"), ("INCRBY", "d:i", "41"),
        ("DECR", "d:i"), ("DECRBY", "d:i", "2"), ("GET", "d:i"), ("INCR", "d:n"), ("INCRBYFLOAT", "d:g", "10.5"),
        ("INCRBYFLOAT", "d:g", "-3"), ("APPEND", "d:h", "Hello "), ("APPEND", "d:h", "World"), ("STRLEN", "d:h"),
        ("GETRANGE", "d:h", "0", "4"), ("GETRANGE", "d:h", "-5", "-1"), ("SETRANGE", "d:h", "6", "Redis"), ("GET", "d:h"),
        ("SETRANGE", "d:new", "3", "x"), ("GET", "d:new"), ("EXISTS", "d:h", "d:none", "d:h"), ("TYPE", "d:h"), ("TYPE", "d:none"),
        ("EXPIRE", "d:h", "100"), ("EXPIRE", "d:h", "50", "GT"), ("EXPIRE", "d:h", "50", "LT"), ("EXPIRE", "d:h", "10", "NX"),
        ("TTL", "d:h"), ("EXPIREAT", "d:h", "4000000000"), ("EXPIRETIME", "d:h"), ("PEXPIRETIME", "d:h"), ("PEXPIREAT", "d:h", "1"),
        ("EXISTS", "d:h"), ("GETEX", "d:e", "EX", "100"), ("TTL", "d:e"), ("GETEX", "d:e", "PERSIST"), ("TTL", "d:e"),
        ("DEL", "d:e", "d:none"), ("UNLINK", "d:f"), ("TOUCH", "d:n", "d:none"), ("OBJECT", "ENCODING", "d:i"), ("ECHO", "hi"),
        ("SET", "d:x"), ("GET",), ("SET", "d:x", "v", "EX", "0"), ("SET", "d:x", "v", "NX", "XX"), ("INCRBY", "d:i", "x"),
        ("SETRANGE", "d:x", "-1", "v"), ("EXPIRE", "d:x", "x"), ("SELECT", "99999"), ("OBJECT", "ENCODING", "d:none"),
        ("CONFIG", "GET", "appendonly"), ("CLIENT", "GETNAME"),
    ]
    ours = redis.Redis(port=cluster.nodes[2].redis_port, decode_responses=True, protocol=protocol)
    theirs = redis.Redis(port=real_redis, decode_responses=True, protocol=protocol)
    theirs.flushall()
    ours.flushdb()

    def ask(client, command):
        try:
            return client.execute_command(*command)
        except redis.ResponseError as error:
            return f"error: {error}"

    different = [(c, ask(ours, c), ask(theirs, c)) for c in commands]
    different = [(c, a, b) for c, a, b in different if a != b]
    assert different == []


def test_scan_sees_every_key_once_over_the_cluster(cluster):
    writer, reader = client(cluster.nodes[0]), client(cluster.nodes[1])
    writer.flushdb()
    with writer.pipeline(transaction=False) as pipe:
        for index in range(2000):
            pipe.set(f"scan:{index}", index)
        pipe.execute()
    found = list(reader.scan_iter(match="scan:*", count=50))
    assert sorted(found) == sorted(f"scan:{index}" for index in range(2000))
    assert reader.dbsize() == 2000
    assert len(reader.keys("scan:1??")) == 100
    assert reader.randomkey().startswith("scan:")
    writer.flushdb()
    # The count is that of the replicas asked; a third one may hear of a deletion after the client.
    wait_until("every replica has heard of the deletions", lambda: reader.dbsize() == 0)


def test_a_cluster_client_finds_its_way(cluster):
    smart = RedisCluster(host="127.0.0.1", port=cluster.nodes[0].redis_port, decode_responses=True)
    for index in range(200):
        smart.set(f"smart:{index}", index)
    assert [smart.get(f"smart:{index}") for index in range(200)] == [str(index) for index in range(200)]
    slots = client(cluster.nodes[2]).execute_command("CLUSTER SLOTS")
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
    assert other.get("only-here") == "1"
    assert client(cluster.nodes[1]).get("only-here") is None
    assert http(cluster.nodes[2], "DELETE", "/v1/buckets/second")[0] == 204


@pytest.mark.parametrize("options", [(), ("--cluster",), ("-P", "16")])
def test_redis_benchmark_runs_without_an_error(cluster, options):
    command = ["redis-benchmark", "-p", str(cluster.nodes[1].redis_port), "-q", "-n", "5000", "-t",
               "ping_inline,ping_mbulk,set,get,incr,mset", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
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
        assert http(node, "GET", "/readyz")[0] == 200
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
