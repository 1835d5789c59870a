"""Data moves between real nodes while clients work: joins, drains, leaves, nodes that die half-way."""

import json
import random
import threading
import time

import redis

from conftest import Cluster, Node, answered, http, slipring, wait_until
from test_faults import Writer, check, outcomes


def layout(cluster, node=0):
    return json.loads(http(cluster.nodes[node], "GET", "/v1/layout")[1])


def moving(cluster, node=0):
    return json.loads(http(cluster.nodes[node], "GET", "/v1/layout/moves")[1])["moving"]


def copies(cluster):
    """Copies of partitions by node, over all tables."""
    counts = {}
    for table in layout(cluster)["tables"].values():
        for holders in table:
            for replica in holders["replicas"]:
                counts[replica["node"]] = counts.get(replica["node"], 0) + 1
    return counts


def assert_balanced(cluster):
    tables = len(layout(cluster)["tables"])
    counts = copies(cluster)
    assert max(counts.values()) - min(counts.values()) <= tables, counts


def fill(cluster, count):
    client = redis.Redis(port=cluster.nodes[0].redis_port, decode_responses=True)
    for start in range(0, count, 1000):
        values = {f"filled:{index}": f"value-{index}" for index in range(start, start + 1000)}
        wait_until("the keys are written", lambda: client.mset(values))


def assert_filled(node, count):
    client = redis.Redis(port=node.redis_port, decode_responses=True)
    for start in range(0, count, 1000):
        keys = [f"filled:{index}" for index in range(start, start + 1000)]
        wanted = [f"value-{index}" for index in range(start, start + 1000)]
        assert answered(lambda: client.mget(keys)) == wanted, f"on node {node.index}"


def test_a_cluster_grows_and_shrinks_under_load_with_deaths_on_the_way(fresh):
    fill(fresh, 20_000)
    stop, chance = threading.Event(), random.Random(4)
    writers = [Writer(fresh, f"w{index}", stop) for index in range(4)]
    for writer in writers:
        writer.start()

    def kill_some(count, spared=None):
        for _ in range(count):
            time.sleep(chance.uniform(0.05, 0.6))
            victim = chance.choice([node for node in fresh.nodes if node is not spared])
            victim.kill()
            time.sleep(chance.uniform(0.05, 0.5))
            victim.start()

    try:
        for _ in range(2):
            fresh.join()
            kill_some(3)
        fresh.wait_until_whole()
        assert len(layout(fresh)["nodes"]) == 5
        assert_balanced(fresh)
        leaver = fresh.nodes[1]
        slipring("remove", leaver.peer, node=fresh.nodes[0])
        # Who has left ends, and cannot be started again.
        kill_some(3, spared=leaver)
        wait_until("the node has left", lambda: len(layout(fresh)["nodes"]) == 4)
        wait_until("it ends by itself", lambda: leaver.process.poll() is not None)
        assert "no member" in leaver.tail()
        fresh.nodes.remove(leaver)
        fresh.wait_until_whole()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    print(f"{outcomes(writers, 'ok')} writes acknowledged on the way")
    assert outcomes(writers, "ok") > 500
    assert_balanced(fresh)
    check(fresh, writers)
    assert_filled(fresh.nodes[-1], 20_000)


