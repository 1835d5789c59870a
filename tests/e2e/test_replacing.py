"""A dead node's place goes to a spare while clients work: its copies move, and only they."""

import json

import pytest

from conftest import Cluster, http, slipring, wait_until
from test_history import History
from test_moving import assert_balanced, assert_filled, copies, fill, layout, loads, newest_layout, placed, plan_node, sessions

# Deaths are seen soon.
LOCAL = ("--membership", "local")
FILLED = 3_000


def role(cluster, id_):
    return layout(cluster)["nodes"][id_]["role"]


def ask(cluster, path, by, dead):
    body = json.dumps({"changes": [{"node": by, "replaces": dead}]}).encode()
    status, told, _ = http(cluster.nodes[0], "POST", path, data=body)
    return status, json.loads(told)


def join_spare(cluster, zone="default"):
    """One that holds nothing: nothing moves for it."""
    before = placed(cluster)
    spare = cluster.join((*LOCAL, "--spare", "--zone", zone, "--weight", "7"))
    cluster.wait_until_whole()
    id_ = plan_node(cluster, spare)
    assert placed(cluster) == before and id_ not in copies(cluster)
    assert role(cluster, id_) == {"zone": zone, "weight": 7, "state": "drained"}
    slipring("ok-to-stop", "--wait", node=cluster.nodes[0])
    return spare, id_


def kill(cluster, victim):
    """It dies at once, and the others know."""
    id_ = plan_node(cluster, victim)
    cluster.nodes.remove(victim)
    victim.kill()
    seen = lambda: [next(n["seen"] for n in cluster.status(by)["nodes"] if n["id"] == id_) for by in range(len(cluster.nodes))]
    wait_until("all others see that it is down", lambda: all(one and one["state"] == "down" for one in seen()))
    return id_


def assert_replaced(before, after, dead, by):
    """Exactly what the dead one held lies on the other one now; each other copy is the one it was."""
    held = loads(before)
    print(f"moved: {({table: counts[dead] for table, counts in held.items()})} copies by table, of {copies_of(before)}")
    for row, was in before.items():
        others = {node: number for node, number in was.items() if node != dead}
        assert {node: number for node, number in after[row].items() if node != by} == others, row
        assert (by in after[row]) == (dead in was), row


def copies_of(places):
    return sum(len(row) for row in places.values())


@pytest.fixture(scope="module")
def four():
    """Each test leaves as many behind as it found."""
    cluster = Cluster(4, LOCAL)
    yield cluster
    cluster.close()


def test_a_spare_takes_the_place_of_a_dead_node_and_nothing_else_moves(four):
    fill(four, FILLED)
    # Nothing of its own stays with a spare that takes a place; its zone is where it stands, though.
    spare, by = join_spare(four, "elsewhere")
    before, victim = placed(four), four.nodes[1]
    told = slipring("replace", victim.peer, "--by", spare.peer, node=four.nodes[0], check=False)
    assert told.returncode == 1 and "answers, and its data would be given up" in told.stderr, told.stderr
    with History(four) as history:
        dead = kill(four, victim)
        lost = role(four, dead)
        plan = json.loads(slipring("layout", "plan", "--replace", f"{victim.peer}={by}", "--json", node=four.nodes[2]).stdout)
        assert "stands in zone elsewhere" in plan["objection"]
        assert plan["copies"] == len(plan["plan"]["moves"]) == sum(dead in row for row in before.values())
        epoch = newest_layout(four.nodes)["epoch"]
        assert epoch == plan["plan"]["epoch"], "a plan changes nothing"
        slipring("replace", dead[:16], "--by", spare.http, "--force", "--wait", node=four.nodes[0])
    writes, reads = history.acknowledged()
    print(f"{writes} writes and {reads} reads on the way")
    assert writes > 100 and reads > 100
    assert_replaced(before, placed(four), dead, by)
    assert dead not in layout(four)["nodes"] and role(four, by) == lost
    assert_balanced(four)
    history.check()
    for node in four.nodes:
        assert_filled(node, FILLED)
    victim.launch()
    wait_until("what was given up stops", lambda: victim.process.poll() is not None)
    assert victim.process.returncode != 0 and "no member of its cluster any more" in victim.tail()


def test_it_is_asked_for_over_http_and_refused_with_the_next_step(four):
    # The spare, and one that has a share already.
    spare, by = join_spare(four)
    busy, victim = plan_node(four, four.nodes[2]), four.nodes[3]
    for dead, other, status, words in [
        ("nobody", by, 404, 'no member is called "nobody"'),
        (victim.peer, "nobody", 404, 'no member is called "nobody"'),
        (by, by, 409, "cannot replace itself"),
        (victim.peer, victim.http, 409, "cannot replace itself"),
        (by, busy, 409, "is drained already and has no share to take over: slipring restore"),
        (victim.peer, by, 409, "and remove "),
    ]:
        answer = ask(four, "/v1/layout/changes", other, dead)
        assert answer[0] == status and words in answer[1]["error"]["message"], answer
    nothing = slipring("replace", victim.peer, node=four.nodes[0], check=False)
    assert nothing.returncode == 2 and "--by" in nothing.stderr
    before, epoch = placed(four), layout(four)["epoch"]
    dead = kill(four, victim)
    assert ask(four, "/v1/layout/plan", busy, dead)[1]["copies"] >= sum(dead in row for row in before.values())
    assert layout(four)["epoch"] == epoch, "nothing was changed until now"
    status, told = ask(four, "/v1/layout/changes", by, dead)
    assert status == 200 and told["epoch"] > epoch
    # A lost node has no place to give any more, while it is a member and when it is none.
    again = ask(four, "/v1/layout/changes", busy, dead)
    assert again[0] in (404, 409) and any(words in again[1]["error"]["message"] for words in ("is lost already", "no member is called")), again
    slipring("ok-to-stop", "--wait", node=four.nodes[0])
    assert_replaced(before, placed(four), dead, by)
    assert_balanced(four)


def test_spares_found_nothing_and_are_put_to_use_by_one_rebalancing(tmp_path):
    ports = [text for kind in ("redis", "http", "peer") for text in (f"--{kind}-port", "0")]
    for index, extra in enumerate([(), ("--join", "127.0.0.1:1", "--expect", "3")]):
        told = slipring("start", "--spare", "--data", str(tmp_path / str(index)), *ports, *extra, check=False)
        assert told.returncode == 1 and "a spare holds nothing, so it cannot found a cluster" in told.stderr, told.stderr
    cluster = Cluster(2, LOCAL)
    try:
        spares = [join_spare(cluster)[0] for _ in range(2)]
        restore = [text for spare in spares for text in ("--restore", spare.peer)]
        before = layout(cluster)["epoch"]
        slipring("layout", "commit", *restore, node=cluster.nodes[0])
        seen = newest_layout(cluster.nodes)
        assert len(sessions(seen)) <= 1 and seen["epoch"] > before
        slipring("ok-to-stop", "--wait", node=cluster.nodes[1])
        # By their own zones and weights. How a member once joined does not matter when it is started again.
        assert all(copies(cluster)[plan_node(cluster, spare)] > 0 for spare in spares)
        assert spares[0].terminate() == 0
        spares[0].start()
        cluster.wait_until_whole()
        assert role(cluster, plan_node(cluster, spares[0]))["state"] == "active"
    finally:
        cluster.close()
