"""What clients may take of a node: connections, files and memory. The node lives, and goes on when they let go."""

import contextlib
import os
import socket

import pytest
import redis

from conftest import BINARY, PATIENCE, SOONER, Cluster, Node, http, wait_until

FILES = 256


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def ask(connection, *words):
    """Sends one Redis command; its answer's first line."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    return line(connection)


def line(connection):
    answer = b""
    while not answer.endswith(b"\r\n"):
        byte = connection.recv(1)
        if not byte:
            break
        answer += byte
    return answer


def metric(node, name):
    for row in http(node, "GET", "/metrics")[1].decode().splitlines():
        if row.startswith((f"slipring_{name} ", f"slipring_{name}_total ")):
            return float(row.split()[1])
    raise AssertionError(f"there is no metric {name}")


@pytest.fixture()
def with_few_files(tmp_path, monkeypatch):
    """Nodes started here may have few files open."""
    def limited(files):
        script = tmp_path / f"with-{files}-files"
        script.write_text(f'#!/bin/sh\nulimit -n {files}\nexec "{BINARY}" "$@"\n')
        script.chmod(0o755)
        monkeypatch.setattr("conftest.BINARY", script)
    return limited


def test_idle_connections_leave_the_node_its_files(with_few_files):
    with_few_files(FILES)
    cluster = Cluster(3, SOONER)
    try:
        filled, writer = cluster.nodes[1], redis.Redis(port=cluster.nodes[0].redis_port)
        assert int(redis.Redis(port=filled.redis_port).config_get("maxclients")["maxclients"]) < FILES
        with contextlib.ExitStack() as idle:
            refused = 0
            while refused < 20:
                connection = idle.enter_context(connect(filled.redis))
                refused += ask(connection, "PING") != b"+PONG\r\n"
            for _ in range(FILES):
                idle.enter_context(connect(filled.peer))
            # Two are left for this test.
            for _ in range(int(metric(filled, "http_connections_max")) - 2):
                idle.enter_context(connect(filled.http))
            values = {f"k{i}": os.urandom(1_000_000) for i in range(90)}
            for key, value in values.items():
                assert writer.set(key, value)
            for node in cluster.nodes:
                assert node.process.poll() is None, node.tail()
                assert http(node, "GET", "/healthz")[0] == 200
            open_files = len(os.listdir(f"/proc/{filled.process.pid}/fd"))
            assert open_files <= FILES
        reader = wait_until("a place is free", lambda: (c := redis.Redis(port=filled.redis_port)).ping() and c,
                            is_passing=lambda error: isinstance(error, redis.RedisError))
        for key, value in values.items():
            assert reader.get(key) == value
    finally:
        cluster.close()


def test_connection_beyond_the_maximum_is_told_and_closed(tmp_path):
    node = Node(tmp_path, 0, extra=("--connections", "20")).start()
    try:
        with contextlib.ExitStack() as open_ones:
            clients = [open_ones.enter_context(connect(node.redis)) for _ in range(20)]
            assert all(ask(client, "PING") == b"+PONG\r\n" for client in clients)
            assert ask(clients[0], "CONFIG", "GET", "maxclients") == b"*2\r\n"
            beyond = open_ones.enter_context(connect(node.redis))
            assert line(beyond) == b"-ERR max number of clients reached\r\n"
            assert beyond.recv(1) == b""
            clients[0].close()
            wait_until("the place is free", lambda: ask(open_ones.enter_context(connect(node.redis)), "PING") == b"+PONG\r\n")
    finally:
        node.kill()


@pytest.mark.parametrize("files, starts", [(200, False), (201, True)])
def test_start_needs_a_least_number_of_files(tmp_path, with_few_files, files, starts):
    with_few_files(files)
    node = Node(tmp_path, 0, extra=SOONER)
    import conftest
    node.binary = conftest.BINARY
    try:
        node.launch()
        if starts:
            node.wait()
            assert redis.Redis(port=node.redis_port).ping()
        else:
            assert node.process.wait(timeout=PATIENCE) != 0
            assert "may have 200 files open and a node needs 201 at least" in node.tail()
    finally:
        node.kill()


MEMORY = 64 * 1024 * 1024
VALUE = 16 * 1024 * 1024
SMALL = ("--clients-memory", "64MiB")
# What a node may take beside its clients' memory while it works: buffers that grow, values between store and reply.
WORK = 3 * MEMORY


def status_bytes(node, name):
    for row in open(f"/proc/{node.process.pid}/status"):
        if row.startswith(f"{name}:"):
            return int(row.split()[1]) * 1024
    raise AssertionError(name)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("limits"), 0, extra=SMALL).start()
    redis.Redis(port=node.redis_port).set("big", bytes(VALUE))
    yield node
    node.kill()


@pytest.fixture()
def bounded(node):
    """The node's memory stays near its limit while the test runs, and is given back after it."""
    before = status_bytes(node, "VmRSS")
    with open(f"/proc/{node.process.pid}/clear_refs", "w") as file:
        file.write("5")
    yield node
    assert redis.Redis(port=node.redis_port).ping() and http(node, "GET", "/healthz")[0] == 200
    assert status_bytes(node, "VmHWM") < before + MEMORY + WORK
    wait_until("nothing is in flight", lambda: metric(node, "clients_memory_bytes") == 0)


