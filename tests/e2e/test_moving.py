"""Data moves between real nodes while clients work: joins, drains, leaves, nodes that die half-way."""

import contextlib
import json
import random
import subprocess
import threading
import time
from collections import Counter

import pytest
import redis

from conftest import COMMAND_TIMEOUT, Cluster, Node, answered, http, slipring, wait_until
from test_history import History

# What moves beside clients does so slowly enough to be disturbed on its way.
SLOWLY = ("--background-share", "1")
LEADER, TAKER, GIVER = "leads the layout group", "takes over", "hands over"
KILLS = 3
FILLED = 6_000


def layout(cluster, node=0):
    return json.loads(http(cluster.nodes[node], "GET", "/v1/layout")[1])


def moving(cluster, node=0):
    return json.loads(http(cluster.nodes[node], "GET", "/v1/layout/moves")[1])["moving"]


def newest_layout(nodes):
    """The newest that any of these nodes works with. Who leaves may have ended."""
    answers = []
    for node in nodes:
        with contextlib.suppress(OSError):
            answers.append(json.loads(http(node, "GET", "/v1/layout")[1]))
    return max(answers, key=lambda seen: seen["epoch"])


def placed(cluster):
    """Where each partition lies, or is on its way to: table and partition to nodes and their assignments, which are never
    used twice."""
    tables = newest_layout(cluster.nodes)["tables"].items()
    rows = {(int(table), index): holders for table, rows in tables for index, holders in enumerate(rows)}
    target = lambda holders: (holders["next"] or holders)["replicas"]
    return {row: {copy["node"]: copy["assignment"] for copy in target(holders)} for row, holders in rows.items()}


def loads(places):
    """Copies by table and node."""
    counts = {}
    for (table, _), copies in places.items():
        counts.setdefault(table, Counter()).update(list(copies))
    return counts


def came(before, after):
    """Copies by table and node that are new, or were away in between."""
    new = {row: [node for node in copies if before[row].get(node) != copies[node]] for row, copies in after.items()}
    return loads(new)


def copies(cluster):
    """Copies of partitions by node, over all tables."""
    return sum(loads(placed(cluster)).values(), Counter())


def assert_balanced(cluster):
    """Each node's share of each table is the same, to within one partition."""
    for table, counts in loads(placed(cluster)).items():
        of_nodes = [counts[node] for node in layout(cluster)["nodes"]]
        assert max(of_nodes) - min(of_nodes) <= 1, f"table {table}: {counts}"


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


def roles(seen):
    """Who has which part in the moves of a layout."""
    held = [holders for table in seen["tables"].values() for holders in table if holders["next"]]
    moves = [(holders["replicas"], holders["next"]["replicas"]) for holders in held]
    nodes = [({copy["node"] for copy in old}, {copy["node"] for copy in new}) for old, new in moves]
    return {TAKER: {node for old, new in nodes for node in new - old}, GIVER: {node for old, new in nodes for node in old - new}}


