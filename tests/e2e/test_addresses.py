"""Nodes come back at other addresses, and other nodes come to theirs."""

import threading
import time

import pytest
import redis

from conftest import Node, answered, free_port

KEYS = 300
# Seconds that clients write while a dead member's address belongs to another node, and within which all is whole again.
WRITING, WHOLE_WITHIN = 5, 20


def connect(node, **options):
    return redis.Redis(port=node.redis_port, decode_responses=True, socket_timeout=30, **options)


def fill(cluster):
    pipe = connect(cluster.nodes[0]).pipeline(transaction=False)
    for index in range(KEYS):
        pipe.set(f"k:{index}", index)
    assert all(pipe.execute())


def assert_filled(cluster):
    for node in cluster.nodes:
        client = connect(node)
        found = answered(lambda: client.mget([f"k:{index}" for index in range(KEYS)]))
        assert found == [str(index) for index in range(KEYS)]


def move(node):
    """Gives a stopped node other ports."""
    node.redis, node.http, node.peer = None, None, f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("named", [3, 1])
def test_all_nodes_find_each_other_at_new_addresses(fresh, named):
    fresh.wait_until_three_vote()
    fill(fresh)
    for node in fresh.nodes:
        node.kill()
        move(node)
    for node in fresh.nodes:
        node.join = ",".join(node.peer for node in fresh.nodes[-named:])
        node.launch()
    began = time.monotonic()
    for node in fresh.nodes:
        node.wait()
    fresh.wait_until_whole()
    assert time.monotonic() - began < WHOLE_WITHIN
    listed = {node["addresses"]["peer"] for node in fresh.status()["nodes"]}
    assert listed == {node.peer for node in fresh.nodes}, "the layout has learned of them"
    assert_filled(fresh)


def test_one_node_that_moves_is_found_by_itself(fresh):
    fill(fresh)
    moved = fresh.nodes[2]
    moved.kill()
    move(moved)
    moved.join = None
    moved.start()
    fresh.wait_until_whole()
    others = [fresh.status(index)["nodes"] for index in range(3)]
    assert all(moved.peer in {node["addresses"]["peer"] for node in nodes} for nodes in others)
    assert_filled(fresh)


def test_newcomer_at_a_dead_members_address_breaks_nothing(fresh):
    dead = fresh.nodes.pop()
    dead.kill()
    newcomer = Node(fresh.folder, 9, fresh.nodes[0].peer, ("--spare",))
    newcomer.peer = dead.peer
    fresh.started.append(newcomer)
    fresh.nodes.append(newcomer.start())
    breaks = lambda: [node.log.read_text(errors="replace").count(" disconnected") for node in fresh.nodes]
    before, stop, failures, written = breaks(), threading.Event(), [], [0, 0, 0]

    def write(number):
        client = connect(fresh.nodes[number], retry=None)
        while not stop.is_set():
            try:
                client.set(f"w:{number}:{written[number] % 500}", written[number])
                written[number] += 1
            except redis.RedisError as error:
                failures.append(str(error))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    # The dead member is dialled at least every two seconds all the while.
    time.sleep(WRITING)
    stop.set()
    for writer in writers:
        writer.join()
    assert failures == [] and min(written) > 0
    assert breaks() == before
