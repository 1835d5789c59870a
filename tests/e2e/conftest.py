"""Real node processes for the tests, started and stopped here."""

import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import tempfile
import time

import pytest
import redis

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What is tested; another build of it where the environment names one.
BINARY = pathlib.Path(os.environ.get("SLIPRING_BINARY", ROOT / "target" / "release" / "slipring"))
# What nodes printed, a folder for each module with a test that failed.
LOGS = ROOT / "target" / "e2e-logs"
# How many tests had failed when each module began.
FAILED_BEFORE = {}
# Seconds. Only what is wrong waits so long, so a busy machine may take its time.
PATIENCE = 240
COMMAND_TIMEOUT = 300
# All processes share one machine with their clients, and no test measures how long an answer takes: data may move faster.
SOONER = ("--background-share", "12")
# Below those that the system gives to whoever asks for any port: nobody takes one while its node is down.
FREE_PORTS = random.sample(range(10_000, 32_768), 22_768)


def is_passing(error):
    """What is right while a node is gone or still starts: no connection, no word on what came of a write (it may have
    happened), or that nothing came of it."""
    if isinstance(error, redis.ResponseError):
        return str(error).startswith(("UNKNOWN ", "NOREPLICAS "))
    return isinstance(error, (OSError, redis.ConnectionError, redis.TimeoutError))


def wait_until(what, is_so, timeout=PATIENCE, is_passing=is_passing):
    """Waits for a condition; a test never waits for time alone."""
    deadline, last = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        try:
            found = is_so()
        except Exception as error:
            if not is_passing(error):
                raise
            found, last = None, error
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout} s in vain until {what}; the last error: {last}")


def answered(ask):
    """The answer in the end: what is told to have done nothing, as too few replicas answer, is asked again."""
    is_refusal = lambda error: isinstance(error, redis.ResponseError) and str(error).startswith("NOREPLICAS ")
    return wait_until("enough replicas answer", lambda: (ask(),), is_passing=is_refusal)[0]


def free_port():
    """A port that nobody listens on, and that is given to nobody else."""
    while True:
        port = FREE_PORTS.pop()
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(type=kind) as probe:
                    probe.bind(("127.0.0.1", port))
            return port
        except OSError:
            continue


