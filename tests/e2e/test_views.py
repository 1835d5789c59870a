"""The two Redis ports of a node: one server with all keys, and one node of a Redis Cluster with the keys of its slots."""

import json
import shutil
import subprocess

import pytest
import redis
from redis.cluster import RedisCluster

from conftest import COMMAND_TIMEOUT, Cluster, wait_until

KEYS = {f"k:{index}": str(index) for index in range(300)}
# Seconds. Ten are promised on a machine that is not busy.
SOON = 30

SCRIPT = """
const Redis = require("ioredis");
const cluster = new Redis.Cluster([{ host: "127.0.0.1", port: Number(process.argv[2]) }]);
(async () => {
    for (let index = 0; index < 300; index++) await cluster.set(`k:${index}`, index);
    const seen = [];
    let count = 0, listed = 0;
    for (const node of cluster.nodes("master")) {
        for await (const keys of node.scanStream({ count: 20 })) seen.push(...keys);
        count += await node.dbsize();
        listed += (await node.keys("*")).length;
    }
    console.log(JSON.stringify([cluster.nodes("master").length, seen.length, new Set(seen).size, count, listed]));
    await Promise.all(cluster.nodes("master").map((node) => node.flushall()));
    console.log(JSON.stringify(await cluster.exists("k:7")));
    cluster.disconnect();
})();
"""


@pytest.fixture(scope="module")
def ring():
    cluster = Cluster(3)
    yield cluster
    cluster.close()


def smart(node):
    return RedisCluster(host="127.0.0.1", port=node.cluster_port, decode_responses=True, socket_timeout=5)


def plain(node):
    return redis.Redis(port=node.redis_port, decode_responses=True)


def shown(node):
    """The cluster view of one node, by a client that knows nothing of clusters."""
    return redis.Redis(port=node.cluster_port, decode_responses=True)


def fill(client):
    for key, value in KEYS.items():
        client.set(key, value)


def has_each_once(client):
    """Whether a cluster client counts, walks over and lists each key once."""
    masters = client.get_primaries()
    sizes = client.dbsize(target_nodes=masters)
    found, listed = list(client.scan_iter(count=20)), client.keys("*", target_nodes=RedisCluster.PRIMARIES)
    listed = [key for keys in listed.values() for key in keys] if isinstance(listed, dict) else listed
    expected = sorted(KEYS)
    # Each master counts what it has heard of: a write may reach it after the client.
    return sizes == len(KEYS) and sorted(found) == expected and sorted(listed) == expected


def managed(node, task):
    command = ["redis-cli", "--cluster", task, node.redis_cluster]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)


def test_cluster_clients_see_each_key_once(ring):
    client = smart(ring.nodes[0])
    fill(client)
    assert len(client.get_primaries()) == 3
    wait_until("each key is there once", lambda: has_each_once(client), SOON)
    spaces = [shown(node).info("keyspace").get("db0", {"keys": 0})["keys"] for node in ring.nodes]
    assert sum(spaces) == len(KEYS) and all(spaces)
    for node in ring.nodes:
        own = set(shown(node).scan_iter(count=7))
        assert shown(node).randomkey() in own and 0 < len(own) < len(KEYS)
        assert plain(node).dbsize() == len(plain(node).keys()) == len(KEYS), "the plain port has all"
    assert client.flushall(target_nodes=RedisCluster.PRIMARIES)
    wait_until("no key is left", lambda: client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 0, SOON)


def test_flushing_one_master_leaves_the_slots_of_others(ring):
    fill(smart(ring.nodes[0]))
    wait_until("all are counted", lambda: sum(shown(node).dbsize() for node in ring.nodes) == len(KEYS), SOON)
    kept = {key for node in ring.nodes[1:] for key in shown(node).keys()}
    assert shown(ring.nodes[0]).flushall()
    wait_until("its keys are gone", lambda: set(plain(ring.nodes[1]).keys()) == kept, SOON)
    assert plain(ring.nodes[2]).flushall()
    wait_until("no key is left", lambda: not any(shown(node).dbsize() for node in ring.nodes), SOON)


def test_redis_cli_checks_and_counts_the_cluster(ring):
    fill(smart(ring.nodes[1]))
    wait_until("all are counted", lambda: sum(shown(node).dbsize() for node in ring.nodes) == len(KEYS), SOON)
    for node in ring.nodes:
        checked = managed(node, "check")
        assert checked.returncode == 0 and "[OK] All 16384 slots covered." in checked.stdout, checked.stdout
        assert "WARNING" not in checked.stdout and "ERR" not in checked.stdout, checked.stdout
        told = managed(node, "info")
        assert told.returncode == 0 and f"[OK] {len(KEYS)} keys in 3 masters." in told.stdout, told.stdout


