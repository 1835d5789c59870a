"""Clients that say nothing, too little or too much: others are served, and health is told within a second."""

import resource
import select
import socket
import threading
import time

import pytest
import redis

from conftest import PATIENCE, Node, free_port, http, slipring, wait_until

CONNECTIONS_MAX = 10_000
PATTERN_BYTES_MAX = 4 * 1024
# Beyond the times of a head and of a body, which are ten seconds.
SOON = 20
# What a machine that does much else may add to the second that is promised.
PROMPT = 1.0


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Started with room for as many files as connections are opened, and more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    node = Node(tmp_path_factory.mktemp("hangs"), 0).start()
    yield node
    node.kill()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def place(node):
    host, port = node.http.rsplit(":", 1)
    return host, int(port)


def open_many(node, number, first=b""):
    connections = []
    for _ in range(number):
        connection = socket.create_connection(place(node), timeout=PATIENCE)
        connection.sendall(first)
        connections.append(connection)
    return connections


def get(node, path):
    """Status and seconds, on a connection of its own."""
    began = time.monotonic()
    with socket.create_connection(place(node), timeout=PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ")[1]), time.monotonic() - began


def assert_healthy(node):
    for path in ("/healthz", "/readyz", "/metrics"):
        status, seconds = get(node, path)
        assert status == 200 and seconds < PROMPT, (path, status, seconds)


def ended(connections):
    """How many the node has ended; what it said before that is read."""
    count, poll = 0, select.poll()
    by_number = {connection.fileno(): connection for connection in connections}
    for number in by_number:
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(0):
        try:
            count += not by_number[number].recv(65536)
        except OSError:
            count += 1
    return count


def close(connections):
    for connection in connections:
        connection.close()


def test_silent_connections_and_half_requests_are_ended_and_others_served(node):
    half = b"PUT /v1/kv/default/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe"
    bodies, heads = open_many(node, 50, half), open_many(node, 50, b"GET /healthz HTTP/1.1\r\nHost:")
    silent = open_many(node, CONNECTIONS_MAX)
    assert_healthy(node)
    assert get(node, "/v1/cluster")[0] == 200, "the longest idle one gives way"
    for body in bodies:
        answer = body.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"too slowly" in answer, answer
    wait_until("half heads are ended", lambda: ended(heads) == 50, SOON)
    wait_until("silent ones are ended", lambda: ended(silent[:10] + silent[-10:]) == 20, SOON)
    close(bodies + heads + silent)
    assert get(node, "/v1/kv/default/half")[0] == 404


@pytest.fixture(scope="module")
def filled(node):
    """Keys that are hard to match, and many that are not."""
    client = redis.Redis(port=node.redis_port)
    with client.pipeline(transaction=False) as pipe:
        for index in range(200):
            pipe.set(b"a" * 4000 + str(index).encode(), b"v")
        for index in range(20_000):
            pipe.set(f"k:{index}", b"v")
        pipe.execute()
    return client


def test_patterns_have_a_limit(node, filled):
    for size in (PATTERN_BYTES_MAX - 1, PATTERN_BYTES_MAX):
        assert filled.keys("b" * size) == [] and filled.scan(0, match="b" * size)[1] == []
        assert filled.config_get("b" * size) == {}
    for size in (PATTERN_BYTES_MAX + 1, 16_000_000):
        for ask in (filled.keys, lambda pattern: filled.scan(0, match=pattern), filled.config_get,
                    lambda pattern: filled.execute_command("COMMAND", "LIST", "FILTERBY", "PATTERN", pattern)):
            with pytest.raises(redis.ResponseError, match="4096 bytes"):
                ask("b" * size)
    assert filled.ping()


@pytest.mark.parametrize("hold", [
    ["KEYS", b"*" + b"a*" * 2000 + b"b"], ["KEYS", b"*[" + b"b" * 4000 + b"]"], ["KEYS", b"*" + b"?" * 4000 + b"*b"],
    ["MGET", *(f"k:{n}" for n in range(65_000))], ["EXISTS", *(f"k:{n}" for n in range(65_000))],
    ["MSET", *(f"m:{n}" for n in range(65_000))], ["DEL", *(f"m:{n}" for n in range(65_000))], ["KEYS", b"*"], ["DBSIZE"],
], ids=lambda words: words[0] + str(len(words)))
def test_others_are_served_beside_long_commands(node, filled, hold):
    """As many at a time as there are threads, and more."""
    clients = [redis.Redis(port=node.redis_port) for _ in range(4)]
    threads = [threading.Thread(target=client.execute_command, args=hold) for client in clients]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert filled.ping()
        slowest = max(slowest, time.monotonic() - began)
    print(f"{hold[0]}: a PING took {slowest * 1000:.0f} ms at most")
    assert slowest < PROMPT


def test_the_command_line_does_not_wait_for_ever():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for command in (("status",), ("get", "k")):
            done = slipring(*command, "--node", address, "--answer-within", "1", check=False)
            assert done.returncode == 1, command
            assert f"{address} did not answer within 1 s" in done.stderr and "--node" in done.stderr, done.stderr
        for command in (("put", "k", "v"), ("drain", "a")):
            done = slipring(*command, "--node", address, "--answer-within", "1", check=False)
            assert done.returncode == 1 and "may have been done" in done.stderr, done.stderr
        waited = slipring("ok-to-stop", "--wait", "--timeout", "2", "--node", address, "--answer-within", "1", check=False)
        assert waited.returncode == 1 and "did not answer" in waited.stderr
    nobody = slipring("status", "--node", f"http://127.0.0.1:{free_port()}", check=False)
    assert nobody.returncode == 1 and "no node answers at" in nobody.stderr
    for seconds, code in (("0", 2), ("3601", 2)):
        assert slipring("status", "--answer-within", seconds, check=False).returncode == code
    for seconds in ("1", "3600"):
        done = slipring("status", "--node", f"http://127.0.0.1:{free_port()}", "--answer-within", seconds, check=False)
        assert done.returncode == 1
