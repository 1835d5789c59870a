"""Bytes that no honest client sends: a clear error, bounded memory, and the node lives."""

import os
import random
import socket

import pytest
import redis

from conftest import PATIENCE, Node, http, slipring


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("hostile"), 0).start()
    yield node
    node.kill()


def say(address, data, timeout=PATIENCE):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.settimeout(timeout)
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except OSError:
            pass
        return answer


def lives(node):
    return redis.Redis(port=node.redis_port).ping() and http(node, "GET", "/healthz")[0] == 200


@pytest.mark.parametrize("data, expected", [
    (b"*1000000000\r\n", b"invalid multibulk length"),
    (b"*1\r\n$99999999999\r\n", b"invalid bulk length"),
    (b"*2\r\n$3\r\nGET\r\n:1\r\n", b"expected '$'"),
    (b"x" * 200_000, b"too big inline request"),
    (b"*" + b"1" * 100_000, b"invalid multibulk length"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"not HTTP"),
    (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000000\r\n" + b"v" * 100, b"invalid bulk length"),
    (b"*2\r\n$3\r\nGET\r\n$5000\r\n" + b"k" * 5000 + b"\r\n", b"longer than 4096"),
    (b"PING\r\n", b"+PONG"),
], ids=lambda value: "")
def test_malformed_commands_get_a_clear_error(node, data, expected):
    assert expected in say(node.redis, data)
    assert lives(node)


def test_half_a_command_is_no_harm(node):
    assert say(node.redis, b"*2\r\n$3\r\nGET\r\n$10\r\nabc") == b""
    assert lives(node)


def test_garbage_on_every_port_leaves_memory_bounded(node):
    before, chance = node.resident_bytes(), random.Random(7)
    for _ in range(60):
        data = chance.randbytes(chance.randrange(1, 20_000))
        for address in (node.redis, node.http, node.peer):
            say(address, data, timeout=0.3)
    assert lives(node)
    assert node.resident_bytes() - before < 100 * 1024 * 1024


def test_promised_lengths_reserve_nothing(node):
    before = node.resident_bytes()
    connections = []
    for _ in range(200):
        connection = socket.create_connection(("127.0.0.1", node.redis_port))
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16000000\r\nonly a little")
        connections.append(connection)
    assert lives(node)
    assert node.resident_bytes() - before < 400 * 1024 * 1024
    for connection in connections:
        connection.close()


def test_values_have_a_limit(node):
    client = redis.Redis(port=node.redis_port)
    largest = b"x" * (16 * 1024 * 1024)
    client.set("large", largest)
    assert client.get("large") == largest
    assert http(node, "PUT", "/v1/kv/default/large", data=largest + b"x")[0] == 413
    with pytest.raises(redis.ResponseError):
        client.append("large", "x")
    assert http(node, "PUT", "/v1/kv/default/" + "k" * 5000, data=b"x")[0] == 414
    client.delete("large")


def test_a_directory_that_cannot_be_used_is_named(tmp_path):
    a_file = tmp_path / "file"
    a_file.write_text("not a directory")
    common = ("--redis-port", "0", "--http-port", "0", "--peer-port", "0")
    done = slipring("start", "--data", a_file, *common, check=False)
    assert done.returncode == 1 and f"{a_file} is a file" in done.stderr and "panicked" not in done.stderr


def test_damage_is_named_and_never_served(tmp_path):
    node = Node(tmp_path, 0).start()
    client = redis.Redis(port=node.redis_port)
    with client.pipeline(transaction=False) as pipe:
        for index in range(20_000):
            pipe.set(f"d:{index}", index)
        pipe.execute()
    node.terminate()
    journal = max((node.data / "data" / "records").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    with open(journal, "r+b") as file:
        file.seek(os.path.getsize(journal) // 3 if os.path.getsize(journal) < 10_000_000 else 300_000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0xFF]))
    try:
        node.start()
        found = [client.get(f"d:{index}") for index in range(20_000)]
    except AssertionError:
        assert "damaged" in node.tail() or "missing" in node.tail(), node.tail()
        return
    finally:
        node.kill()
    wrong = [index for index, value in enumerate(found) if value != str(index).encode()]
    assert wrong == [], f"{len(wrong)} values are missing or wrong, and the node said nothing"
