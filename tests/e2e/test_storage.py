"""Disks that fail under a whole node: no power, no room, no access. What was acknowledged stays, errors say what to do."""

import http.client
import os
import pathlib
import random
import shutil
import subprocess
import threading
import time

import pytest
import redis

from conftest import BINARY, COMMAND_TIMEOUT, PATIENCE, ROOT, Node, slipring, wait_until

SHIM = ROOT / "crates" / "storage" / "tests" / "power" / "power.c"
PORTS = ("--redis-port", "0", "--http-port", "0", "--peer-port", "0")


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    library = tmp_path_factory.mktemp("shim") / "power.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True)
    return library


class Disk:
    """What is safe from a loss of power, kept beside the data directory by the shim."""

    def __init__(self, folder, shim):
        self.data, self.synced, self.shim = folder / "data-0", folder / "synced", shim
        self.data.mkdir(mode=0o700)
        self.synced.mkdir()

    def environment(self, **settings):
        names = {"ROOT": self.data.resolve(), "DISK": self.synced.resolve(), **settings}
        return {"LD_PRELOAD": str(self.shim), **{f"SLIPRING_POWER_{name}": str(value) for name, value in names.items()}}

    def lose_power(self):
        """Leaves in the data directory just what had been synced."""
        info = subprocess.run(["stat", "-c", "%i %.9W", self.data], capture_output=True, text=True, check=True).stdout
        inode, birth = info.split()
        seconds, nanoseconds = birth.split(".")
        shutil.rmtree(self.data)
        self.restore(f"{inode}-{seconds}-{int(nanoseconds)}", self.data)
        shutil.rmtree(self.synced)
        self.synced.mkdir()

    def restore(self, identity, target):
        target.mkdir(mode=0o700)
        names = self.synced / f"{identity}.names"
        for line in names.read_text().splitlines() if names.exists() else []:
            child, kind, name = line.split(" ", 2)
            if kind == "folder":
                self.restore(child, target / name)
            elif (self.synced / child).exists():
                shutil.copyfile(self.synced / child, target / name)
            else:
                (target / name).touch()


@pytest.fixture
def disk(tmp_path, shim):
    return Disk(tmp_path, shim)


@pytest.fixture
def start(tmp_path):
    """Starts a node whose process gets more environment than this one has; those that run at the end are killed."""
    started = []

    def start(environment=None):
        node = Node(tmp_path, 0)
        started.append(node)
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            return node.launch().wait()
        finally:
            os.environ.clear()
            os.environ.update(before)

    yield start
    for node in started:
        node.kill()


def connect(node):
    """Asks over one connection; the status and the body."""
    connection = http.client.HTTPConnection(node.http, timeout=PATIENCE)

    def ask(method, path, data=None):
        connection.request(method, path, data)
        answer = connection.getresponse()
        return answer.status, answer.read()

    return ask


def write_until_refused(node, bucket, acknowledged, fill):
    """Writes numbered keys and remembers those acknowledged; the first other answer, `None` when the node is gone."""
    number, ask = len(acknowledged), connect(node)
    while True:
        try:
            status, body = ask("PUT", f"/v1/kv/{bucket}/key:{number}", fill + b"%d" % number)
        except (OSError, http.client.HTTPException):
            return None
        if status >= 300:
            return status, body
        acknowledged.append(number)
        number += 1


def all_there(node, bucket, acknowledged, fill):
    ask = connect(node)
    for number in acknowledged:
        status, body = ask("GET", f"/v1/kv/{bucket}/key:{number}")
        assert (status, body) == (200, fill + b"%d" % number), f"key:{number} of {len(acknowledged)} is gone"


