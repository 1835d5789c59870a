"""Disks and memory that are full: reads and deletions go on, growth is refused, and writes go on once there is room."""

import random
import shutil
import subprocess
import threading

import pytest
import redis

from conftest import Cluster, Node, http, slipring, wait_until

MIB = 1024 * 1024
# Small enough to be full soon. Half of it is the least that a store needs for itself.
DISK_MIB = 64
RESERVE = ("--disk-reserve", "16MiB")
# The part of the limit that copies of other replicas may take beyond it, and what a process needs beside its buckets.
SLACK_SHARE, SLACK_BYTES = 16, 320 * MIB


def small_disk(data):
    data.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "slipring-test", data], check=True)


class SmallDisks(Cluster):
    """A cluster each of whose nodes has a small disk of its own."""

    def join(self, extra=()):
        small_disk(self.folder / f"data-{len(self.started)}")
        return super().join(extra)

    def close(self):
        for node in self.started:
            node.kill()
            subprocess.run(["umount", "-l", node.data], check=False)
        super().close()


@pytest.fixture
def small():
    cluster = SmallDisks(3, RESERVE)
    yield cluster
    cluster.close()


def client(node, bucket=0):
    return redis.Redis(port=node.redis_port, db=bucket, socket_timeout=60)


def refusal(write):
    """The kind of error that a write ends with; nothing when it is taken."""
    try:
        write()
    except redis.ResponseError as error:
        return str(error).split(" ", 1)[0]
    return None


def alive(cluster):
    return all(node.process.poll() is None for node in cluster.nodes)


def fill_by_writes(node, size, rng):
    """Writes until a write is refused; what was acknowledged."""
    taken, to = {}, client(node)
    for number in range(1000):
        value = rng.randbytes(size)
        refused = refusal(lambda: to.set(f"k{number}", value))
        if refused:
            assert refused == "OVERLOADED", refused
            return taken
        taken[f"k{number}"] = value
    raise AssertionError("the disks are never full")


def room(node, metric="slipring_disk_room"):
    lines = http(node, "GET", "/metrics")[1].decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(metric + " "))


def test_full_cluster_reads_deletes_and_writes_again_once_there_is_room(small):
    memory = client(small.nodes[1], 1)
    memory.set("cached", "before")
    taken = fill_by_writes(small.nodes[0], 400_000, random.Random(1))
    assert len(taken) > 20
    # The third replica may have room yet: it alone is no quorum.
    full = lambda: [node for node in small.nodes if room(node)]
    wait_until("two nodes know that their disks have little room", lambda: len(full()) >= 2)
    for node in small.nodes:
        assert refusal(lambda: client(node).set("more", b"x" * 100_000)) == "OVERLOADED"
        assert all(client(node).get(key) == value for key, value in random.Random(2).sample(sorted(taken.items()), 10))
    for node in full():
        status, body, _ = http(node, "GET", "/readyz")
        assert status == 200 and body.startswith(b"ready for reads only: the disk has little room"), body
        assert client(node).info("persistence")["disk_takes_writes"] == 0
    disks = [node["own"]["disk"] for node in small.status()["nodes"]]
    scarce = [disk for disk in disks if disk["room"] == "scarce"]
    assert len(scarce) >= 2 and all(disk["reserve"] == 16 * MIB for disk in scarce), disks
    assert slipring("ok-to-stop", node=small.nodes[0], check=False).returncode != 0
    memory.set("cached", "after")
    assert client(small.nodes[2], 1).get("cached") == b"after"
    for node, key in zip(small.nodes, sorted(taken)):
        assert client(node).delete(key) == 1
        assert client(node).get(key) is None
    # A node that starts on a full disk reads on as well.
    assert small.nodes[2].terminate() == 0
    small.nodes[2].start()
    small.wait_until_whole()
    left = dict(sorted(taken.items())[3:])
    assert all(client(small.nodes[2]).get(key) == value for key, value in left.items())
    assert alive(small)
    for node in small.nodes:
        subprocess.run(["mount", "-o", f"remount,size={4 * DISK_MIB}m", node.data], check=True)
    wait_until("writes go on", lambda: refusal(lambda: client(small.nodes[1]).set("more", "room")) is None)
    wait_until("every node is ready", lambda: all(http(n, "GET", "/readyz")[1] == b"ready\n" for n in small.nodes))
    # Buckets in memory have fewer copies than there are nodes.
    memory.delete("cached")
    small.wait_until_repaired()
    assert {client(node).get("more") for node in small.nodes} == {b"room"}


