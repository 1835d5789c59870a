"""Connections of clients: those that vanished end, silent ones where the operator wants it, and HTTP says which answer is the last."""

import shutil
import socket
import subprocess
import threading
import time

import pytest
import redis

from conftest import Node, http, wait_until

# Linux lets root close a connection without a word to its other end.
TCP_REPAIR = getattr(socket, "TCP_REPAIR", 19)
TIMEOUT = 2


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("connections"), 0, extra=("--tcp-keepalive-s", "2", "--redis-timeout-s", str(TIMEOUT)))
    yield node.start()
    node.kill()


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("ordinary"), 0)
    yield node.start()
    node.kill()


def plain(address):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def timers(address):
    """What the system says of the timers of a port's connections."""
    port = address.rsplit(":", 1)[1]
    return subprocess.run(["ss", "-tnoH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout


def answer(connection):
    """The head of one answer, in small letters; empty when the connection has ended."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        if not part:
            return ""
        head += part
    return head.decode().lower()


@pytest.mark.skipif(not shutil.which("ss"), reason="ss is not here")
def test_system_asks_silent_clients_for_signs_of_life(ordinary):
    for address in (ordinary.redis, ordinary.http):
        with plain(address):
            wait_until("it is asked within five minutes", lambda: "timer:(keepalive,4min" in timers(address), timeout=20)


def test_settings_are_told(node, ordinary):
    for asked, timeout, keepalive in ((node, str(TIMEOUT), "2"), (ordinary, "0", "300")):
        with redis.Redis(port=asked.redis_port, decode_responses=True) as client:
            assert client.config_get("t*") == {"timeout": timeout, "tcp-keepalive": keepalive}


def test_vanished_client_is_listed_no_more(tmp_path):
    node = Node(tmp_path, 0, extra=("--tcp-keepalive-s", "1")).start()
    try:
        client = redis.Redis(port=node.redis_port, decode_responses=True)
        vanishing = plain(node.redis)
        vanishing.sendall(b"CLIENT SETNAME vanishing\r\n")
        assert vanishing.recv(64) == b"+OK\r\n"
        names = lambda: [listed["name"] for listed in client.client_list()]
        assert "vanishing" in names()
        try:
            vanishing.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except PermissionError:
            pytest.skip("only root can end a connection without a word")
        vanishing.close()
        wait_until("it is listed no more", lambda: "vanishing" not in names(), timeout=20)
    finally:
        node.kill()


def test_silent_redis_connections_end_and_busy_ones_stay(node):
    began = time.monotonic()
    with plain(node.redis) as silent, plain(node.redis) as busy:
        stop = threading.Event()

        def ping():
            while not stop.wait(TIMEOUT / 5):
                busy.sendall(b"PING\r\n")
                assert busy.recv(64) == b"+PONG\r\n"

        pinging = threading.Thread(target=ping)
        pinging.start()
        assert silent.recv(64) == b""
        assert TIMEOUT <= time.monotonic() - began < TIMEOUT + 10
        stop.set()
        pinging.join()
        busy.sendall(b"PING\r\n")
        assert busy.recv(64) == b"+PONG\r\n"


def test_answer_before_an_unread_body_is_the_last(ordinary):
    longer = "Content-Length: 100000000\r\n"
    for line, status in (("PUT /v1/kv/default/k", "413"), ("PUT /v1/nothing", "404"), ("PUT /v1/kv/default/k", "403")):
        with plain(ordinary.http) as connection:
            host = "elsewhere.example" if status == "403" else ordinary.http
            connection.sendall(f"{line} HTTP/1.1\r\nHost: {host}\r\n{longer}\r\nbegin".encode())
            head = answer(connection)
            assert f" {status} " in head.splitlines()[0] and "connection: close" in head, head
            assert answer(connection) == ""


def test_answers_behind_which_a_connection_stays_say_nothing(ordinary):
    with plain(ordinary.http) as connection:
        for _ in range(2):
            connection.sendall(f"PUT /v1/kv/default/k HTTP/1.1\r\nHost: {ordinary.http}\r\nContent-Length: 2\r\n\r\nhi".encode())
            head = answer(connection)
            assert " 204 " in head.splitlines()[0] and "connection:" not in head, head


def test_last_answer_of_a_node_that_stops_says_so(tmp_path):
    node = Node(tmp_path, 0).start()
    try:
        with plain(node.http) as connection, plain(node.http) as idle:
            connection.sendall(f"PUT /v1/kv/default/k HTTP/1.1\r\nHost: {node.http}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode())
            assert " 100 " in answer(connection), "the body is read"
            node.process.terminate()
            assert idle.recv(64) == b"", "the port stops"
            connection.sendall(b"hi")
            head = answer(connection)
            assert " 204 " in head.splitlines()[0] and "connection: close" in head, head
    finally:
        node.kill()