class Node:
    """One `slipring start`."""

    def __init__(self, folder, index, join=None, extra=()):
        self.folder, self.index, self.extra = folder, index, extra
        self.data = folder / f"data-{index}"
        self.log = folder / f"log-{index}"
        self.ready = folder / f"ready-{index}"
        self.join = join
        self.binary, self.process = BINARY, None
        # What it finds in its environment beside this process's own.
        self.environment = {}
        self.redis = self.redis_cluster = self.http = self.peer = None

    def launch(self):
        self.ready.unlink(missing_ok=True)
        # On a host of its own the system may choose.
        first = lambda: "0" if "--bind" in self.extra else str(free_port())
        port = lambda address: address.rsplit(":", 1)[1] if address else first()
        command = [self.binary, "start", "--data", self.data, "--ready-file", self.ready, "--redis-port", port(self.redis),
                   "--http-port", port(self.http), "--peer-port", port(self.peer), *self.extra]
        # Earlier builds do not know these.
        if self.binary == BINARY:
            command += ["--redis-cluster-port", port(self.redis_cluster)]
            command += () if SOONER[0] in self.extra else SOONER
        if self.join:
            command += ["--join", self.join]
        log = open(self.log, "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self.environment})
        return self

    def wait(self):
        def is_ready():
            if self.process.poll() is not None:
                raise AssertionError(f"node {self.index} ended: {self.tail()}")
            return self.ready.exists()

        try:
            wait_until(f"node {self.index} serves", is_ready)
        except BaseException:
            self.kill()
            raise
        addresses = json.loads(self.ready.read_text())
        self.redis, self.http, self.peer = addresses["redis"], addresses["http"], addresses["peer"]
        # Earlier builds have none.
        self.redis_cluster = addresses.get("redis_cluster")
        return self

    def start(self):
        return self.launch().wait()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def terminate(self):
        self.process.terminate()
        return self.process.wait(timeout=PATIENCE)

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    @property
    def redis_port(self):
        return int(self.redis.rsplit(":", 1)[1])

    @property
    def cluster_port(self):
        return int(self.redis_cluster.rsplit(":", 1)[1])

    def resident_bytes(self):
        statm = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def keep_logs(folder):
    """Copies what the nodes of a cluster printed to a folder of the module that runs; one that passes removes it again."""
    path, _, test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0].partition("::")
    kept = LOGS / pathlib.Path(path).stem / test / folder.name
    kept.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("log-*"):
        shutil.copy(log, kept)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Removes the logs of a module while none of its tests has failed."""
    before = FAILED_BEFORE.setdefault(item.path, item.session.testsfailed)
    yield
    if item.session.testsfailed == before:
        shutil.rmtree(LOGS / item.path.stem, ignore_errors=True)


class Cluster:
    def __init__(self, size, extra=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="slipring-e2e-"))
        # Those that serve, and all that were ever started.
        self.nodes, self.started = [], []
        try:
            for _ in range(size):
                self.join(extra)
            self.wait_until_whole()
        except BaseException:
            self.close()
            raise

    def status(self, node=0):
        return json.loads(http(self.nodes[node], "GET", "/v1/cluster")[1])

    def wait_until_whole(self):
        """Waits until all nodes serve, by one layout that is led and settled. They may have old copies yet."""
        def is_whole():
            seen = [self.status(index) for index in range(len(self.nodes))]
            serves = lambda node: node["is_connected"] and node["own"] and node["own"]["is_agreed"]
            is_met = all(len(s["nodes"]) == len(self.nodes) and all(map(serves, s["nodes"])) for s in seen)
            is_settled = all(s["layout_leader"] and not s["moving"] for s in seen)
            return is_met and is_settled and len({s["epoch"] for s in seen}) == 1

        wait_until("every node reaches every other and nothing moves", is_whole)

    def wait_until_three_vote(self):
        """Waits until the layout outlives any one node. Partitions that move put that off, and only a stopped node tells."""
        node = self.nodes[-1]

        def are_three():
            assert node.terminate() == 0
            told = json.loads(slipring("recover", "--data", str(node.data), "--json").stdout)
            node.start()
            return len(told["voters"]) == 3

        wait_until("three nodes vote on the layout", are_three)
        self.wait_until_whole()

    def join(self, extra=()):
        """Starts one more node; it is whole when `wait_until_whole` returns."""
        index = max((node.index for node in self.nodes), default=-1) + 1
        node = Node(self.folder, index, self.nodes[0].peer if self.nodes else None, extra)
        self.started.append(node)
        self.nodes.append(node.start())
        return node

    def wait_until_repaired(self):
        def is_repaired():
            nodes = self.status()["nodes"]
            own = [node["own"] for node in nodes]
            return all(own) and sum(o["hints"] for o in own) == 0 and len({o["keys"] for o in own}) == 1

        wait_until("no hint is left and all replicas hold as much", is_repaired)

    def close(self):
        for node in [*self.started, *self.nodes]:
            node.kill()
        keep_logs(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def http(node, method, path, *arguments, data=None):
    """One request by curl; status, body, headers."""
    command = ["curl", "-s", "-i", "-X", method, f"http://{node.http}{path}", *arguments]
    if data is not None:
        is_typed = "/kv/" in path or any(argument.lower().startswith("content-type:") for argument in arguments)
        command += ["--data-binary", "@-"] + ([] if is_typed else ["-H", "Content-Type: application/json"])
    done = subprocess.run(command, input=data, capture_output=True, timeout=COMMAND_TIMEOUT)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def cluster():
    """A cluster that nobody breaks. Its requests have so much time that a slow machine leaves no outcome unknown."""
    cluster = Cluster(3, ("--request-timeout-ms", "30000"))
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