def test_node_whose_disk_another_program_fills_lives_and_catches_up(small):
    full = small.nodes[2]
    before = {f"before{number}": b"v" * 1000 for number in range(200)}
    for key, value in before.items():
        client(full).set(key, value)
    filler = full.data / "filler"
    with open(filler, "wb", buffering=0) as file:
        with pytest.raises(OSError):
            while True:
                file.write(b"\x5a" * 4096)
    written = [0, 0]

    def write(to):
        done = refusal(lambda: client(small.nodes[to]).set(f"during{to}-{written[to]}", b"w" * 1000))
        assert done in (None, "UNKNOWN", "NOREPLICAS"), done
        written[to] += done is None
        return written[to] >= 200

    for to in (0, 1):
        wait_until("writes go on with the other nodes", lambda: write(to))
    assert refusal(lambda: client(full).set("through the full node", "v")) is None
    assert all(client(full).get(key) == value for key, value in before.items())
    assert full.process.poll() is None and http(full, "GET", "/readyz")[1].startswith(b"ready for reads only: the disk is full")
    assert full.terminate() == 0
    full.start()
    assert all(client(full).get(key) == value for key, value in before.items())
    filler.unlink()
    wait_until("the node takes writes", lambda: room(full) == 0)
    small.wait_until_repaired()
    keys = [node["own"]["keys"] for node in small.status()["nodes"]]
    assert keys == [len(before) + sum(written) + 1] * 3 and alive(small)


def test_full_memory_refuses_growth_and_everything_else_goes_on():
    limit = 24 * MIB
    cluster = Cluster(3, ("--memory-limit", str(limit)))
    try:
        node, value = cluster.nodes[0], b"v" * 2_000
        refused, lock = [], threading.Lock()

        def fill(which):
            to, number = client(cluster.nodes[which % 3], 1), 0
            while number < 40_000:
                pipe = to.pipeline(transaction=False)
                for _ in range(50):
                    pipe.set(f"{which}-{number}", value)
                    number += 1
                errors = [str(answer) for answer in pipe.execute(raise_on_error=False) if isinstance(answer, Exception)]
                if errors:
                    with lock:
                        refused.extend(errors)
                    return

        fillers = [threading.Thread(target=fill, args=(which,)) for which in range(4)]
        [filler.start() for filler in fillers]
        [filler.join() for filler in fillers]
        assert refused and all(error.startswith(("OVERLOADED", "UNKNOWN")) for error in refused), refused[:3]
        assert any("--memory-limit" in error for error in refused)
        assert alive(cluster)
        for each in cluster.nodes:
            info = client(each).info("memory")
            assert info["maxmemory"] == limit and info["used_memory"] <= limit + limit // SLACK_SHARE, info
            assert each.resident_bytes() < limit + limit // SLACK_SHARE + SLACK_BYTES
            assert client(each).config_get("maxmemory") == {"maxmemory": str(limit)}
        assert max(client(each).info("memory")["used_memory"] for each in cluster.nodes) > limit * 9 // 10
        # A key that is there may be written again, so each try takes a new one.
        new = (f"new-{number}" for number in range(1_000_000))
        wait_until("no replica has room", lambda: refusal(lambda: client(node, 1).set(next(new), value)) == "OVERLOADED")
        client(node).set("on disk", "v")
        assert client(cluster.nodes[1]).get("on disk") == b"v"
        assert client(node, 1).set("0-0", b"w" * 2_000), "an overwrite of the same length"
        assert client(cluster.nodes[2], 1).get("0-0") == b"w" * 2_000
        for number in range(1_500):
            client(node, 1).delete(f"0-{number}")
        wait_until("there is room again", lambda: refusal(lambda: client(node, 1).set(next(new), value)) is None)
        assert alive(cluster)
    finally:
        cluster.close()


def read_bytes(node):
    lines = open(f"/proc/{node.process.pid}/io").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def test_start_reads_what_the_last_run_left_open_and_counts_keys_afterwards(tmp_path):
    node, rng, keys = Node(tmp_path, 0), random.Random(3), 700
    try:
        to = client(node.start())
        for number in range(keys):
            to.set(f"k{number}", rng.randbytes(400_000))
        assert node.terminate() == 0
        stored = sum(path.stat().st_blocks * 512 for path in node.data.rglob("*") if path.is_file())
        journals = sum(path.stat().st_size for path in node.data.rglob("*.jnl"))
        assert stored - journals > 100 * MIB, "most of it is in tables"
        node.start()
        assert client(node).dbsize() == keys, "the clean end has left the count"
        assert read_bytes(node) < 2 * journals + 64 * MIB < stored
        node.kill()
        node.start()
        assert client(node).dbsize() == keys, "after a sudden end it is counted"
        assert client(node).get("k0") is not None
    finally:
        node.kill()


@pytest.mark.parametrize("gone", ["keyspaces/0/current", "keyspaces/0", "version", "*.jnl"])
def test_missing_file_of_the_store_is_named(tmp_path, gone):
    node = Node(tmp_path, 0)
    client(node.start()).set("k", "v")
    assert node.terminate() == 0
    for path in (node.data / "data" / "records").glob(gone):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ports = ("--redis-port", "0", "--http-port", "0", "--peer-port", "0")
    done = slipring("start", "--data", str(node.data), *ports, check=False)
    assert done.returncode == 1 and "is damaged: it is gone" in done.stderr and gone in done.stderr, done.stderr
    assert "let it join as a new node" in done.stderr
