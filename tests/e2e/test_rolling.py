"""All nodes are restarted, one after the other, while clients write: each next one only when nothing lacks a copy."""

import json
import threading
import time

import redis

from conftest import PATIENCE, Node, answered, http, slipring, wait_until
from test_faults import check

WHOLE = ("ok-to-stop", "--wait", "--timeout", str(PATIENCE))
KEYS = 50
CACHED = 2_000


class Client(threading.Thread):
    """A client of one node: writes each key's values in order, and notes what became of each, and every error."""

    def __init__(self, node, stop):
        super().__init__()
        self.node, self.stop = node, stop
        self.writes, self.added, self.maybe_added = {}, 0, 0
        self.refusals, self.resets = [], []

    def run(self):
        turn, client = 0, None
        while not self.stop.is_set():
            turn += 1
            key, value, began = f"n{self.node.index}:{turn % KEYS}", f"n{self.node.index}={turn}", time.monotonic()
            try:
                client = client or redis.Redis(port=self.node.redis_port, decode_responses=True, socket_timeout=30, retry=None)
                client.set(key, value)
                outcome = "ok"
            except redis.ResponseError as error:
                self.refusals.append((time.monotonic(), str(error)))
                outcome = "unknown" if str(error).startswith("UNKNOWN") else "refused"
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self.resets.append((began, time.monotonic(), str(error)))
                outcome, client = "unknown", None
                time.sleep(0.05)
            self.writes.setdefault(key, []).append((value, outcome, began, time.monotonic()))

    def acknowledged(self):
        return sum(write[1] == "ok" for writes in list(self.writes.values()) for write in list(writes))


def judged(node):
    """Whether a node may be stopped, as this one sees it."""
    status, body, _ = http(node, "GET", "/v1/cluster/ok-to-stop")
    found = json.loads(body)
    assert (status == 200) == found["is_whole"], found
    return found


def is_ready(node):
    return http(node, "GET", "/readyz")[0] == 200


def fill(node, bucket, count):
    client = redis.Redis(port=node.redis_port, db=bucket)
    wait_until("the keys are written", lambda: client.mset({f"cached:{index}": index for index in range(count)}))


def memory_bucket(cluster):
    """A bucket that no disk keeps: only other nodes' copies bring it over a restart."""
    made = slipring("bucket", "create", "volatile", "--preset", "cache", "--set", "replicas=3", "--json", node=cluster.nodes[0])
    return json.loads(made.stdout)["number"]


def test_all_nodes_are_restarted_under_load_and_nothing_is_lost(fresh):
    volatile = memory_bucket(fresh)
    wait_until("the bucket is known everywhere", lambda: all(judged(node)["is_whole"] for node in fresh.nodes))
    fill(fresh.nodes[0], volatile, CACHED)
    # One acknowledgement is enough there: a copy may still be on its way.
    fresh.wait_until_repaired()
    stop, away = threading.Event(), {}
    clients = [Client(node, stop) for node in fresh.nodes]
    for client in clients:
        client.start()
    try:
        for node, others in [(n, [c for c in clients if c.node is not n]) for n in fresh.nodes]:
            began = time.monotonic()
            assert node.terminate() == 0
            before = sum(client.acknowledged() for client in others)
            wait_until("writes go on without it", lambda: sum(c.acknowledged() for c in others) > before + 200)
            assert not judged(others[0].node)["is_whole"]
            node.start()
            assert "may be stopped" in slipring(*WHOLE, node=node).stdout
            wait_until("who is whole is ready", lambda: is_ready(node))
            away[node.index] = (began, time.monotonic())
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert [client.refusals for client in clients] == [[], [], []]
    for client in clients:
        gone, back = away[client.node.index]
        stray = [reset for reset in client.resets if reset[1] < gone or reset[0] > back]
        assert stray == [], f"node {client.node.index} was away from {gone} to {back}"
    acknowledged = sum(client.acknowledged() for client in clients)
    print(f"{acknowledged} writes acknowledged on the way")
    assert acknowledged > 1_000
    check(fresh, clients)
    fresh.wait_until_repaired()
    for node in fresh.nodes:
        client = redis.Redis(port=node.redis_port, db=volatile, decode_responses=True)
        wrong = [i for i in range(CACHED) if answered(lambda: client.get(f"cached:{i}")) != str(i)]
        assert wrong == [], f"on node {node.index}"


