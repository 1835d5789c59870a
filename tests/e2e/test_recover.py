"""The layout group loses its majority for good, and a node that is left goes on by an operator's word."""

import json
import signal
import time

import pytest
import redis
from redis.crc import key_slot

from conftest import Cluster, is_passing, slipring, wait_until
from test_faults import verdict
from test_membership import identity
from test_moving import assert_filled, fill, layout

KEYS = 2_000
NAMES = [f"named:{index}" for index in range(80)]


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


def ask(node, keys, *value):
    """What a node answers when each key is read, or set to a value; an error is an answer, too."""
    pipeline = redis.Redis(port=node.redis_port, decode_responses=True, socket_timeout=60).pipeline(transaction=False)
    for key in keys:
        pipeline.set(key, *value) if value else pipeline.get(key)
    return dict(zip(keys, pipeline.execute(raise_on_error=False)))


def answers(node, keys, *value):
    """Likewise, and what passes is asked again until it has passed."""
    answered = {}

    def are_answered():
        told = ask(node, [key for key in keys if key not in answered], *value)
        errors = [answer for answer in told.values() if isinstance(answer, Exception)]
        answered.update({key: answer for key, answer in told.items() if answer not in errors})
        # Whoever waits tells what passes from what does not.
        if errors:
            raise min(errors, key=is_passing)
        return True

    wait_until("every key is answered", are_answered)
    return answered


def with_a_quorum(cluster, live):
    """The names that enough of the live nodes keep for requests to succeed, and the others."""
    told = layout(cluster)
    table = told["tables"][str(told["buckets"]["0"]["policy"]["replicas"])]

    def has_quorum(name):
        holders = table[key_slot(name.encode()) >> 14 - told["bits"]]
        assert holders["next"] is None
        replicas = [replica["node"] for replica in holders["replicas"]]
        return 2 * sum(node in live for node in replicas) > len(replicas)

    served = [name for name in NAMES if has_quorum(name)]
    return served, [name for name in NAMES if name not in served]


def assert_served(left, served):
    """All is read that was written before, or since by either node; what came of the writes."""
    values = ["before", *(f"by {node.index}" for node in left)]
    for node, value in zip([None, *left], values):
        if node:
            assert answers(node, served, value) == dict.fromkeys(served, True)
        for by in left:
            assert answers(by, served) == dict.fromkeys(served, value)
    return {name: [(values[-1], "ok", 0, 1)] for name in served}


def assert_refused(left, refused):
    """No read is answered, and no write acknowledged; what became of the writes."""
    writes = {name: [("before", "ok", 0, 1)] for name in refused}
    for node in left:
        began, value = time.monotonic(), f"by {node.index}"
        found = [ask(node, refused), ask(node, refused, value)]
        wrong = [answer for told in found for answer in told.items() if not is_refusal(answer[1])]
        assert wrong == [], f"on node {node.index}"
        for name, error in found[1].items():
            outcome = "unknown" if str(error).startswith("UNKNOWN ") else "refused"
            writes[name].append((value, outcome, began, time.monotonic()))
    return writes


def is_refusal(answer):
    return isinstance(answer, redis.ResponseError) and is_passing(answer)


def assert_named(cluster, writes):
    """Every node has what was acknowledged, or what may have happened since."""
    for node in cluster.nodes:
        found = answers(node, NAMES)
        wrong = {name: verdict(writes[name], found[name]) for name in NAMES if verdict(writes[name], found[name])}
        assert wrong == {}, f"on node {node.index}"


def test_two_of_three_voters_are_lost_for_good(four):
    fill(four, KEYS)
    answers(four.nodes[0], NAMES, "before")
    wait_until("every key has three copies", lambda: copies_of_keys(four) == 3 * (KEYS + len(NAMES)))
    lost, left = four.nodes[:2], four.nodes[2:]
    served, refused = with_a_quorum(four, [identity(node) for node in left])
    assert len(served) > 20 < len(refused), "both are tried"
    running = slipring("recover", "--data", str(left[0].data), check=False)
    assert running.returncode == 1 and "in use by another process" in running.stderr, running.stderr
    for node in lost:
        node.kill()

    def is_refused():
        told = slipring("restore", left[0].peer, node=left[1], check=False)
        assert told.returncode == 1, "nothing can be agreed on"
        return "a majority of its voters must be up" in told.stderr

    wait_until("it is plain that nobody leads", is_refused)
    leaders = lambda: [four.status(index)["layout_leader"] for index in (2, 3)]
    wait_until("nobody is told of as leading", lambda: leaders() == [None, None])
    # The data path asks no group: it goes on wherever two of three copies are left.
    writes = {**assert_served(left, served), **assert_refused(left, refused)}

    for node in left:
        node.terminate()
    assert len(remains(left[0])["voters"]) == 3
    chosen, other = sorted(left, key=last_entry, reverse=True)
    one = slipring("recover", "--data", str(chosen.data), "--lost", lost[0].peer, check=False)
    assert one.returncode == 1 and "which is a majority" in one.stderr
    nobody = slipring("recover", "--data", str(chosen.data), "--lost", "nobody", check=False)
    assert nobody.returncode == 1 and "no member is called" in nobody.stderr
    owner = chosen.data / "data" / "owner"
    own = owner.read_bytes()
    owner.write_bytes((other.data / "data" / "owner").read_bytes())
    foreign = slipring("recover", "--data", str(chosen.data), check=False)
    assert foreign.returncode == 1 and "belong to another node than its meta.redb" in foreign.stderr
    owner.write_bytes(own)
    given_up = [argument for node in lost for argument in ("--lost", node.peer)]
    told = slipring("recover", "--data", str(chosen.data), *given_up).stdout
    assert "the only voter now" in told and "may lack writes that were acknowledged" in told

    four.nodes = [chosen.start(), other.start()]
    wait_until("the lost nodes are no members", lambda: len(layout(four)["nodes"]) == 2)
    four.wait_until_whole()
    assert_named(four, writes)
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
    assert_named(four, writes)


def test_who_was_recovered_apart_from_another_stops(four):
    lost, left = four.nodes[:2], four.nodes[2:]
    given_up = [argument for node in lost for argument in ("--lost", node.peer)]
    stopping, going_on = sorted(left, key=identity)
    for node in four.nodes:
        node.kill()
    for node in left:
        slipring("recover", "--data", str(node.data), *given_up)
        node.launch()
    wait_until("one of the two ends by itself", lambda: stopping.process.poll() is not None)
    assert "apart from each other" in stopping.tail() and "to keep this one" in stopping.tail()
    four.nodes = [going_on.wait()]
    slipring("bucket", "create", "later", node=going_on)
    stopping.launch()
    wait_until("it ends as often as it is started", lambda: stopping.process.poll() is not None)
    # Its word counts less than the operator's: without the other one it goes on.
    going_on.kill()
    four.nodes = [stopping.start()]
    slipring("bucket", "create", "another", node=stopping)
