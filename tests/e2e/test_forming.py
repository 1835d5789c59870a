"""Nodes that start all at once: they find each other and form one cluster, or say why not."""

import json
import random
import subprocess
import time

import pytest

from conftest import BINARY, COMMAND_TIMEOUT, Node, free_port, http as curl, wait_until

SMALL = ("--workers", "1", "--partition-bits", "4", "--membership", "local")


@pytest.fixture
def nodes(tmp_path):
    """Makes nodes, each on a host of its own, so that its address is known before it starts and nobody else's."""
    made, network = [], f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"

    def make(join=None, *extra):
        host = f"{network}.{len(made) + 1}"
        node = Node(tmp_path, len(made), join, (*SMALL, "--bind", host, *extra))
        node.peer = f"{host}:7946"
        made.append(node)
        return node

    yield make
    for node in made:
        node.kill()


def status(node):
    return json.loads(curl(node, "GET", "/v1/cluster")[1])


def starters(nodes, count, expected):
    """So many nodes with the same list of all of them."""
    made = [nodes(None, "--expect", str(expected)) for _ in range(count)]
    for node in made:
        node.join = ",".join(other.peer for other in made)
    return made


def start_all(made):
    for node in made:
        node.launch()
    for node in made:
        node.wait()


def the_one_cluster(made):
    """The cluster of all these nodes, each of which knows all of them."""
    def is_whole():
        seen = [status(node) for node in made]
        return all(len(each["nodes"]) == len(made) for each in seen) and {each["cluster"] for each in seen}

    clusters = wait_until("every node knows every other", is_whole)
    assert len(clusters) == 1, clusters
    return clusters.pop()


def ends_with(node):
    """What a node says that does not start."""
    wait_until(f"node {node.index} ends", lambda: node.process.poll() is not None)
    assert node.process.poll() == 1
    return node.tail()


def test_five_that_start_at_once_form_one_cluster_and_stay_in_it(nodes):
    made = starters(nodes, 5, 5)
    start_all(made)
    cluster = the_one_cluster(made)
    for node in made:
        node.kill()
    start_all(made)
    assert the_one_cluster(made) == cluster, "the same flags go on in the same cluster"
    late = nodes(made[0].join, "--expect", "5").start()
    assert the_one_cluster([*made, late]) == cluster, "more than are expected just join"


def test_starters_that_die_half_way_return_and_form_one_cluster(nodes):
    made = starters(nodes, 4, 3)
    for round in range(4):
        for node in made[:3]:
            node.launch()
        time.sleep(0.1 * round)
        for node in made[: 3 - round % 2]:
            node.kill()
        made[2].kill()
    start_all(made)
    the_one_cluster(made)


def test_nodes_find_each_other_on_a_board_before_they_are_members(nodes):
    board = nodes().start()
    source = f"registry://{board.http}/ring"
    made = [nodes(source, "--expect", "3") for _ in range(3)]
    for node in made[:2]:
        node.launch()

    def listed():
        return sorted(json.loads(curl(board, "GET", "/v1/registry/ring")[1])["addresses"])

    wait_until("two are listed", lambda: listed() == sorted(node.peer for node in made[:2]))
    wait_until("they say what they wait for", lambda: "2 of 3 nodes seen" in made[0].tail())
    assert not any(node.ready.exists() for node in made[:2])
    made[1].terminate()
    wait_until("who gives up is listed no more", lambda: listed() == [made[0].peer])
    made[1].launch()
    made[2].launch()
    for node in made:
        node.wait()
    assert the_one_cluster(made) != status(board)["cluster"]


def test_who_waits_says_for_whom(nodes):
    missing = f"127.0.0.1:{free_port()}"
    node = nodes(missing, "--expect", "3").launch()
    wait_until("it says so", lambda: "1 of 3 nodes seen" in node.log.read_text() and missing in node.tail())
    assert node.terminate() == 0 and not node.ready.exists()


def test_different_numbers_are_refused_by_both(nodes):
    one, other = starters(nodes, 2, 2)
    other.extra = (*other.extra[:-1], "3")
    one.launch(), other.launch()
    assert f"{other.peer} expects 3 nodes and this node 2" in ends_with(one)
    assert f"{one.peer} expects 2 nodes and this node 3" in ends_with(other)


def test_wrong_numbers_are_refused(tmp_path):
    def refusal(*flags):
        command = [BINARY, "start", "--data", tmp_path / "data", "--peer-port", "0", *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT).stderr

    assert "1..=1000" in refusal("--expect", "0", "--join", "a:1")
    assert "--join" in refusal("--expect", "3")


def test_of_two_clusters_neither_is_joined(nodes):
    one, other = nodes().start(), nodes().start()
    silent = f"127.0.0.1:{free_port()}"
    for extra in ((), ("--expect", "2")):
        joiner = nodes(f"{one.peer},{silent},{other.peer}", *extra).launch()
        said = ends_with(joiner)
        assert f"{one.peer} (cluster" in said and f"{other.peer} (cluster" in said
    assert len(status(one)["nodes"]) == len(status(other)["nodes"]) == 1


def test_a_member_of_one_cluster_is_refused_by_another(nodes):
    """A node restarts where a node of another cluster was."""
    founder, other = nodes().start(), nodes().start()
    member = nodes(founder.peer).start()
    member.kill(), founder.kill()
    # The member looks for its founder, and finds somebody else at that address.
    other.kill()
    founder.peer, other.peer = other.peer, founder.peer
    founder.extra, other.extra = other.extra, founder.extra
    founder.redis = founder.http = other.redis = other.http = None
    other.start()
    member.launch()
    wait_until("the member is told why", lambda: "belongs to cluster" in member.log.read_text())
    assert len(status(other)["nodes"]) == 1
    founder.start()
    the_one_cluster([founder, member])


def test_twenty_that_join_at_once_all_become_members(nodes):
    founder = nodes().start()
    made = [nodes(founder.peer) for _ in range(20)]
    start_all(made)
    the_one_cluster([founder, *made])