def test_a_node_that_stays_away_holds_up_the_next_stop_and_nobody_else(fresh):
    gone, restarted, third = fresh.nodes
    fresh.wait_until_three_vote()
    # A node that has just started waits for every peer a while; once it has said that it has caught up, for none.
    said = lambda node, what: node.log.read_text(errors="replace").count(what)
    has_caught_up = lambda node: said(node, "has caught up since its start") == said(node, " serves\n")
    wait_until("every node has caught up since its start", lambda: all(map(has_caught_up, fresh.nodes)))
    gone.kill()
    refused = slipring("ok-to-stop", node=third, check=False)
    assert refused.returncode == 1 and "does not answer" in refused.stdout
    assert "2 of the 3 voters of the layout group answer: with one fewer it would have no majority" in refused.stdout
    assert is_ready(restarted) and is_ready(third), "clients of the others need not go"
    status, body, _ = http(third, "GET", "/readyz?whole=true")
    assert status == 503 and b"does not answer" in body, "but no other node should be stopped"
    late = slipring("ok-to-stop", "--wait", "--timeout", "1", node=third, check=False)
    assert late.returncode == 1
    restarted.terminate()
    restarted.start()
    # It is given time to meet the one that is away, and then serves without it.
    wait_until("it serves all the same", lambda: is_ready(restarted))
    assert not judged(restarted)["is_whole"]
    gone.start()
    assert slipring(*WHOLE, node=third).returncode == 0
    wait_until("all is well", lambda: http(third, "GET", "/readyz?whole=true")[0] == 200)


def test_the_status_shows_who_votes_and_who_leads(fresh):
    fresh.wait_until_three_vote()
    slipring(*WHOLE, node=fresh.nodes[0])
    gone, *others = fresh.nodes

    def told(node):
        """What a node tells once it knows a leader: who that is, who votes, and what each member says of itself."""
        status = fresh.status(node.index)
        return status["layout_leader"] in status["layout_voters"] and status

    ids = sorted(node["id"] for node in fresh.status(0)["nodes"])
    for node in fresh.nodes:
        status = wait_until("it knows a leader", lambda: told(node))
        assert sorted(status["layout_voters"]) == ids
        places = [member["own"]["group"] for member in status["nodes"]]
        assert all(place["leader"] in ids and place["term"] > 0 and place["applied"] > 0 for place in places), places
    shown = slipring("status", node=others[0]).stdout
    assert shown.count("leader") == 1 and shown.count(" voter ") == 2 and "layout group of 3 voters led by" in shown
    gone.kill()
    by_voters = lambda: [reason for reason in judged(others[0])["reasons"] if "2 of the 3 voters" in reason]
    wait_until("it is told that one voter is missing", by_voters)
    others[1].kill()
    by_voters = lambda: [reason for reason in judged(others[0])["reasons"] if "layout group has no" in reason]
    wait_until("it is told that most voters are missing", by_voters)
    for node in (gone, others[1]):
        node.start()
    slipring(*WHOLE, node=others[0])


def test_changes_that_take_copies_away_need_force(fresh):
    node, asked = fresh.nodes[2], fresh.nodes[0]
    # Nothing is missing now that would be missing afterwards, too.
    slipring(*WHOLE, node=asked)
    for refused in (["drain", node.peer], ["remove", node.peer], ["layout", "commit", "--drain", node.peer]):
        done = slipring(*refused, node=asked, check=False)
        assert done.returncode == 1 and "copies of partitions would be missing" in done.stderr and "--force" in done.stderr
    lost = slipring("remove", "--lost", node.peer, node=asked, check=False)
    assert lost.returncode == 1 and "remove it without --lost" in lost.stderr
    assert judged(asked)["moving"] == 0, "what was refused has changed nothing"
    slipring("drain", node.peer, "--force", "--wait", node=asked)
    assert judged(asked)["is_whole"], "what two nodes cannot hold three times is not waited for"
    slipring("restore", node.peer, "--wait", node=asked)


def test_a_node_alone_may_be_stopped(tmp_path):
    node = Node(tmp_path, 0).start()
    try:
        wait_until("it is ready", lambda: is_ready(node))
        assert "may be stopped" in slipring("ok-to-stop", node=node).stdout
    finally:
        node.kill()
