"""Real node processes for the tests, started and stopped here."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest
import redis

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What is tested; another build of it where the environment names one.
BINARY = pathlib.Path(os.environ.get("SLIPRING_BINARY", ROOT / "target" / "release" / "slipring"))
START_TIMEOUT = 20


# What a node rightly answers while another one is gone or still starts: no word on what came of a write, or that
# nothing came of it.
PASSING = ("UNKNOWN ", "NOREPLICAS ")


def wait_until(what, is_so, timeout=START_TIMEOUT):
    """Waits for a condition; a test never waits for time alone."""
    deadline, last = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        try:
            found = is_so()
        except (OSError, redis.ConnectionError, redis.TimeoutError) as error:
            found, last = None, error
        except redis.ResponseError as error:
            if not str(error).startswith(PASSING):
                raise
            found, last = None, error
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout} s in vain until {what}; the last error: {last}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """One `slipring start`."""

    def __init__(self, folder, index, join=None, extra=()):
        self.folder, self.index, self.extra = folder, index, extra
        self.data = folder / f"data-{index}"
        self.log = folder / f"log-{index}"
        self.ready = folder / f"ready-{index}"
        self.join = join
        self.process = None
        self.redis = self.http = self.peer = None

    def launch(self):
        self.ready.unlink(missing_ok=True)
        port = lambda address: address.rsplit(":", 1)[1] if address else "0"
        command = [BINARY, "start", "--data", self.data, "--ready-file", self.ready, "--redis-port", port(self.redis),
                   "--http-port", port(self.http), "--peer-port", port(self.peer), *self.extra]
        if self.join:
            command += ["--join", self.join]
        log = open(self.log, "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        return self

    def wait(self):
        def is_ready():
            if self.process.poll() is not None:
                raise AssertionError(f"node {self.index} ended: {self.tail()}")
            return self.ready.exists()

        wait_until(f"node {self.index} serves", is_ready)
        addresses = json.loads(self.ready.read_text())
        self.redis, self.http, self.peer = addresses["redis"], addresses["http"], addresses["peer"]
        return self

    def start(self):
        return self.launch().wait()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def terminate(self):
        self.process.terminate()
        return self.process.wait(timeout=20)

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    @property
    def redis_port(self):
        return int(self.redis.rsplit(":", 1)[1])

    def resident_bytes(self):
        statm = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Cluster:
    def __init__(self, size, extra=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="slipring-e2e-"))
        self.nodes = []
        for index in range(size):
            join = self.nodes[0].peer if self.nodes else None
            self.nodes.append(Node(self.folder, index, join, extra).start())
        self.wait_until_whole()

    def status(self, node=0):
        return json.loads(http(self.nodes[node], "GET", "/v1/cluster")[1])

    def wait_until_whole(self, timeout=30):
        def is_whole():
            seen = [self.status(index) for index in range(len(self.nodes))]
            is_met = all(len(s["nodes"]) == len(self.nodes) and all(n["is_connected"] for n in s["nodes"]) for s in seen)
            return is_met and not any(s["moving"] for s in seen)

        wait_until("every node reaches every other and nothing moves", is_whole, timeout)

    def join(self, extra=()):
        """Launches one more node; it is whole when `wait_until_whole` returns."""
        index = max(node.index for node in self.nodes) + 1
        node = Node(self.folder, index, self.nodes[0].peer, extra).start()
        self.nodes.append(node)
        return node

    def wait_until_repaired(self, timeout=60):
        def is_repaired():
            nodes = self.status()["nodes"]
            own = [node["own"] for node in nodes]
            return all(own) and sum(o["hints"] for o in own) == 0 and len({o["keys"] for o in own}) == 1

        wait_until("no hint is left and all replicas hold as much", is_repaired, timeout)

    def close(self):
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def http(node, method, path, *arguments, data=None):
    """One request by curl; status, body, headers."""
    command = ["curl", "-s", "-i", "-X", method, f"http://{node.http}{path}", *arguments]
    if data is not None:
        command += ["--data-binary", "@-"]
    done = subprocess.run(command, input=data, capture_output=True, timeout=30)
    if done.returncode != 0:
        raise OSError(f"curl ended with {done.returncode}")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    lines = head.decode().splitlines()
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split()[1]), body, headers


def slipring(*arguments, node=None, check=True):
    command = [BINARY, *arguments]
    if node:
        command += ["--node", f"http://{node.http}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(3)
    yield cluster
    cluster.close()


@pytest.fixture
def fresh():
    """A cluster of its own for a test that breaks things."""
    cluster = Cluster(3)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def real_redis():
    """A redis-server to compare with."""
    port, folder = free_port(), tempfile.mkdtemp(prefix="slipring-redis-")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def answers():
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True

    wait_until("redis-server serves", answers)
    yield port
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)