def test_what_a_bucket_with_fsync_acknowledged_survives_a_loss_of_power(start, disk):
    acknowledged = []
    for loss in range(3):
        node = start(disk.environment())
        if loss == 0:
            slipring("bucket", "create", "safe", "--set", "durability=fsync", node=node)
        all_there(node, "safe", acknowledged, b"v")
        deadline = time.monotonic() + random.uniform(0.5, 1.5)
        writer = threading.Thread(target=write_until_refused, args=(node, "safe", acknowledged, b"v"))
        writer.start()
        while time.monotonic() < deadline or not acknowledged:
            time.sleep(0.01)
        node.kill()
        writer.join()
        disk.lose_power()
    node = start()
    all_there(node, "safe", acknowledged, b"v")
    node.kill()


@pytest.mark.parametrize("durability", ["buffered", "fsync"])
def test_a_full_disk_refuses_writes_and_serves_reads(start, disk, durability):
    node = start(disk.environment(ROOM=12_000_000))
    slipring("bucket", "create", "full", "--set", f"durability={durability}", node=node)
    acknowledged, fill = [], random.Random(1).randbytes(50_000)
    write_until_refused(node, "full", acknowledged, fill)
    assert acknowledged

    def refusal():
        """Why a small write is refused; it may be taken while the disk's failure is not seen yet."""
        status, body = connect(node)("PUT", "/v1/kv/full/late", b"late")
        return status >= 300 and (status, body)

    status, body = wait_until("the disk's failure is seen", refusal)
    assert status == 503 and b"full" in body and b"nothing was done" in body, (status, body)
    client = redis.Redis(port=node.redis_port)
    with pytest.raises(redis.ResponseError, match="OVERLOADED .*full"):
        client.set("late", "late")
    all_there(node, "full", acknowledged, fill)
    assert node.process.poll() is None
    node.kill()
    node = start()
    all_there(node, "full", acknowledged, fill)
    assert connect(node)("PUT", "/v1/kv/full/again", b"again")[0] < 300
    node.kill()


def test_nothing_is_acknowledged_after_a_sync_that_failed(start, disk):
    node = start(disk.environment(SYNCS=120))
    slipring("bucket", "create", "safe", "--set", "durability=fsync", node=node)
    acknowledged = []
    refused = write_until_refused(node, "safe", acknowledged, b"v")
    assert acknowledged and refused is not None, (len(acknowledged), node.tail())
    for attempt in range(5):
        status, body = connect(node)("PUT", f"/v1/kv/safe/late:{attempt}", b"late")
        assert status == 503 and b"restart the node" in body, (status, body)
    all_there(node, "safe", acknowledged, b"v")
    node.kill()
    disk.lose_power()
    node = start()
    all_there(node, "safe", acknowledged, b"v")
    node.kill()


def without_rights(*command):
    """Runs as a user who owns nothing; root may open everything."""
    if os.geteuid() == 0:
        command = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command)
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_directory_without_access_is_named(mode):
    # Below a folder that everybody may enter, which pytest's are not.
    folder = pathlib.Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    folder.chmod(0o755)
    binary, closed = folder / "slipring", folder / "closed"
    shutil.copyfile(BINARY, binary)
    binary.chmod(0o755)
    closed.mkdir()
    if os.geteuid() == 0:
        os.chown(closed, 65534, 65534)
    closed.chmod(mode)
    done = without_rights(binary, "start", "--data", closed, *PORTS)
    closed.chmod(0o700)
    shutil.rmtree(folder)
    assert done.returncode == 1 and str(closed) in done.stderr, done
    assert "ermission denied" in done.stderr and "panicked" not in done.stderr, done.stderr


def test_a_file_where_a_store_should_be_is_named(tmp_path):
    for name in ("data", "lock", "meta.redb"):
        folder = tmp_path / f"with-{name}"
        folder.mkdir()
        if name == "data":
            (folder / name).write_text("not a directory")
        else:
            (folder / name).mkdir()
        done = slipring("start", "--data", folder, *PORTS, check=False)
        assert done.returncode == 1 and str(folder / name) in done.stderr, (name, done.stderr)
        assert "panicked" not in done.stderr
