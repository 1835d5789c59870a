"""Nodes die while clients work; every acknowledged write must be there at the end."""

import random
import signal
import threading
import time

import pytest
import redis

from conftest import PATIENCE, Node, answered, slipring, wait_until

SECONDS = 30
FAULTS_MIN, WRITES_MIN = 6, 1000


def verdict(writes, value):
    """What is wrong with a key's last value, given its writes as (value, outcome, began, ended)."""
    acknowledged = [w for w in writes if w[1] == "ok"]
    if value is None:
        return "lost" if acknowledged else None
    found = [w for w in writes if w[0] == value]
    if not found or found[0][1] == "refused":
        return "phantom"
    _, outcome, _, ended = found[0]
    if outcome == "ok" and any(w[2] > ended for w in acknowledged):
        return "lost"
    return None


def test_the_checker_finds_a_planted_breach():
    writes = [("a", "ok", 0, 1), ("b", "ok", 2, 3), ("c", "unknown", 4, None), ("d", "refused", 5, 6)]
    assert verdict(writes, "b") is None
    assert verdict(writes, "c") is None
    assert verdict(writes, "a") == "lost"
    assert verdict(writes, None) == "lost"
    assert verdict(writes, "d") == "phantom"
    assert verdict(writes, "x") == "phantom"


class Writer(threading.Thread):
    """A client that writes each key's values in order, and notes what became of each."""

    def __init__(self, cluster, name, stop):
        super().__init__()
        self.cluster, self.name_, self.stop = cluster, name, stop
        self.writes, self.added, self.maybe_added = {}, 0, 0
        self.random = random.Random(name)

    def run(self):
        turn = 0
        client = None
        while not self.stop.is_set():
            turn += 1
            if client is None or turn % 200 == 0:
                node = self.random.choice(self.cluster.nodes)
                client = redis.Redis(port=node.redis_port, decode_responses=True, socket_timeout=5, retry=None)
            key, value, began = f"{self.name_}:{turn % 50}", f"{self.name_}={turn}", time.monotonic()
            is_add = turn % 10 == 0
            try:
                if is_add:
                    client.incr("total")
                else:
                    client.set(key, value)
                outcome = "ok"
            except redis.ResponseError as error:
                outcome = "unknown" if str(error).startswith("UNKNOWN") else "refused"
            except (redis.ConnectionError, redis.TimeoutError):
                outcome, client = "unknown", None
                time.sleep(0.02)
            if is_add:
                self.added += outcome == "ok"
                self.maybe_added += outcome != "refused"
            else:
                self.writes.setdefault(key, []).append((value, outcome, began, time.monotonic()))


def outcomes(writers, outcome):
    """How many writes ended so until now."""
    return sum(write[1] == outcome for writer in writers for writes in list(writer.writes.values()) for write in list(writes))


def check(cluster, writers):
    """Every acknowledged write is there, on every node."""
    for node in cluster.nodes:
        client = redis.Redis(port=node.redis_port, decode_responses=True)
        wrong = {}
        for writer in writers:
            for key, writes in writer.writes.items():
                found = verdict(writes, answered(lambda: client.get(key)))
                if found:
                    wrong[key] = found
        assert wrong == {}, f"on node {node.index}"
        total = int(answered(lambda: client.get("total")) or 0)
        assert sum(w.added for w in writers) <= total <= sum(w.maybe_added for w in writers)


def break_nodes(cluster, is_enough):
    """Kills or pauses one node after the other; on a slow machine for longer, until enough has happened. How many."""
    chance, faults, begun = random.Random(1), 0, time.monotonic()
    passed = lambda: time.monotonic() - begun
    while passed() < SECONDS or not is_enough(faults) and passed() < SECONDS + PATIENCE:
        victim = chance.choice(cluster.nodes)
        if chance.random() < 0.3:
            victim.process.send_signal(signal.SIGSTOP)
            time.sleep(chance.uniform(0.2, 3))
            victim.process.send_signal(signal.SIGCONT)
        else:
            victim.kill()
            time.sleep(chance.uniform(0.1, 1.5))
            victim.start()
        faults += 1
        time.sleep(chance.uniform(0.5, 1.5))
    return faults


def test_acknowledged_writes_survive_nodes_that_die_and_return(fresh):
    stop = threading.Event()
    writers = [Writer(fresh, f"w{index}", stop) for index in range(4)]
    is_enough = lambda faults: faults >= FAULTS_MIN and outcomes(writers, "ok") >= WRITES_MIN
    for writer in writers:
        writer.start()
    try:
        faults = break_nodes(fresh, is_enough)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    fresh.wait_until_whole()
    fresh.wait_until_repaired()
    print(f"{faults} faults, {outcomes(writers, 'ok')} writes acknowledged, {outcomes(writers, 'unknown')} unknown")
    assert is_enough(faults)
    check(fresh, writers)


