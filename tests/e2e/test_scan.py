"""Walks over keys by clients as they are: each key is found, also where clients round large numbers and while data moves."""

import json
import shutil
import subprocess

import pytest
import redis

from conftest import Cluster, http, slipring, wait_until

KEYS = 3_000
FEW = 7
CURSORS = 2**53

SCRIPT = """
const Redis = require("ioredis");
const client = new Redis(Number(process.argv[2]));
const base = process.argv[3];
(async () => {
    const streamed = new Set(), numbered = new Set(), read = new Set();
    for await (const keys of client.scanStream({ count: 100 })) keys.forEach((key) => streamed.add(key));
    let cursor = 0;
    do {
        const [next, keys] = await client.scan(cursor, "COUNT", 100);
        keys.forEach((key) => numbered.add(key));
        cursor = Number(next);
    } while (cursor !== 0);
    cursor = 0;
    do {
        const page = await (await fetch(`${base}/v1/kv/default?count=100&cursor=${cursor}`)).json();
        page.keys.forEach((key) => read.add(key));
        cursor = Number(page.cursor);
    } while (cursor !== 0);
    console.log(JSON.stringify([streamed.size, numbered.size, read.size]));
    client.disconnect();
})();
"""


def connect(node, **options):
    return redis.Redis(port=node.redis_port, decode_responses=True, socket_timeout=30, **options)


def pages(client, count):
    """Every page of a walk with its cursor."""
    cursor = 0
    while True:
        cursor, keys = client.scan(cursor, count=count)
        yield cursor, keys
        if cursor == 0:
            return


@pytest.fixture(scope="module")
def filled():
    cluster = Cluster(3)
    pipe = connect(cluster.nodes[0]).pipeline(transaction=False)
    for index in range(KEYS):
        pipe.set(f"k:{index}", index)
    pipe.execute()
    assert slipring("bucket", "create", "few", node=cluster.nodes[0]).returncode == 0
    yield cluster
    cluster.close()


def test_cursors_are_small_and_pages_as_large_as_asked_for(filled):
    client, wanted = connect(filled.nodes[1]), {f"k:{index}" for index in range(KEYS)}
    for count in (1, 10, 100, 2_000):
        walk = list(pages(client, count)) if count > 1 else [client.scan(0, count=1)]
        assert all(cursor < CURSORS for cursor, _ in walk)
        assert all(count <= len(keys) <= 2 * count for cursor, keys in walk if cursor), count
        assert count == 1 or {key for _, keys in walk for key in keys} == wanted
    assert set(client.scan_iter(match="k:*", count=1_000)) == wanted
    assert client.scan(CURSORS - 1)[0] == 0
    for wrong in (CURSORS, 2**64 - 1, 2**64, -1):
        with pytest.raises(redis.ResponseError, match="invalid cursor"):
            client.scan(wrong)


def test_few_keys_are_told_in_one_answer(filled):
    bucket = next(number for number in range(1, 9) if is_empty(filled.nodes[0], number))
    clients = [connect(node, db=bucket) for node in filled.nodes]
    assert clients[0].scan(0) == (0, [])
    for index in range(FEW):
        clients[0].set(f"few:{index}", index)
    for client in clients:
        cursor, keys = client.scan(0)
        assert (cursor, len(keys)) == (0, FEW)


def is_empty(node, number):
    try:
        return connect(node, db=number).dbsize() == 0
    except redis.ResponseError:
        return False


def test_http_tells_cursors_as_text(filled):
    cursor, seen = "0", set()
    while True:
        status, body, _ = http(filled.nodes[2], "GET", f"/v1/kv/default?count=500&cursor={cursor}")
        page = json.loads(body)
        assert status == 200 and isinstance(page["cursor"], str)
        seen.update(page["keys"])
        cursor = page["cursor"]
        if cursor == "0":
            break
    assert len(seen) == KEYS
    status, body, _ = http(filled.nodes[2], "GET", f"/v1/kv/default?cursor={CURSORS}")
    assert status == 400 and b"cursor" in body
    assert http(filled.nodes[2], "GET", f"/v1/kv/default?cursor={CURSORS - 1}")[0] == 200


def test_javascript_clients_find_every_key(filled, tmp_path):
    if not shutil.which("npm"):
        pytest.skip("npm is not here")
    subprocess.run(["npm", "install", "--silent", "--no-fund", "ioredis@5"], cwd=tmp_path, check=True, timeout=120)
    (tmp_path / "scan.js").write_text(SCRIPT)
    node = filled.nodes[0]
    command = ["node", tmp_path / "scan.js", str(node.redis_port), f"http://{node.http}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == [KEYS] * 3, done.stderr


def test_keys_of_one_slot_are_all_told(filled):
    client = connect(filled.nodes[1])
    wanted = {f"{{one}}:{index}" for index in range(600)}
    pipe = client.pipeline(transaction=False)
    for key in wanted:
        pipe.set(key, 1)
    pipe.execute()
    views = [redis.Redis(port=node.cluster_port, decode_responses=True) for node in filled.nodes]
    slot = views[0].execute_command("CLUSTER KEYSLOT", "one")
    counts = [view.execute_command("CLUSTER COUNTKEYSINSLOT", slot) for view in views]
    assert sum(counts) == max(counts) >= len(wanted), "its master alone has them"
    master = views[counts.index(max(counts))]
    assert wanted <= set(master.execute_command("CLUSTER GETKEYSINSLOT", slot, 10_000))
    assert wanted == set(client.scan_iter(match="{one}:*", count=50))
    client.delete(*wanted)


def test_walk_finds_every_key_while_data_moves(filled):
    walk, seen = pages(connect(filled.nodes[2]), 20), set()
    seen.update(next(walk)[1])
    filled.join()
    wait_until("data moves, or has moved", lambda: filled.status()["moving"] or len(filled.status()["nodes"]) == 4)
    for _, keys in walk:
        seen.update(keys)
    assert seen >= {f"k:{index}" for index in range(KEYS)}
    filled.wait_until_whole()
    # Some partitions are on other nodes now.
    for node in filled.nodes:
        assert len(set(connect(node).scan_iter(count=100))) == KEYS
