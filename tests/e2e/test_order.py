"""An acknowledged write is never lost to an earlier one, though the clocks of two nodes are hours apart."""

import datetime
import os
import pathlib
import re
import signal
import threading
import time

import pytest
import redis

import conftest
from conftest import PATIENCE, is_passing, wait_until

# Where Debian's package `faketime` puts it.
LIBRARY = next(iter(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
# How far each node's clock is off.
OFF = ("+2h", "-2h", "+0")
WRITERS = 4
SECONDS = 8


@pytest.fixture
def skewed(monkeypatch):
    """Three nodes, of which one is two hours ahead and one two hours behind."""
    assert LIBRARY, "install the package faketime: `cargo xtask tools`"
    launch, folders = conftest.Node.launch, []

    def launch_off(node):
        clock = node.folder / f"clock-{node.index}"
        clock.write_text(OFF[node.index])
        variables = {"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                     "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            return launch(node)
        finally:
            os.environ.clear()
            os.environ.update(before)

    monkeypatch.setattr(conftest.Node, "launch", launch_off)
    cluster = conftest.Cluster(len(OFF))
    yield cluster
    for node in cluster.nodes:
        if node.process.poll() is None:
            node.process.send_signal(signal.SIGCONT)
    cluster.close()


def client(node):
    return redis.Redis(port=node.redis_port, decode_responses=True, socket_timeout=5)


def told_time(node):
    """What the node's own clock said when it wrote to its log last."""
    return datetime.datetime.fromisoformat(re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", node.log.read_text())[-1])


def write_and_read(cluster, number, until, found):
    """Writes one number after the other to a key, each through another node, and reads it back through others. A number
    that was acknowledged is the least that any later read may show."""
    key, least, next_number, unknown = f"order-{number}", 0, 0, set()
    while time.monotonic() < until:
        next_number += 1
        node = cluster.nodes[next_number % len(OFF)]
        try:
            client(node).set(key, next_number)
            least = next_number
            found["written"] += 1
        except Exception as error:
            if not is_passing(error):
                found["wrong"].append(error)
                return
            # It may come late: a node that stood still goes on with it.
            unknown.add(next_number)
        for other in cluster.nodes:
            try:
                seen = int(client(other).get(key) or 0)
            except Exception as error:
                if not is_passing(error):
                    found["wrong"].append(error)
                continue
            found["read"] += 1
            if seen < least and seen not in unknown:
                found["wrong"].append(f"{key} was {least} and node {other.index} says {seen}")
                return


def disturb(cluster, until):
    """Kills one node after the other and stops another one for a while, so that coordinators come back in ignorance."""
    turn = 0
    while time.monotonic() < until:
        node = cluster.nodes[turn % len(OFF)]
        if turn % 2:
            node.process.send_signal(signal.SIGSTOP)
            until_when = time.monotonic() + 0.7
            wait_until("the node has stood still", lambda: time.monotonic() > until_when)
            node.process.send_signal(signal.SIGCONT)
        else:
            node.kill()
            node.start()
        turn += 1
    return turn


def test_a_later_write_wins_though_clocks_are_hours_apart(skewed):
    times = [told_time(node) for node in skewed.nodes]
    assert max(times) - min(times) > datetime.timedelta(hours=3), "the clocks are as they were set"
    found = {"written": 0, "read": 0, "wrong": []}
    until = time.monotonic() + SECONDS
    writers = [threading.Thread(target=write_and_read, args=(skewed, number, until, found)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    turns = disturb(skewed, until)
    for writer in writers:
        writer.join(PATIENCE)
    assert not found["wrong"], found["wrong"]
    assert found["written"] > 20 and found["read"] > 20 and turns > 2, (found, turns)


def test_a_node_that_was_away_overwrites_what_it_missed(skewed):
    """The one ahead writes while the one behind is down; that one comes back, and its first write must win."""
    ahead, behind, other = skewed.nodes
    keys = [f"missed-{number}" for number in range(64)]
    for key in keys:
        client(behind).set(key, "first")
    behind.kill()
    written = lambda key: conftest.answered(lambda: client(ahead).set(key, "second"))
    wait_until("the others see that it is away", lambda: all(written(key) for key in keys))
    behind.start()
    # It has missed the second ones, and its clock says that it is earlier.
    for key in keys:
        conftest.answered(lambda: client(behind).set(key, "third"))
    for node in (ahead, other, behind):
        values = {conftest.answered(lambda: client(node).get(key)) for key in keys}
        assert values == {"third"}, node.index