def test_everything_survives_the_death_of_all_nodes_at_once(fresh):
    client = redis.Redis(port=fresh.nodes[0].redis_port, decode_responses=True)
    for index in range(2000):
        wait_until("it is written", lambda: client.set(f"all:{index}", index))
    for node in fresh.nodes:
        node.process.kill()
    for node in fresh.nodes:
        node.process.wait()
        node.launch()
    for node in fresh.nodes:
        node.wait()
    fresh.wait_until_whole()
    client = redis.Redis(port=fresh.nodes[2].redis_port, decode_responses=True)
    found = [answered(lambda: client.get(f"all:{index}")) for index in range(2000)]
    assert found == [str(index) for index in range(2000)]


def test_a_majority_serves_and_a_minority_refuses_without_effect(fresh):
    survivor = redis.Redis(port=fresh.nodes[0].redis_port, decode_responses=True)
    wait_until("it is written", lambda: survivor.set("k", "before"))
    fresh.nodes[2].kill()
    wait_until("the others have noticed", lambda: survivor.set("k", "two are enough"))
    fresh.nodes[1].kill()

    def is_refused():
        try:
            survivor.set("k", "one is not")
        except redis.ResponseError as error:
            return str(error).startswith("NOREPLICAS")

    wait_until("the last one refuses", is_refused)
    fresh.nodes[1].start()
    fresh.nodes[2].start()
    fresh.wait_until_whole()
    returned = redis.Redis(port=fresh.nodes[2].redis_port, decode_responses=True)
    assert answered(lambda: returned.get("k")) in ("two are enough", "one is not")


def test_a_stopped_node_stays_a_member_and_returns(fresh):
    assert fresh.nodes[1].terminate() == 0
    client = redis.Redis(port=fresh.nodes[0].redis_port, decode_responses=True)
    wait_until("the others go on", lambda: client.set("while", "away"))
    assert len(fresh.status()["nodes"]) == 3
    fresh.nodes[1].start()
    fresh.wait_until_whole()
    returned = redis.Redis(port=fresh.nodes[1].redis_port, decode_responses=True)
    assert answered(lambda: returned.get("while")) == "away"


def test_wrong_joins_are_refused_with_a_reason(fresh, tmp_path):
    common = ("--redis-port", "0", "--http-port", "0", "--peer-port", "0")
    twice = slipring("start", "--data", fresh.nodes[0].data, *common, check=False)
    assert twice.returncode == 1 and "in use" in twice.stderr
    port = str(fresh.nodes[0].redis_port)
    taken = slipring("start", "--data", tmp_path / "x", "--redis-port", port, *common[2:], check=False)
    assert taken.returncode == 1 and "--redis-port" in taken.stderr
    port = ("--redis-cluster-port", str(fresh.nodes[0].cluster_port))
    taken = slipring("start", "--data", tmp_path / "z", *port, *common, check=False)
    assert taken.returncode == 1 and "--redis-cluster-port" in taken.stderr
    open_ = slipring("start", "--data", tmp_path / "y", "--bind", "0.0.0.0", *common, check=False)
    assert open_.returncode == 1 and "--insecure" in open_.stderr


def test_seven_nodes_ask_to_join_at_once(tmp_path):
    nodes = [Node(tmp_path, 0).start()]
    try:
        nodes += [Node(tmp_path, index, nodes[0].peer, ("--workers", "1")).launch() for index in range(1, 8)]
        for node in nodes[1:]:
            node.wait()
        client = redis.Redis(port=nodes[-1].redis_port, decode_responses=True)
        view = redis.Redis(port=nodes[-1].cluster_port, decode_responses=True)
        wait_until("all are members", lambda: len(set(view.execute_command("CLUSTER NODES"))) >= 8)
        wait_until("it serves", lambda: client.set("k", "v"))
        other = redis.Redis(port=nodes[3].redis_port, decode_responses=True)
        assert answered(lambda: other.get("k")) == "v"
    finally:
        for node in nodes:
            node.kill()


def test_the_demonstration_loses_nothing():
    done = slipring("demo", "--exit", "--keys", "20000")
    assert "lost" in done.stdout


@pytest.mark.parametrize("size", [1, 2])
def test_small_clusters_serve(tmp_path, size):
    nodes = []
    try:
        for index in range(size):
            nodes.append(Node(tmp_path, index, nodes[0].peer if nodes else None))
            nodes[-1].start()
        clients = [redis.Redis(port=node.redis_port, decode_responses=True) for node in nodes]
        wait_until("it serves", lambda: clients[-1].set("k", "v"))
        assert [answered(lambda: client.get("k")) for client in clients] == ["v"] * size
    finally:
        for node in nodes:
            node.kill()
