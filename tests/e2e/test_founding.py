"""Founding: where a cluster was, no second one begins. Directories lose parts of themselves, founders and joiners all."""

import shutil
import signal
import subprocess
import time

import pytest
import redis

from conftest import free_port, http, slipring, wait_until
from test_forming import SMALL, ends_with, nodes, status  # noqa: F401 (a fixture)

META = "meta.redb"
# Only a start that waits for nothing is so quick: one second is what founding may cost.
FIRST_START_SECONDS = 10


def connect(node):
    return redis.Redis(host=node.redis.rsplit(":", 1)[0], port=node.redis_port, decode_responses=True, socket_timeout=5)


def said(node):
    return node.log.read_text(errors="replace")


def refusal(node):
    """What a node says that must not start; it listens nowhere then, and says the same again."""
    for _ in range(2):
        node.launch()
        last = ends_with(node).splitlines()[-1]
        assert not node.ready.exists()
    return last


@pytest.fixture
def three(nodes):  # noqa: F811
    """A cluster of three with a key that all of them hold."""
    founder = nodes().start()
    members = [founder, *(nodes(founder.peer).start() for _ in range(2))]
    wait_until("all know each other", lambda: all(len(status(node)["nodes"]) == 3 for node in members))
    wait_until("a key is written", lambda: connect(founder).set("k", "v"))
    wait_until("nothing moves", lambda: not status(founder)["moving"])
    return members


def assert_served(members):
    """The cluster goes on, with what it had, and it is one."""
    for node in members:
        wait_until("the key is read", lambda: connect(node).get("k") == "v")
    wait_until("a write is taken", lambda: connect(members[0]).set("more", "v"))
    assert len({status(node)["cluster"] for node in members}) == 1


def truncate(path, size):
    with open(path, "ab") as file:
        file.truncate(size)


def lose_names(node, other):
    """The other node's store before it had an identity: whole, and without anything in it."""
    fresh = node.folder / "fresh"
    process = subprocess.Popen(
        [node.process.args[0], "start", "--data", fresh, "--join", "127.0.0.1:1", "--redis-port", "0", "--http-port", "0", "--peer-port", "0"],
        stderr=subprocess.DEVNULL,
    )
    wait_until("it has a store", lambda: (fresh / "data" / "owner").exists())
    process.kill()
    process.wait()
    shutil.copy(fresh / META, node.data / META)


# How a part of a directory is lost, and what is said of it.
LOSSES = {
    "no meta store": (lambda node, _: (node.data / META).unlink(), "no identity of a node"),
    "an empty meta store": (lambda node, _: truncate(node.data / META, 0), "no identity of a node"),
    "a meta store cut short": (lambda node, _: truncate(node.data / META, 5_000), "is damaged"),
    "another node's meta store": (lambda node, other: shutil.copy(other.data / META, node.data / META), "belong to another node"),
    "a new meta store": (lose_names, "belong to another node"),
    "no records": (lambda node, _: shutil.rmtree(node.data / "data"), "its records are gone"),
    "no records and no meta store, but a file": (
        lambda node, _: (shutil.rmtree(node.data), node.data.mkdir(), (node.data / "notes.txt").write_text("mine")),
        "/notes.txt is there and no identity of a node",
    ),
    "no records and an empty meta store": (
        lambda node, _: (shutil.rmtree(node.data / "data"), truncate(node.data / META, 0)), "no identity of a node",
    ),
}


def test_a_directory_that_lost_a_part_starts_nothing(three):
    founder, member, other = three
    for node in three:
        node.kill()
    for node in (founder, member):
        kept = node.folder / "kept"
        shutil.copytree(node.data, kept)
        for what, (lose, words) in LOSSES.items():
            lose(node, other)
            told = refusal(node)
            assert words in told and str(node.data) in told, f"{what}: {told}"
            shutil.rmtree(node.data)
            shutil.copytree(kept, node.data)
        shutil.rmtree(kept)
        shutil.rmtree(node.folder / "fresh")
    for node in three:
        node.launch()
    for node in three:
        node.wait()
    assert_served(three)
    assert len(status(founder)["nodes"]) == 3