def test_each_view_agrees_with_itself(ring):
    for node in ring.nodes:
        for client, mode, is_cluster in [(plain(node), "standalone", 0), (shown(node), "cluster", 1)]:
            hello = client.execute_command("HELLO")
            hello = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2]))
            info = client.info()
            assert (hello["mode"], hello["role"]) == (mode, "master")
            assert (info["redis_mode"], info["cluster_enabled"], info["role"]) == (mode, is_cluster, "master")
            assert info["connected_slaves"] == 0 and client.role()[0] in (b"master", "master")
            assert info["tcp_port"] == (node.cluster_port if is_cluster else node.redis_port)
            assert client.config_get("cluster-enabled") == {"cluster-enabled": "yes" if is_cluster else "no"}


def told(node, sub, *options):
    command = ["redis-cli", "-p", str(node.cluster_port), *options, "cluster", sub]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT).stdout


def test_cluster_commands_agree_on_roles(ring):
    for node in ring.nodes:
        slots = sorted((first, last, master[2]) for first, last, master in json.loads(told(node, "slots", "--json")))
        assert sum(last + 1 - first for first, last, _ in slots) == 16384
        listed, sharded = [], []
        for row in told(node, "nodes").splitlines():
            name, _, flags, replica_of, *_, = row.split()
            assert "master" in flags.split(",") and replica_of == "-", row
            for part in row.split()[8:]:
                first, _, last = part.partition("-")
                listed.append((int(first), int(last or first), name))
        for shard in json.loads(told(node, "shards", "-3", "--json")):
            (member,) = shard["nodes"]
            assert (member["role"], member["health"]) == ("master", "online")
            bounds = shard["slots"]
            sharded += [(first, last, member["id"]) for first, last in zip(bounds[::2], bounds[1::2])]
        assert sorted(listed) == sorted(sharded) == slots
        summary = told(node, "info")
        assert "cluster_enabled:1" in summary and "cluster_size:3" in summary and "cluster_slots_ok:16384" in summary


def test_plain_port_names_the_other_one(ring):
    for node in ring.nodes:
        for words in ("CLUSTER INFO", "CLUSTER SLOTS", "CLUSTER KEYSLOT k", "READONLY", "READWRITE", "ASKING"):
            with pytest.raises(redis.ResponseError) as refused:
                plain(node).execute_command(*words.split())
            expected = "This instance has cluster support disabled"
            assert str(refused.value).startswith(expected) and node.redis_cluster in str(refused.value)
    with pytest.raises(Exception, match="cluster support disabled|Cluster mode is not enabled"):
        RedisCluster(host="127.0.0.1", port=ring.nodes[0].redis_port)


def test_cluster_port_has_one_database_as_in_redis(ring):
    client = shown(ring.nodes[0])
    assert client.execute_command("SELECT", 0)
    with pytest.raises(redis.ResponseError, match="SELECT is not allowed in cluster mode"):
        client.execute_command("SELECT", 1)
    assert client.execute_command("READONLY") and client.execute_command("READWRITE")
    assert plain(ring.nodes[0]).execute_command("SELECT", 1)


def test_both_ports_share_the_connections(ring):
    node = ring.nodes[0]
    one, other = plain(node), shown(node)
    one.client_setname("on-the-plain-port"), other.client_setname("on-the-cluster-port")
    names = {each["name"] for each in one.client_list()}
    assert {"on-the-plain-port", "on-the-cluster-port"} <= names
    assert one.info("clients")["maxclients"] == other.info("clients")["maxclients"]


def test_ioredis_clusters_see_each_key_once(ring, tmp_path):
    if not shutil.which("npm"):
        pytest.skip("npm is not here")
    subprocess.run(["npm", "install", "--silent", "--no-fund", "ioredis@5"], cwd=tmp_path, check=True, timeout=120)
    (tmp_path / "views.js").write_text(SCRIPT)

    def sees_each_once():
        command = ["node", tmp_path / "views.js", str(ring.nodes[2].cluster_port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()] == [[3, 300, 300, 300, 300], 0]

    plain(ring.nodes[0]).flushall()
    wait_until("each key is there once", sees_each_once, SOON)


@pytest.mark.parametrize("stop", ["kill", "terminate"])
def test_each_key_is_seen_once_while_a_node_is_gone(stop):
    cluster = Cluster(3)
    try:
        client, gone = smart(cluster.nodes[0]), cluster.nodes[2]
        fill(client)
        wait_until("each key is there once", lambda: has_each_once(client), SOON)
        getattr(gone, stop)()
        for node in cluster.nodes[:2]:
            wait_until("no slot is left with it", lambda node=node: str(gone.cluster_port) not in told(node, "slots"), SOON)
        for node in cluster.nodes[:2]:
            wait_until("each key is there once", lambda node=node: has_each_once(smart(node)), SOON)
            checked = managed(node, "check")
            assert "[OK] All 16384 slots covered." in checked.stdout, checked.stdout
        gone.start()
        cluster.wait_until_whole()
        wait_until("each key is there once again", lambda: has_each_once(smart(gone)), SOON)
        assert len(smart(gone).get_primaries()) == 3
    finally:
        cluster.close()
