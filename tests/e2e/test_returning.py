"""A node returns without what it had acknowledged: its directory is an older copy, or empty. Clients write all the while."""

import shutil
import threading

import pytest
import redis

from conftest import PATIENCE, Node, answered, slipring, wait_until
from test_faults import Writer, check, outcomes
from test_membership import identity
from test_moving import fill, layout, moving

WHOLE = ("ok-to-stop", "--wait", "--timeout", str(PATIENCE))
KEYS = 2_000
# Keys are deleted at three points of a node's life, and the fourth part stays.
BEFORE, AFTER, AWAY, STAYS = range(4)


@pytest.fixture
def three(fresh):
    """Three nodes that vote, with keys, and clients that write."""
    fresh.wait_until_three_vote()
    fill(fresh, KEYS)
    stop = threading.Event()
    fresh.writers = [Writer(fresh, f"w{index}", stop) for index in range(2)]
    for writer in fresh.writers:
        writer.start()

    def rest():
        stop.set()
        for writer in fresh.writers:
            writer.join()

    fresh.rest = rest
    yield fresh
    rest()


def connect(node):
    return redis.Redis(port=node.redis_port, decode_responses=True, socket_timeout=PATIENCE)


def delete(node, part):
    client = connect(node)
    keys = [f"filled:{index}" for index in range(part, KEYS, 4)]
    for start in range(0, len(keys), 100):
        wait_until("keys are deleted", lambda: (client.delete(*keys[start : start + 100]),))


def wait_for_writes(cluster):
    """Waits until clients have written on."""
    before = outcomes(cluster.writers, "ok")
    wait_until("writes go on", lambda: outcomes(cluster.writers, "ok") > before + 100)


def ends_with(node):
    """What a node says that ends by itself."""
    wait_until(f"node {node.index} ends", lambda: node.process.poll() is not None)
    assert node.process.poll() == 1
    return node.tail()


def assert_intact(cluster):
    """What was filled in is there on every node that serves, and what was deleted is not."""
    wanted = [f"value-{index}" if index % 4 == STAYS else None for index in range(KEYS)]
    for node in cluster.nodes:
        client = connect(node)
        found = answered(lambda: client.mget([f"filled:{index}" for index in range(KEYS)]))
        wrong = {index: value for index, value in enumerate(found) if value != wanted[index]}
        assert wrong == {}, f"on node {node.index}"


def count_live(cluster):
    """How many keys are there, of all that were ever written."""
    names = {f"filled:{index}" for index in range(KEYS)} | {"total", "witness"}
    names.update(*(writer.writes for writer in cluster.writers))
    client = connect(cluster.nodes[0])
    return sum(value is not None for value in answered(lambda: client.mget(sorted(names))))


def assert_whole_again(cluster, lost):
    """Every partition has all its copies, none on the lost node, and the nodes hold them."""
    cluster.wait_until_whole()
    assert "may be stopped" in slipring(*WHOLE, node=cluster.nodes[0]).stdout
    members = set(layout(cluster)["nodes"])
    assert members == {identity(node) for node in cluster.nodes} and lost not in members
    for copies, table in layout(cluster)["tables"].items():
        held = [{replica["node"] for replica in holders["replicas"]} for holders in table]
        assert all(nodes <= members and len(nodes) == int(copies) for nodes in held), f"table {copies}"
    wanted = 3 * count_live(cluster)
    own = lambda: [node["own"] for node in cluster.status()["nodes"]]
    wait_until("all copies are held", lambda: all(own()) and sum(o["keys"] for o in own()) == wanted)


def join_as_new(cluster, node):
    """Empties the directory of a node that is down, and starts it on the same ports, until it is one more member. The one
    that it was is a member still, so it has to say that it is another."""
    before = len(layout(cluster)["nodes"])
    shutil.rmtree(node.data)
    node.join, node.extra = cluster.nodes[0].peer, (*node.extra, "--as-new")
    node.launch()
    wait_until("it is a member", lambda: len(layout(cluster)["nodes"]) == before + 1)


def test_a_directory_that_was_rolled_back_is_found_out_and_joins_empty_as_a_new_node(three):
    victim, asked = three.nodes[1], three.nodes[0]
    lost = identity(victim)
    delete(asked, BEFORE)
    wait_until("a value is written", lambda: connect(asked).set("witness", "old"))
    assert victim.terminate() == 0
    older = three.folder / "older"
    shutil.copytree(victim.data, older)
    victim.start()
    delete(victim, AFTER)
    wait_until("a value is replaced", lambda: connect(victim).set("witness", "new"))
    wait_for_writes(three)
    assert victim.terminate() == 0
    delete(asked, AWAY)
    shutil.rmtree(victim.data)
    older.rename(victim.data)

    victim.launch()
    # Until it ends, it answers what is so, or does not answer.
    def has_ended():
        if victim.process.poll() is not None:
            return True
        found = connect(victim).get("witness")
        assert found == "new"

    wait_until("it ends by itself", has_ended)
    assert "rolled back to an older copy" in ends_with(victim) and "only as a new node" in victim.tail()
    victim.launch()
    assert "found this data directory to be an older copy" in ends_with(victim), "it remembers"
    wait_for_writes(three)
    three.nodes.remove(victim)
    assert_intact(three)
    assert "fewer copies" in slipring("ok-to-stop", node=asked, check=False).stdout

    join_as_new(three, victim)
    several = slipring("remove", "--lost", victim.peer, node=asked, check=False)
    assert several.returncode == 1 and "several members are called" in several.stderr, "two had that address"
    slipring("remove", "--lost", lost, "--wait", node=asked)
    three.nodes.append(victim.wait())
    wait_for_writes(three)
    three.rest()
    assert_whole_again(three, lost)
    assert_intact(three)
    check(three, three.writers)


def test_an_emptied_directory_joins_as_a_new_node_while_data_moves(three):
    victim, asked = three.nodes[1], three.nodes[0]
    lost = identity(victim)
    delete(asked, BEFORE)
    victim.kill()
    delete(asked, AWAY)
    newcomer = Node(three.folder, 3, asked.peer)
    three.started.append(newcomer.launch())
    # What it takes over of the cache, where one acknowledgement is enough, needs the victim's copies, too.
    wait_until("data moves", lambda: moving(three))
    join_as_new(three, victim)
    assert moving(three), "it joined while data moves"
    delete(asked, AFTER)
    wait_for_writes(three)
    slipring("remove", "--lost", lost, "--wait", node=asked)
    victim.wait()
    three.nodes.append(newcomer.wait())
    wait_for_writes(three)
    three.rest()
    assert_whole_again(three, lost)
    assert_intact(three)
    check(three, three.writers)