def test_promised_bytes_take_no_memory(bounded):
    with contextlib.ExitStack() as open_ones:
        for _ in range(1000):
            client = open_ones.enter_context(connect(bounded.redis))
            client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$16777216\r\nx")
        wait_until("all are read", lambda: int(redis.Redis(port=bounded.redis_port).info("clients")["connected_clients"]) > 1000)
        assert metric(bounded, "clients_memory_bytes") == 0
        assert status_bytes(bounded, "VmHWM") < status_bytes(bounded, "VmRSS") + MEMORY


def hold(bounded, stack, pieces):
    """Unfinished commands that hold so many pieces of a MiB each, as far as there is room."""
    clients = []
    for _ in range(pieces):
        client = stack.enter_context(connect(bounded.redis))
        try:
            client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$16777216\r\n" + bytes(1 << 20))
        except OSError:
            pass
        clients.append(client)
    return clients


def test_unfinished_commands_are_refused_beyond_the_limit(bounded):
    before = metric(bounded, "clients_memory_refused")
    with contextlib.ExitStack() as stack:
        held = hold(bounded, stack, 24)
        wait_until("they are held", lambda: metric(bounded, "clients_memory_bytes") > 20 << 20)
        assert metric(bounded, "clients_memory_refused") == before
        beyond = hold(bounded, stack, 100)
        wait_until("some are refused", lambda: metric(bounded, "clients_memory_refused") > before)
        refused = [client for client in beyond if was_refused(client)]
        assert refused and metric(bounded, "clients_memory_bytes") <= MEMORY
        assert not any(was_refused(client) for client in held)
        small = redis.Redis(port=bounded.redis_port)
        assert small.set("small", "s") and small.get("small") == b"s"


def was_refused(client):
    client.setblocking(False)
    try:
        answer = client.recv(1000)
        assert answer.startswith(b"-OVERLOADED ") or answer == b""
        return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_every_gateway_refuses_when_memory_is_held(bounded):
    before = metric(bounded, "clients_memory_refused")
    with contextlib.ExitStack() as stack:
        hold(bounded, stack, 100)
        wait_until("the memory is full", lambda: metric(bounded, "clients_memory_refused") > before)
        client = redis.Redis(port=bounded.redis_port)
        with pytest.raises(redis.ResponseError, match="^OVERLOADED .* back off"):
            client.get("big")
        assert client.ping(), "the connection goes on"
        for arguments in [("GET", "/v1/kv/default/big"), ("PUT", "/v1/kv/default/a")]:
            status, body, headers = http(bounded, *arguments, data=bytes(VALUE) if arguments[0] == "PUT" else None)
            assert status == 503 and b'"overloaded"' in body and headers["retry-after"] == "1", body
        assert not client.exists("a")
        code, details = grpc_put(bounded, bytes(VALUE))
        assert code == "RESOURCE_EXHAUSTED", details


def grpc_put(node, value):
    import grpc

    def field(number, data):
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    def varint(number):
        out = b""
        while number > 127:
            out += bytes([number & 127 | 128])
            number >>= 7
        return out + bytes([number])

    with grpc.insecure_channel(node.http) as channel:
        put = channel.unary_unary("/slipring.v1.Kv/Put")
        try:
            put(field(2, b"a") + field(3, value), timeout=PATIENCE)
            return "OK", ""
        except grpc.RpcError as error:
            return error.code().name, error.details()