def test_a_wiped_founder_founds_nothing_beside_its_cluster(three):
    founder, member, other = three
    founder.kill()
    shutil.rmtree(founder.data)
    told = refusal(founder)
    for word in (founder.peer, "--join", "--spare", "slipring replace", "remove --lost"):
        assert word in told, told
    assert status(member)["cluster"][:8] in told
    assert "founded a new cluster" not in said(founder).split("no cluster is founded")[-1]
    assert_served([member, other])
    # The same with members named, whether it asks to found or just joins.
    founder.join = f"{member.peer},{other.peer}"
    founder.extra = (*founder.extra, "--found")
    assert "is a member of cluster" in refusal(founder)
    founder.extra = founder.extra[:-1]
    told = refusal(founder)
    assert f"{founder.peer} is the address of member" in told and "--spare" in told, told
    assert len(status(member)["nodes"]) == 3, "nothing was added"
    # The way out that it is told.
    lost = next(node["id"] for node in status(member)["nodes"] if node["addresses"]["peer"] == founder.peer)
    founder.extra = (*founder.extra, "--spare")
    founder.start()
    new = next(node["id"] for node in status(founder)["nodes"] if node["addresses"]["peer"] == founder.peer and node["id"] != lost)
    slipring("replace", lost, "--by", new, "--wait", node=member)
    assert_served(three)


def test_a_founder_behind_a_cut_is_quiet_once_its_cluster_sees_it(three):
    """All others are stopped while it founds: nobody can tell it. They wake, and it answers no client any more."""
    founder, *others = three
    founder.kill()
    shutil.rmtree(founder.data)
    for node in others:
        node.process.send_signal(signal.SIGSTOP)
    try:
        founder.start()
    finally:
        for node in others:
            node.process.send_signal(signal.SIGCONT)

    def is_quiet():
        code, body, _ = http(founder, "GET", "/readyz")
        return code == 503 and b"answers no client" in body and b"slipring replace" in body

    wait_until("it is not ready", is_quiet)
    for ask in (lambda: connect(founder).set("k", "other"), lambda: connect(founder).get("k")):
        with pytest.raises(redis.ResponseError, match="NOREPLICAS.*answers no client"):
            ask()
    assert "answers no client" in slipring("status", node=founder).stdout
    assert_served(others)
    founder.kill()


def test_a_wiped_joiner_joins_only_as_it_says(three):
    founder, joiner, other = three
    joiner.kill()
    shutil.rmtree(joiner.data)
    told = refusal(joiner)
    assert f"{joiner.peer} is the address of member" in told and "--spare" in told and "--as-new" in told, told
    lost = next(node["id"] for node in status(founder)["nodes"] if node["addresses"]["peer"] == joiner.peer)
    slipring("remove", "--lost", lost, "--wait", "--force", node=founder)
    joiner.start()
    assert_served(three)


def test_the_first_command_on_an_empty_machine_is_one_command(nodes):  # noqa: F811
    node = nodes()
    # A file system of its own may have this folder.
    (node.data / "lost+found").mkdir(parents=True)
    began = time.monotonic()
    node.start()
    assert time.monotonic() - began < FIRST_START_SECONDS
    cluster = status(node)["cluster"]
    assert f"founded a new cluster {cluster}" in said(node) and f"founded a new cluster cluster={cluster[:8]}" in said(node)
    node.kill()
    node.start()
    assert said(node).count(f"founded a new cluster {cluster}") == 1 and status(node)["cluster"] == cluster


def test_with_a_peer_named_only_found_founds(nodes):  # noqa: F811
    nobody = f"127.0.0.1:{free_port()}"
    node = nodes(nobody).launch()
    wait_until("it waits for a member", lambda: "waiting: not a member of a cluster yet" in said(node))
    node.kill()
    node.extra = (*node.extra, "--found")
    node.start()
    cluster = status(node)["cluster"]
    assert f"founded a new cluster {cluster}" in said(node)
    node.kill()
    node.start()
    assert status(node)["cluster"] == cluster, "later it means nothing"
    for flags, words in [(("--found", "--expect", "2"), "give one of the two"), (("--found", "--spare"), "a spare holds nothing")]:
        wrong = nodes(nobody, *flags)
        assert words in refusal(wrong)


def test_a_cluster_of_two_is_not_silenced_by_another(nodes):  # noqa: F811
    """A node takes the address of a dead member of another cluster: it is refused there, and serves its own."""
    first = nodes().start()
    member = nodes(first.peer).start()
    wait_until("both know each other", lambda: len(status(first)["nodes"]) == 2)
    moved = first.peer
    first.kill()
    other = nodes().start()
    friend = nodes(other.peer).start()
    wait_until("they are two", lambda: len(status(other)["nodes"]) == 2)
    other.kill()
    other.peer, first.peer = moved, other.peer
    other.extra, first.extra = first.extra, other.extra
    other.redis = other.http = None
    other.start()
    wait_until("the member dials it and is told why it is refused", lambda: "belongs to cluster" in said(member))
    wait_until("it serves its own", lambda: connect(other).set("k", "v"))
    assert len(status(friend)["nodes"]) == 2
    assert member.process.poll() is None