class Benchmark(threading.Thread):
    """`redis-benchmark`, over and over, against one of some nodes that nobody kills meanwhile."""

    def __init__(self, nodes, stop):
        super().__init__(daemon=True)
        self.nodes, self.node, self.stop, self.rounds, self.wrong = nodes, nodes[0], stop, 0, []
        self.at_work = threading.Lock()

    def run(self):
        while not self.stop.is_set():
            with self.at_work:
                self.once()
            # Whoever waits for the lock gets it.
            self.stop.wait(0.02)

    def once(self):
        command = ["redis-benchmark", "-p", str(self.node.redis_port), "-q", "-n", "300", "-c", "3", "-r", "300", "-t", "set,get"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
        told = done.stdout + done.stderr
        if done.returncode == 0 and "rror" not in told:
            self.rounds += 1
        elif "UNKNOWN " not in told and "NOREPLICAS " not in told:
            self.wrong.append(told)

    def leave(self, victim):
        with self.at_work:
            self.node = next(node for node in self.nodes if node is not victim)


class Deaths:
    """Kills nodes for the part they have in what moves, and only while something does."""

    def __init__(self, cluster, benchmark):
        self.cluster, self.benchmark, self.chance = cluster, benchmark, random.Random(4)
        self.counts = dict.fromkeys((LEADER, TAKER, GIVER), 0)

    def missing(self):
        return [role for role, count in self.counts.items() if count == 0]

    def strike(self, joining=None, spared=None):
        """Kills and starts a few nodes, one after the other, while data moves."""
        for _ in range(KILLS):
            while not self.kill_one(joining, spared):
                if not moves(self.cluster.nodes):
                    return
            time.sleep(self.chance.uniform(0.05, 0.3))

    def kill_one(self, joining, spared):
        """Whether somebody was killed who had one of the parts then."""
        names = self.names(joining)
        seen = roles(newest_layout(self.cluster.nodes))
        seen[LEADER] = {self.cluster.status()["layout_leader"]} if seen[TAKER] or seen[GIVER] else set()
        able = {role: [names[id_] for id_ in ids if names.get(id_) not in (None, spared)] for role, ids in seen.items()}
        role = min((role for role in able if able[role]), key=self.counts.get, default=None)
        if not role:
            return False
        victim = self.chance.choice(able[role])
        if victim is self.benchmark.node:
            self.benchmark.leave(victim)
            return False
        victim.kill()
        after = roles(newest_layout([node for node in self.cluster.nodes if node is not victim]))
        is_sure = any(after.values()) if role == LEADER else any(names.get(id_) is victim for id_ in after[role])
        self.counts[role] += is_sure
        victim.start()
        return is_sure

    def names(self, joining):
        """Nodes by their ids. Who joins is not asked: it may not serve yet."""
        peers = {node.peer: node for node in self.cluster.nodes}
        entries = newest_layout(self.cluster.nodes)["nodes"].items()
        return {id_: peers.get(entry["addresses"]["peer"], joining) for id_, entry in entries}


def moves(nodes):
    return any(roles(newest_layout(nodes)).values())


def grow(cluster, deaths):
    """One more node, with deaths while it takes over its share: exactly that moves. Where the copies are to be then."""
    before, members = placed(cluster), set(newest_layout(cluster.nodes)["nodes"])
    come = lambda: set(newest_layout(cluster.nodes)["nodes"]) - members
    joiner = Node(cluster.folder, len(cluster.started), cluster.nodes[0].peer, SLOWLY)
    cluster.started.append(joiner)
    joiner.launch()
    wait_until("it is a member", come)
    after = placed(cluster)
    moved, size = came(before, after), len(members) + 1
    print(f"{size} nodes: {sum(map(Counter.total, moved.values()))} copies move")
    for table, counts in loads(after).items():
        assert moved[table].keys() == come(), "only the new node gets copies"
        assert 0 <= moved[table].total() - counts.total() // size <= 1, f"table {table}: {moved[table]}"
    deaths.strike(joiner)
    cluster.nodes.append(joiner.wait())
    return after


def shrink(cluster, deaths, leaver):
    """A node leaves, with deaths while it hands over: exactly what it held moves, as was planned."""
    before, left = placed(cluster), plan_node(cluster, leaver)
    plan = json.loads(slipring("layout", "plan", "--remove", leaver.peer, "--json", node=cluster.nodes[0]).stdout)
    slipring("remove", leaver.peer, node=cluster.nodes[0])
    after = placed(cluster)
    moved = came(before, after)
    print(f"one leaves: {sum(map(Counter.total, moved.values()))} copies move")
    assert sum(map(Counter.total, moved.values())) == plan["copies"]
    for table in moved:
        assert moved[table].total() == fewest(before, table, left), f"table {table}: {moved[table]}"
    # Who has left ends, and cannot be started again.
    deaths.strike(spared=leaver)
    return after


def fewest(before, table, leaver):
    """How many copies must move when a node leaves: its own, and more where another one is on so many of its partitions
    already that it cannot get its share of these alone."""
    counts = loads(before)[table]
    share = counts.total() // (len(counts) - 1)
    rows = [copies for (of, _), copies in before.items() if of == table and leaver in copies]
    open_to = {node: sum(node not in copies for copies in rows) for node in counts if node != leaver}
    return len(rows) + sum(max(0, share - counts[node] - most) for node, most in open_to.items())


def unsettle(cluster, deaths):
    """Another share for a node and its own again, with deaths, so that data moves as long as it must."""
    for weight in (200, 100):
        slipring("layout", "commit", "--weight", f"{cluster.nodes[-1].peer}={weight}", node=cluster.nodes[0])
        deaths.strike()
        cluster.wait_until_whole()


@pytest.fixture
def slow():
    cluster = Cluster(3, SLOWLY)
    yield cluster
    cluster.close()


def test_a_cluster_grows_and_shrinks_under_load_with_deaths_on_the_way(slow):
    fill(slow, FILLED)
    slow.wait_until_three_vote()
    with History(slow) as history:
        leaver = slow.nodes[1]
        benchmark = Benchmark((slow.nodes[2], slow.nodes[0]), history.stop)
        deaths = Deaths(slow, benchmark)
        benchmark.start()
        for _ in range(2):
            aimed = grow(slow, deaths)
        slow.wait_until_whole()
        assert placed(slow) == aimed, "whoever dies, nothing more moves"
        assert_balanced(slow)
        aimed = shrink(slow, deaths, leaver)
        wait_until("the node has left", lambda: len(layout(slow)["nodes"]) == 4)
        wait_until("it ends by itself", lambda: leaver.process.poll() is not None)
        assert "no member" in leaver.tail()
        assert leaver.process.returncode == 0, leaver.tail()
        slow.nodes.remove(leaver)
        slow.wait_until_whole()
        assert placed(slow) == aimed, "whoever dies, nothing more moves"
        while deaths.missing():
            unsettle(slow, deaths)
    benchmark.join()
    writes, reads = history.acknowledged()
    print(f"{writes} writes and {reads} reads on the way, {benchmark.rounds} rounds of redis-benchmark, killed: {deaths.counts}")
    assert benchmark.rounds > 0 and benchmark.wrong == []
    assert writes > 500 and reads > 500
    assert_balanced(slow)
    history.check()
    assert_filled(slow.nodes[-1], FILLED)


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


def sessions(seen):
    """The commands that what moves comes from."""
    return {holders["next"]["session"] for table in seen["tables"].values() for holders in table if holders["next"]}


def test_two_nodes_join_at_once_and_one_dies_half_way(slow):
    fill(slow, 15_000)
    members = set(layout(slow)["nodes"])
    joining = [Node(slow.folder, index, slow.nodes[0].peer, SLOWLY) for index in (3, 4)]
    slow.started += joining
    with History(slow) as history:
        for node in joining:
            node.launch()
        wait_until("both are members", lambda: len(set(layout(slow)["nodes"]) - members) == 2)
        seen, both = layout(slow), set(layout(slow)["nodes"]) - members
        print(f"{moving(slow)} partitions move when the second one joins")
        assert len(sessions(seen)) == 2, "what the first join had aimed still moves when the second one comes"
        joining[0].kill()
        assert both <= roles(newest_layout(slow.nodes))[TAKER], "each of the two, so also the one that died, was on the way"
        before = history.acknowledged()
        wait_until("clients go on", lambda: all(now > then + 50 for now, then in zip(history.acknowledged(), before)))
        joining[0].start()
        slow.nodes += [joining[0], joining[1].wait()]
        before = history.acknowledged()
        wait_until("they do when it is back", lambda: all(now > then + 50 for now, then in zip(history.acknowledged(), before)))
    slow.wait_until_whole()
    assert_balanced(slow)
    history.check()
    for node in joining:
        assert_filled(node, 15_000)


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