def test_what_moves_is_few_and_can_be_planned_watched_and_taken_back(fresh):
    fill(fresh, 2_000)
    before = copies(fresh)
    node = fresh.join()
    fresh.wait_until_whole()
    after = copies(fresh)
    moved = sum(max(0, after[n] - before.get(n, 0)) for n in after)
    fair = sum(after.values()) / 4
    assert abs(moved - fair) <= 2, f"{moved} copies moved, {fair} is the share of the new node"
    planned = slipring("layout", "plan", "--drain", node.peer, "--json", node=fresh.nodes[0])
    plan = json.loads(planned.stdout)
    assert len(plan["plan"]["moves"]) == after[plan_node(fresh, node)] and plan["bytes"] > 0
    assert plan["plan"]["epoch"] == layout(fresh)["epoch"], "a plan changes nothing"
    late = slipring("layout", "commit", "--drain", node.peer, "--epoch", "1", node=fresh.nodes[0], check=False)
    assert late.returncode == 1 and "look again" in late.stderr
    slipring("drain", node.peer, "--wait", node=fresh.nodes[1])
    assert plan_node(fresh, node) not in copies(fresh)
    assert_filled(node, 2_000)
    slipring("layout", "commit", "--restore", node.peer, node=fresh.nodes[2])
    slipring("layout", "revert", node=fresh.nodes[0])
    slipring("layout", "watch", node=fresh.nodes[0])
    unknown = slipring("drain", "nobody", node=fresh.nodes[0], check=False)
    assert unknown.returncode == 1 and "no member is called" in unknown.stderr
    assert_filled(fresh.nodes[2], 2_000)


def plan_node(cluster, node):
    """The id of a node."""
    nodes = layout(cluster)["nodes"]
    return next(id_ for id_, entry in nodes.items() if entry["addresses"]["peer"] == node.peer)


def test_a_lost_node_is_replaced_by_an_empty_one(fresh):
    fill(fresh, 5_000)
    lost = fresh.nodes.pop(1)
    lost.kill()
    fresh.join(("--zone", "new"))
    slipring("remove", "--lost", lost.peer, "--wait", node=fresh.nodes[0])
    wait_until("the lost node is no member", lambda: len(layout(fresh)["nodes"]) == 3)
    fresh.wait_until_whole()
    assert_filled(fresh.nodes[-1], 5_000)
    fresh.nodes[0].kill()
    client = redis.Redis(port=fresh.nodes[-1].redis_port, decode_responses=True)
    wait_until("two of three serve", lambda: client.get("filled:17") == "value-17")
    assert_filled(fresh.nodes[-1], 5_000)
    fresh.nodes[0].start()


def test_two_nodes_join_at_once_and_one_dies_half_way(fresh):
    fill(fresh, 20_000)
    joining = [Node(fresh.folder, index, fresh.nodes[0].peer) for index in (3, 4)]
    fresh.nodes += joining
    for node in joining:
        node.launch()
    for node in joining:
        node.wait()
    time.sleep(0.1)
    joining[0].kill()
    client = redis.Redis(port=fresh.nodes[1].redis_port, decode_responses=True)
    wait_until("writes go on", lambda: client.set("meanwhile", "written"))
    joining[0].start()
    fresh.wait_until_whole()
    assert_balanced(fresh)
    for node in joining:
        assert_filled(node, 20_000)
        client = redis.Redis(port=node.redis_port, decode_responses=True)
        assert answered(lambda: client.get("meanwhile")) == "written"


def test_a_node_that_is_gone_for_too_long_is_replaced():
    extra = ("--membership", "local", "--replace-after-ms", "3000")
    cluster = Cluster(4, extra)
    try:
        fill(cluster, 2_000)
        lost = cluster.nodes.pop(1)
        lost.terminate()
        wait_until("the node is no member", lambda: len(layout(cluster)["nodes"]) == 3)
        cluster.wait_until_whole()
        cluster.wait_until_repaired()
        assert_balanced(cluster)
        for node in cluster.nodes:
            assert_filled(node, 2_000)
        # Three nodes hold three copies: the next one that is gone is waited for.
        second = cluster.nodes[-1]
        second.kill()
        seen = lambda by: [entry["seen"]["state"] for entry in cluster.status(by)["nodes"] if entry["seen"]]
        wait_until("both others see that it is down", lambda: all("down" in seen(by) for by in (0, 1)))
        time.sleep(5)
        assert len(layout(cluster)["nodes"]) == 3
        second.start()
        cluster.wait_until_whole()
        lost.launch()
        wait_until("what was given up stops", lambda: lost.process.poll() is not None)
        assert "no member of its cluster any more" in lost.tail()
    finally:
        cluster.close()
