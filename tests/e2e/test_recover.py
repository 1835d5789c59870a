"""The layout group loses its majority for good, and a node that is left goes on by an operator's word."""

import json
import signal

import pytest
import redis

from conftest import Cluster, slipring, wait_until
from test_moving import assert_filled, fill, layout

KEYS = 2_000


@pytest.fixture
def four():
    """Three of four nodes vote."""
    cluster = Cluster(4)
    try:
        cluster.wait_until_three_vote()
        yield cluster
    finally:
        cluster.close()


def remains(node):
    return json.loads(slipring("recover", "--data", str(node.data), "--json").stdout)


def last_entry(node):
    return tuple(int(number) for number in remains(node)["last_entry"].split("."))


def copies_of_keys(cluster):
    own = [node["own"] for node in cluster.status()["nodes"]]
    return sum(o["keys"] for o in own) if all(own) else None


def writes_that_succeed(node):
    client = redis.Redis(port=node.redis_port, socket_timeout=60)
    done = 0
    for index in range(40):
        try:
            done += bool(client.set(f"later:{index}", "x"))
        except redis.ResponseError:
            pass
    return done


def test_two_of_three_voters_are_lost_for_good(four):
    fill(four, KEYS)
    wait_until("every key has three copies", lambda: copies_of_keys(four) == 3 * KEYS)
    lost, left = four.nodes[:2], four.nodes[2:]
    running = slipring("recover", "--data", str(left[0].data), check=False)
    assert running.returncode == 1 and "in use by another process" in running.stderr, running.stderr
    for node in lost:
        node.kill()

    def is_refused():
        told = slipring("restore", left[0].peer, node=left[1], check=False)
        assert told.returncode == 1, "nothing can be agreed on"
        return "a majority of its voters must be up" in told.stderr

    wait_until("it is plain that nobody leads", is_refused)
    assert writes_that_succeed(left[0]) > 0, "the data path asks no group"

    for node in left:
        node.terminate()
    assert len(remains(left[0])["voters"]) == 3
    chosen, other = sorted(left, key=last_entry, reverse=True)
    one = slipring("recover", "--data", str(chosen.data), "--lost", lost[0].peer, check=False)
    assert one.returncode == 1 and "which is a majority" in one.stderr
    nobody = slipring("recover", "--data", str(chosen.data), "--lost", "nobody", check=False)
    assert nobody.returncode == 1 and "no member is called" in nobody.stderr
    given_up = [argument for node in lost for argument in ("--lost", node.peer)]
    told = slipring("recover", "--data", str(chosen.data), *given_up).stdout
    assert "the only voter now" in told

    four.nodes = [chosen.start(), other.start()]
    wait_until("the lost nodes are no members", lambda: len(layout(four)["nodes"]) == 2)
    four.wait_until_whole()
    for node in four.nodes:
        assert_filled(node, KEYS)
        wait_until("all writes succeed", lambda: writes_that_succeed(node) == 40)
    newcomer = four.join()
    four.wait_until_whole()
    assert_filled(newcomer, KEYS)

    # Two of the three old voters come back while nobody tells them, and elect leaders at later and later terms.
    # They must not lead those that went on without them.
    epoch = layout(four)["epoch"]
    for node in four.nodes:
        node.process.send_signal(signal.SIGSTOP)
    for _ in range(4):
        for node in lost:
            node.kill()
            node.launch()
        for node in lost:
            node.wait()
    restored = lambda: slipring("restore", lost[0].peer, node=lost[1], check=False).returncode == 0
    wait_until("the old voters agree on something", restored)
    for node in four.nodes:
        node.process.send_signal(signal.SIGCONT)
    for node in lost:
        wait_until(f"node {node.index} stops", lambda: node.process.poll() is not None)
        told = ("no member of its cluster any more", "recovered from a node that had not heard of all")
        assert any(reason in node.tail() for reason in told), node.tail()
    four.wait_until_whole()
    assert layout(four)["epoch"] == epoch
    slipring("drain", newcomer.peer, "--force", "--wait", node=four.nodes[0])
    for node in four.nodes:
        assert_filled(node, KEYS)

