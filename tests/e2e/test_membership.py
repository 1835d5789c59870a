"""What nodes believe of each other when one dies, pauses, restarts, speaks another key, or loses its datagrams."""

import json
import pathlib
import shutil
import signal
import socket
import tempfile
import threading
import time

import pytest

from conftest import Cluster, Node, http, slipring, wait_until

LOCAL = ("--membership", "local")


def status(node):
    return json.loads(http(node, "GET", "/v1/cluster")[1])


def identity(node):
    return json.loads(node.ready.read_text())["node"]


def seen(by, node):
    """How one node believes another to be."""
    return next(entry["seen"] for entry in status(by)["nodes"] if entry["id"] == identity(node))


def state(by, node):
    return seen(by, node)["state"]


def metric(node, name):
    text = http(node, "GET", "/metrics")[1].decode()
    return next(int(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def wait_until_seen(nodes, node, wanted):
    for by in nodes:
        wait_until(f"node {by.index} sees node {node.index} {wanted}", lambda: state(by, node) in wanted)


def wait_until_all_alive(nodes, wanted=("alive",)):
    for node in nodes:
        wait_until_seen([by for by in nodes if by is not node], node, wanted)


@pytest.fixture
def trio():
    cluster = Cluster(3, LOCAL)
    try:
        wait_until_all_alive(cluster.nodes)
        yield cluster.nodes
    finally:
        cluster.close()


def test_a_death_a_restart_and_a_stop_are_seen_as_what_they_are(trio):
    *others, victim = trio
    victim.kill()
    wait_until_seen(others, victim, ("down",))
    assert "DOWN" in slipring("status", node=others[0]).stdout
    wait_until("one is counted as gone", lambda: metric(others[0], 'slipring_gossip_members{state="gone"}') == 1)
    victim.start()
    wait_until_all_alive(trio)
    assert seen(others[0], victim)["start"] == 2
    assert victim.terminate() == 0
    wait_until_seen(others, victim, ("left",))
    victim.start()
    wait_until_all_alive(trio)


@pytest.fixture
def four():
    """One more than there are copies, so that there is somebody to move a copy to. Three vote on the layout."""
    cluster = Cluster(4, LOCAL)
    try:
        cluster.wait_until_three_vote()
        wait_until_all_alive(cluster.nodes)
        yield cluster.nodes
    finally:
        cluster.close()


def placement(nodes):
    """The epoch of the layout and who holds what, as all these nodes have it."""
    told = [json.loads(http(node, "GET", "/v1/layout")[1]) for node in nodes]
    held = [(layout["epoch"], layout["tables"]) for layout in told]
    assert all(layout == held[0] for layout in held)
    return held[0]


def assert_all_while(seconds, is_so):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert is_so()
        time.sleep(0.05)


def test_a_pause_is_seen_moves_nothing_and_is_over_when_it_ends(four):
    before = placement(four)
    # The one that leads the layout: when it wakes up, all others seem to have been silent.
    victim = next(node for node in four if identity(node) == status(node)["layout_leader"])
    others = [node for node in four if node is not victim]
    is_where_it_was = lambda: placement(others) == before
    victim.process.send_signal(signal.SIGSTOP)
    wait_until_seen(others, victim, ("suspected", "down"))
    assert is_where_it_was()
    wait_until_seen(others, victim, ("down",))
    leaders = lambda: {status(node)["layout_leader"] for node in others}
    wait_until("one that is there leads", lambda: leaders() < {identity(node) for node in others})
    # Whoever leads looks at what it sees several times meanwhile.
    assert_all_while(2, is_where_it_was)
    victim.process.send_signal(signal.SIGCONT)
    # Who was paused declares nobody else down for what it did not hear meanwhile.
    assert_all_while(3, lambda: all(state(victim, other) != "down" for other in others) and is_where_it_was())
    wait_until_all_alive(four)
    assert placement(four) == before


def test_keys_drawn_by_the_founder_last_over_a_restart_of_all(trio):
    for node in trio:
        node.kill()
    for node in trio:
        node.launch()
    for node in trio:
        node.wait()
    wait_until_all_alive(trio)


class StreamProxy:
    """Passes connections on, and has no ear for datagrams."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.target = None
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target)
            except (OSError, TypeError):
                client.close()
                continue
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class ProxiedNode(Node):
    """A node that others reach by streams only."""

    def __init__(self, folder, index, join):
        self.proxy = StreamProxy()
        super().__init__(folder, index, join, (*LOCAL, "--advertise", self.proxy.address))

    def wait(self):
        super().wait()
        self.peer = json.loads(self.ready.read_text())["peer_listens"]
        host, port = self.peer.rsplit(":", 1)
        self.proxy.target = (host, int(port))
        return self


def test_without_datagrams_streams_tell_who_is_there():
    folder, nodes = pathlib.Path(tempfile.mkdtemp(prefix="slipring-e2e-")), []
    try:
        for index in range(3):
            join = nodes[0].proxy.address if nodes else None
            nodes.append(ProxiedNode(folder, index, join).start())
        *others, victim = nodes
        wait_until_all_alive(nodes, ("unheard", "alive"))
        # Longer than a death takes to be seen: probes by datagram have all failed by now.
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            states = {state(by, node) for node in nodes for by in nodes if by is not node}
            assert states <= {"unheard", "alive", "suspected"}, states
            time.sleep(0.1)
        # Where a stream was late there was a suspicion, which the next one ends.
        wait_until_all_alive(nodes, ("unheard", "alive"))
        assert metric(others[0], "slipring_gossip_received_total") == 0, "no datagram can have come"
        victim.kill()
        wait_until_seen(others, victim, ("down",))
        victim.start()
        wait_until_all_alive(nodes, ("unheard", "alive"))
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_another_key_is_counted_dropped_and_named_once():
    folder, nodes = pathlib.Path(tempfile.mkdtemp(prefix="slipring-e2e-")), []
    ours, other = folder / "ours", folder / "other"
    ours.write_text("the key of this cluster\n")
    other.write_text("the key of another one\n")
    try:
        for index, key in enumerate((ours, ours, other)):
            join = nodes[0].peer if nodes else None
            extra = (*LOCAL, "--cluster-key-file", str(key))
            nodes.append(Node(folder, index, join, extra).start())
        first, second, stranger = nodes
        wait_until_all_alive([first, second])
        forged = 'slipring_gossip_dropped_total{why="forged"}'
        for node in nodes:
            wait_until("datagrams under another key are counted", lambda: metric(node, forged) >= 5)
        wait_until_seen([first], stranger, ("unheard",))
        for node in nodes:
            assert node.log.read_text(errors="replace").count("another cluster key") == 1
        # The right key is all that was missing.
        stranger.kill()
        stranger.extra = (*LOCAL, "--cluster-key-file", str(ours))
        stranger.start()
        wait_until_all_alive(nodes)
        secrets = [path.read_text().strip() for path in (ours, other)]
        shown = slipring("config", *stranger.extra).stdout + "".join(node.log.read_text() for node in nodes)
        assert not any(secret in shown for secret in secrets), "a key is never shown"
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)