@pytest.mark.parametrize("copies, is_answered", [(1, True), (2, True), (40, False)])
def test_many_values_of_one_command_share_the_limit(bounded, copies, is_answered):
    client = redis.Redis(port=bounded.redis_port)
    if is_answered:
        assert client.mget(["big"] * copies) == [bytes(VALUE)] * copies
    else:
        with pytest.raises(redis.ResponseError, match="^OVERLOADED "):
            client.mget(["big"] * copies)
    assert client.exists(*["big"] * copies) == copies, "to count takes no bytes"


def test_clients_that_do_not_read_share_the_limit(bounded):
    get = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n"
    before = metric(bounded, "clients_memory_refused")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(bounded.redis)).sendall(get * 10)
        for _ in range(50):
            stack.enter_context(connect(bounded.http)).sendall(b"GET /v1/kv/default/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until("replies wait", lambda: metric(bounded, "clients_memory_bytes") > MEMORY / 2)
        wait_until("some are refused", lambda: metric(bounded, "clients_memory_refused") > before)
        assert metric(bounded, "clients_memory_bytes") <= MEMORY


def test_unfinished_http_bodies_share_the_limit(bounded):
    head = b"PUT /v1/kv/default/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: 16000000\r\n\r\n"
    before = metric(bounded, "clients_memory_refused")
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(100):
            client = stack.enter_context(connect(bounded.http))
            with contextlib.suppress(OSError):
                client.sendall(head + bytes(1 << 20))
            clients.append(client)
        wait_until("some are refused", lambda: metric(bounded, "clients_memory_refused") > before)
        assert metric(bounded, "clients_memory_bytes") <= MEMORY
        refused = next(filter(is_readable, clients))
        assert line(refused).startswith(b"HTTP/1.1 503 ")


def is_readable(client):
    import select
    return bool(select.select([client], [], [], 0)[0])


def test_many_values_from_replicas_share_the_limit():
    cluster = Cluster(3, SMALL)
    try:
        node = cluster.nodes[0]
        client = redis.Redis(port=node.redis_port)
        client.set("big", bytes(VALUE))
        before = [status_bytes(node, "VmRSS") for node in cluster.nodes]
        assert client.mget(["big"]) == [bytes(VALUE)]
        with pytest.raises(redis.ResponseError, match="^OVERLOADED "):
            client.mget(["big"] * 40)
        assert client.get("big") == bytes(VALUE)
        for node, bytes_before in zip(cluster.nodes, before):
            assert status_bytes(node, "VmHWM") < bytes_before + MEMORY + WORK
            wait_until("nothing is in flight", lambda: metric(node, "clients_memory_bytes") == 0)
    finally:
        cluster.close()


@pytest.mark.parametrize("memory, starts", [("67108863", False), ("67108864", True), ("64MiB", True), ("1.5GB", False)])
def test_clients_memory_has_a_least_value(memory, starts):
    import conftest
    done = conftest.slipring("config", "--clients-memory", memory, check=False)
    assert (done.returncode == 0) == starts and (starts or "clients" in done.stderr), done.stderr


def test_memory_is_given_back_after_an_overload(tmp_path):
    """Without a request after it: the node rests."""
    node = Node(tmp_path, 0, extra=("--clients-memory", "500MB")).start()
    try:
        redis.Redis(port=node.redis_port).set("big", bytes(VALUE))
        before = status_bytes(node, "VmRSS")
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(connect(node.redis)).sendall(b"GET big\r\n" * 10)
                stack.enter_context(connect(node.http)).sendall(b"GET /v1/kv/default/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until("clients hold much", lambda: metric(node, "clients_memory_refused") > 0)
            wait_until("the node holds much", lambda: status_bytes(node, "VmHWM") > before + 250_000_000)
        wait_until("it is given back", lambda: status_bytes(node, "VmRSS") < before + 125_000_000, timeout=60)
        wait_until("it is counted back", lambda: metric(node, "clients_memory_bytes") == 0)
    finally:
        node.kill()
