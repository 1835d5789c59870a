"""A node that takes nothing for a while: what did not leave for it is refused as not done, and was not done."""

import signal
import socket
import threading

import pytest
import redis
from conftest import Cluster, slipring, wait_until

# A third of the values is for the paused node: about 90 MB, of which no more than SENT_MAX can have left for it.
CONNECTIONS, COMMANDS, VALUE_BYTES = 135, 1, 2 * 1024 * 1024
SENT_MAX = 64 * 1024 * 1024
REFUSALS = ("OVERLOADED ", "NOREPLICAS ")


def write_all(port, names):
    """Writes every key in one pipeline; the first word of each reply, in order."""
    value = b"v" * VALUE_BYTES
    commands = [b"SELECT 1\r\n"]
    for name in names:
        commands.append(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(name), name, len(value), value))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join(commands),))
        sender.start()
        replies = client.makefile("rb")
        assert replies.readline() == b"+OK\r\n"
        found = [replies.readline().decode() for _ in names]
        sender.join()
    return found


@pytest.mark.parametrize("timeout_ms", [1_000, 10_000], ids=["until_the_deadline", "until_it_is_disconnected"])
def test_what_has_not_left_for_a_paused_node_is_not_done(timeout_ms):
    cluster = Cluster(3, ("--request-timeout-ms", str(timeout_ms)))
    try:
        check(cluster)
    finally:
        cluster.close()


def check(cluster):
    slipring("bucket", "create", "lone", "--set", "replicas=1", "--set", "write_acks=1", "--set", "read_acks=1", node=cluster.nodes[0])
    paused, port = cluster.nodes[1].process, cluster.nodes[0].redis_port
    lists = [[b"key:%d:%d" % (c, i) for i in range(COMMANDS)] for c in range(CONNECTIONS)]
    replies = {}

    def run(names):
        replies.update(zip(names, write_all(port, names)))

    writers = [threading.Thread(target=run, args=(names,)) for names in lists]
    paused.send_signal(signal.SIGSTOP)
    try:
        [writer.start() for writer in writers]
        [writer.join() for writer in writers]
    finally:
        paused.send_signal(signal.SIGCONT)
    assert len(replies) == CONNECTIONS * COMMANDS
    done = [name for name, reply in replies.items() if reply == "+OK\r\n"]
    refused = [name for name, reply in replies.items() if reply[1:].startswith(REFUSALS)]
    unknown = [name for name, reply in replies.items() if reply[1:].startswith("UNKNOWN ")]
    print(f"{len(done)} done, {len(refused)} refused, {len(unknown)} unknown")
    assert len(done) + len(refused) + len(unknown) == len(replies), set(replies.values())
    assert done
    assert len(unknown) * VALUE_BYTES <= SENT_MAX
    cluster.wait_until_whole()
    client = redis.Redis(port=port)
    client.execute_command("SELECT", 1)
    there = lambda names: sum(wait_until("it is read", lambda: (client.exists(name),))[0] for name in names)
    assert there(done) == len(done)
    assert there(refused) == 0
