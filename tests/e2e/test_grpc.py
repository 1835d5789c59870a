"""gRPC on the HTTP port, by grpcurl and by grpcio, through nodes that own a key and nodes that do not.

No client has the protos: each learns the services by reflection.
"""

import base64
import json
import pathlib
import random
import signal
import socket
import struct
import subprocess
import time

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from conftest import COMMAND_TIMEOUT, PATIENCE, ROOT, Node, http, wait_until

GRPCURL = ROOT / "target" / "tools" / "bin" / "grpcurl"
WATCH_TIMEOUT = 5 * PATIENCE
VALUE_BYTES_MAX = 16 * 1024 * 1024
OPTIONS = [
    ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
]


class Client:
    """Calls any method by its name, as reflection describes it."""

    def __init__(self, node):
        self.channel = grpc.insecure_channel(node.http, options=OPTIONS)
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def start(self, method, timeout=PATIENCE, compression=None, **fields):
        service, name = method.split("/")
        service = service if "." in service else f"slipring.v1.{service}"
        described = self.pool.FindServiceByName(service).methods_by_name[name]
        request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        make = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        call = make(f"/{service}/{name}", request.SerializeToString, response.FromString)
        return call(request(**fields), timeout=timeout, compression=compression)

    def __call__(self, method, **fields):
        return self.start(method, **fields)

    def again(self, method, passing=("outcome_unknown", "unavailable"), **fields):
        """The answer in the end to a call that comes to the same when repeated."""
        is_passing = lambda error: isinstance(error, grpc.RpcError) and Refusal(error).kind in passing
        return wait_until(f"{method} is answered", lambda: (self(method, **fields),), is_passing=is_passing)[0]

    def value(self, key, **fields):
        values = self.again("Kv/Get", ("unavailable",), key=key, **fields).values
        assert len(values) <= 1
        return values[0] if values else None

    def close(self):
        self.channel.close()


class Refusal:
    """What a call failed with."""

    def __init__(self, error):
        self.code, self.text = error.code(), error.details()
        metadata = dict(error.trailing_metadata() or ())
        self.kind, self.outcome = metadata.get("slipring-kind"), metadata.get("slipring-outcome")


def refused(client, method, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        list(client(method, **fields)) if method == "Kv/Scan" else client(method, **fields)
    return Refusal(caught.value)


def is_unchanged(refusal, code):
    return (refusal.code, refusal.outcome) == (code, "unchanged") and refusal.text != ""


@pytest.fixture(scope="module")
def clients(cluster):
    clients = [Client(node) for node in cluster.nodes]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def lone(clients, cluster):
    """A bucket of one copy: two of three nodes own nothing of a key."""
    clients[0]("Buckets/Create", name="lone", policy={"replicas": 1})
    wait_until("all nodes know the bucket", lambda: all(http(n, "GET", "/v1/buckets/lone")[0] == 200 for n in cluster.nodes))
    return "lone"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("grpc"), 0).start()
    yield node
    node.kill()


def grpcurl(node, *arguments, data=None, check=True):
    if not GRPCURL.exists():
        pytest.skip("grpcurl is not there: `cargo xtask e2e` installs it where there is Go")
    options = ["-d", json.dumps(data)] if data is not None else []
    command = [GRPCURL, "-plaintext", *options, node.http, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout if check else done.stderr


def text(value):
    return base64.b64encode(value).decode()


def test_grpcurl_needs_no_files(cluster):
    a, b, _ = cluster.nodes
    services = grpcurl(a, "list").split()
    assert {"slipring.v1.Kv", "slipring.v1.Buckets", "slipring.v1.Cluster", "grpc.health.v1.Health"} <= set(services)
    assert "rpc Scan ( .slipring.v1.ScanRequest )" in grpcurl(a, "describe", "slipring.v1.Kv")
    grpcurl(a, "slipring.v1.Kv/Put", data={"key": text(b"curled"), "value": text(b"one")})
    found = json.loads(grpcurl(b, "slipring.v1.Kv/Get", data={"key": text(b"curled")}))
    assert found["values"] == [text(b"one")] and found["context"]
    assert '"SERVING"' in grpcurl(b, "grpc.health.v1.Health/Check")
    assert len(json.loads(grpcurl(b, "slipring.v1.Cluster/Status"))["nodes"]) == 3
    error = grpcurl(b, "slipring.v1.Kv/Get", data={"bucket": "nosuch", "key": text(b"k")}, check=False)
    assert "NotFound" in error and "Buckets/Create" in error


@pytest.mark.parametrize("bucket", ["", "lone"])
def test_every_node_reads_and_deletes_what_any_wrote(clients, lone, bucket):
    for index, writer in enumerate(clients):
        key = f"any:{bucket}:{index}".encode()
        writer("Kv/Put", bucket=bucket, key=key, value=b"v%d" % index)
        assert [reader.value(key, bucket=bucket) for reader in clients] == [b"v%d" % index] * 3
        other = clients[(index + 1) % 3]
        assert other("Kv/Delete", bucket=bucket, key=key).deleted
        assert [reader.value(key, bucket=bucket) for reader in clients] == [None] * 3
        assert not other("Kv/Delete", bucket=bucket, key=key).deleted


@pytest.mark.parametrize("bucket", ["", "lone"])
def test_a_context_replaces_what_it_has_seen_and_nothing_newer(clients, lone, bucket):
    a, b, c = clients
    key = f"context:{bucket}".encode()
    a("Kv/Put", bucket=bucket, key=key, value=b"one")
    seen = b("Kv/Get", bucket=bucket, key=key).context
    c("Kv/Put", bucket=bucket, key=key, value=b"two", context=seen)
    for method, fields in [("Kv/Put", {"value": b"three"}), ("Kv/Delete", {})]:
        refusal = refused(a, method, bucket=bucket, key=key, context=seen, **fields)
        assert is_unchanged(refusal, grpc.StatusCode.ABORTED) and "read again" in refusal.text
    assert is_unchanged(refused(a, "Kv/Put", bucket=bucket, key=key, value=b"x", context=b"\xff" * 9), grpc.StatusCode.ABORTED)
    assert [client.value(key, bucket=bucket) for client in clients] == [b"two"] * 3
    assert b("Kv/Delete", bucket=bucket, key=key, context=b("Kv/Get", bucket=bucket, key=key).context).deleted


def test_conditions_are_looked_at_before_a_write(clients):
    a, b, c = clients
    unmet = grpc.StatusCode.FAILED_PRECONDITION
    assert is_unchanged(refused(a, "Kv/Put", key=b"if", value=b"x", condition="CONDITION_IF_PRESENT"), unmet)
    b("Kv/Put", key=b"if", value=b"one", condition="CONDITION_IF_ABSENT")
    assert is_unchanged(refused(c, "Kv/Put", key=b"if", value=b"x", condition="CONDITION_IF_ABSENT"), unmet)
    c("Kv/Put", key=b"if", value=b"two", condition="CONDITION_IF_PRESENT")
    assert a.value(b"if") == b"two"
    assert is_unchanged(refused(a, "Kv/Put", key=b"if", value=b"x", condition=7), grpc.StatusCode.INVALID_ARGUMENT)


def test_values_expire(clients):
    a, b, _ = clients
    for ttl in (400, 4_000, 40_000):
        before = int(time.time() * 1000)
        a("Kv/Put", key=b"short", value=b"x", ttl_ms=ttl)
        written = time.time() * 1000
        found = b("Kv/Get", key=b"short")
        if found.values:
            break
        assert time.time() * 1000 >= before + ttl, "it is gone before its time"
    assert before + ttl <= found.expires_at_ms <= written + ttl
    wait_until("the value expires", lambda: b.value(b"short") is None)
    a("Kv/Put", key=b"lasts", value=b"x")
    assert not b("Kv/Get", key=b"lasts").HasField("expires_at_ms")
    assert is_unchanged(refused(a, "Kv/Put", key=b"short", value=b"x", ttl_ms=0), grpc.StatusCode.INVALID_ARGUMENT)


def test_concurrent_values_are_kept_until_a_write_has_seen_them(clients, cluster):
    a, b, c = clients
    a("Buckets/Create", name="both", policy={"on_conflict": "ON_CONFLICT_SIBLINGS"})
    wait_until("all nodes know the bucket", lambda: all(http(n, "GET", "/v1/buckets/both")[0] == 200 for n in cluster.nodes))
    seen = a("Kv/Get", bucket="both", key=b"k").context
    b("Kv/Put", bucket="both", key=b"k", value=b"left", context=seen)
    c("Kv/Put", bucket="both", key=b"k", value=b"right", context=seen)
    found = a("Kv/Get", bucket="both", key=b"k", options={"read_acks": 3})
    assert sorted(found.values) == [b"left", b"right"]
    b("Kv/Put", bucket="both", key=b"k", value=b"merged", context=found.context)
    assert list(c("Kv/Get", bucket="both", key=b"k").values) == [b"merged"]


@pytest.mark.parametrize("bucket", ["", "lone"])
def test_increments_through_all_nodes_add_up(clients, lone, bucket):
    sums = [clients[turn % 3]("Kv/Increment", bucket=bucket, key=b"sum", delta=turn).value for turn in range(60)]
    assert sums[-1] == sum(range(60)) == int(clients[1].value(b"sum", bucket=bucket))
    assert clients[2]("Kv/Increment", bucket=bucket, key=b"sum", delta=-2000).value == sum(range(60)) - 2000
    clients[0]("Kv/Put", bucket=bucket, key=b"word", value=b"word")
    refusal = refused(clients[1], "Kv/Increment", bucket=bucket, key=b"word", delta=1)
    assert is_unchanged(refusal, grpc.StatusCode.FAILED_PRECONDITION)
    clients[0]("Kv/Put", bucket=bucket, key=b"large", value=str(2**63 - 1).encode())
    refusal = refused(clients[1], "Kv/Increment", bucket=bucket, key=b"large", delta=1)
    assert is_unchanged(refusal, grpc.StatusCode.OUT_OF_RANGE)


def test_a_scan_sees_every_key_and_goes_on_on_another_node(clients, lone):
    wanted = sorted(f"scan:{index}".encode() for index in range(600))
    for index, key in enumerate(wanted):
        clients[index % 3]("Kv/Put", bucket=lone, key=key, value=b"x")
        clients[index % 3]("Kv/Put", bucket=lone, key=b"not-" + key, value=b"x")
    pages = list(clients[2]("Kv/Scan", bucket=lone, prefix=b"scan:", page_keys=50))
    assert sorted(key for page in pages for key in page.keys) == wanted
    assert [page.cursor == 0 for page in pages] == [False] * (len(pages) - 1) + [True]
    assert all(page.keys for page in pages[:-1]) and max(len(page.keys) for page in pages) <= 1024
    broken = clients[0].start("Kv/Scan", bucket=lone, prefix=b"scan:", page_keys=50)
    seen = [next(broken) for _ in range(3)]
    broken.cancel()
    rest = clients[1]("Kv/Scan", bucket=lone, prefix=b"scan:", cursor=seen[-1].cursor)
    assert sorted({key for page in seen + list(rest) for key in page.keys}) == wanted
    assert [page.cursor for page in clients[0]("Kv/Scan", bucket=lone, prefix=b"none")] == [0]
    assert is_unchanged(refused(clients[0], "Kv/Scan", page_keys=1025), grpc.StatusCode.INVALID_ARGUMENT)
    assert is_unchanged(refused(clients[0], "Kv/Scan", bucket="nosuch"), grpc.StatusCode.NOT_FOUND)


def test_buckets_are_made_listed_and_deleted(clients, cluster):
    a, b, _ = clients
    policy = {"replicas": 2, "write_acks": 1, "ttl_ms": 5000}
    made = a("Buckets/Create", name="made", preset="cache", policy=policy).bucket
    assert (made.policy.replicas, made.policy.write_acks, made.policy.read_acks, made.policy.ttl_ms) == (2, 1, 1, 5000)
    assert a("Buckets/Create", name="made", preset="cache", policy=policy).bucket == made
    same = json.loads(http(cluster.nodes[0], "GET", "/v1/buckets/made")[1])
    assert (same["number"], same["policy"]["engine"], same["policy"]["ttl_ms"]) == (made.number, "memory", 5000)
    listed = lambda: {bucket.name: bucket.number for bucket in b("Buckets/List").buckets}
    wait_until("the other node lists it", lambda: listed().get("made") == made.number)
    precondition, invalid = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
    assert is_unchanged(refused(a, "Buckets/Create", name="made"), precondition)
    assert is_unchanged(refused(a, "Buckets/Delete", name="default"), precondition)
    for fields in [{"name": "No"}, {"name": "x", "preset": "fast"}, {"name": "x", "policy": {"replicas": 259}},
                   {"name": "x", "policy": {"engine": "ENGINE_MEMORY"}}]:
        assert is_unchanged(refused(a, "Buckets/Create", **fields), invalid)
    b("Buckets/Delete", name="made")
    assert is_unchanged(refused(b, "Buckets/Delete", name="made"), grpc.StatusCode.NOT_FOUND)


def test_a_bucket_gets_another_number_of_copies_and_a_table_of_its_own(clients, cluster):
    a, b, c = clients
    number = a("Buckets/Create", name="wider", policy={"replicas": 2}).bucket.number
    wait_until("all nodes know the bucket", lambda: all(http(n, "GET", "/v1/buckets/wider")[0] == 200 for n in cluster.nodes))
    table_of = lambda layout: next(table for table in layout.tables if number in table.buckets)
    assert number not in [made for table in a("Cluster/Layout").tables if table.replicas != 2 for made in table.buckets]
    keys = [b"wider:%d" % index for index in range(100)]
    for index, key in enumerate(keys):
        clients[index % 3]("Kv/Put", bucket="wider", key=key, value=b"v%d" % index)
    changed = b("Buckets/Change", name="wider", replicas=3)
    assert (changed.bucket.number, changed.bucket.name, changed.bucket.policy.replicas) == (number, "wider", 3)

    def arrived():
        """The layout once each partition has its three copies."""
        layout = c("Cluster/Layout")
        is_there = layout.epoch >= changed.epoch and all(len(p.nodes) == 3 for p in table_of(layout).partitions)
        return is_there and layout

    layout = wait_until("the third copies are there", arrived)
    assert (list(table_of(layout).buckets), table_of(layout).replicas) == ([number], 3)
    assert any(0 in table.buckets and number not in table.buckets for table in layout.tables), "default has another"
    assert [clients[index % 3].value(key, bucket="wider") for index, key in enumerate(keys)] == [b"v%d" % i for i in range(100)]
    assert b("Buckets/Change", name="wider", replicas=3).bucket == changed.bucket, "told twice"
    precondition, invalid = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
    for replicas in (0, 8, 259):
        assert is_unchanged(refused(a, "Buckets/Change", name="wider", replicas=replicas), invalid)
    assert is_unchanged(refused(a, "Buckets/Change", name="nosuch", replicas=2), grpc.StatusCode.NOT_FOUND)
    assert is_unchanged(refused(a, "Buckets/Change", name="wider", replicas=2, expected_epoch=1), precondition)
    a("Buckets/Create", name="strict", policy={"replicas": 3, "read_acks": 2, "write_acks": 2})
    objection = refused(a, "Buckets/Change", name="strict", replicas=4)
    assert is_unchanged(objection, precondition) and "reads could miss writes" in objection.text
    assert a("Buckets/Change", name="strict", replicas=4, force=True).bucket.policy.replicas == 4
    for name in ("strict", "wider"):
        a("Buckets/Delete", name=name)


def test_the_cluster_tells_what_http_tells(clients, cluster):
    def told():
        """What two nodes tell when both work with the same layout, and each member has told of itself."""
        status, layout = clients[1]("Cluster/Status"), clients[2]("Cluster/Layout")
        return layout.epoch == status.epoch and all(node.HasField("own") for node in status.nodes) and (status, layout)

    status, layout = wait_until("two nodes work with the same layout", told)
    same = cluster.status(1)
    assert (status.cluster, status.node, status.partitions) == (same["cluster"], same["node"], same["partitions"])
    assert [node.id for node in status.nodes] == [node["id"] for node in same["nodes"]]
    assert all(node.is_connected for node in status.nodes)
    assert {node.addresses.http for node in status.nodes} == {node.http for node in cluster.nodes}
    assert status.clocks_agree and same["clocks_agree"] and not status.HasField("rival")
    for node, other in zip(status.nodes, same["nodes"]):
        assert node.HasField("clock_ahead_ms") and abs(node.clock_ahead_ms - other["clock_ahead_ms"]) < 1000
        for space, told in ((node.own.disk, other["own"]["disk"]), (node.own.memory, other["own"]["memory"])):
            room = {"ample": 1, "scarce": 2, "spent": 3}[told["room"]]
            assert (space.room, space.limit, space.reserve) == (room, told["limit"] or 0, told["reserve"])
        assert node.own.disk.used > 0 and node.own.disk.free > 0
    assert (layout.cluster, 1 << layout.bits) == (status.cluster, status.partitions)
    copies = {bucket.number: bucket.policy.replicas for bucket in layout.buckets}
    assert sorted(number for table in layout.tables for number in table.buckets) == sorted(copies)
    for table in layout.tables:
        assert {copies[number] for number in table.buckets} == {table.replicas}
        assert len(table.partitions) == status.partitions
        assert all(len(set(partition.nodes)) == len(partition.nodes) == table.replicas for partition in table.partitions)
        assert {node for partition in table.partitions for node in partition.nodes} == set(range(len(layout.nodes)))


def test_rest_and_grpc_share_port_and_data(clients, cluster):
    clients[0]("Kv/Put", key=b"shared", value=b"by grpc")
    for version in ("--http1.1", "--http2-prior-knowledge"):
        assert http(cluster.nodes[1], "GET", "/v1/kv/default/shared", version)[:2] == (200, b"by grpc")
    assert http(cluster.nodes[2], "PUT", "/v1/kv/default/shared", data=b"by http")[0] == 204
    assert clients[0].value(b"shared") == b"by http"
    assert http(cluster.nodes[0], "GET", "/nowhere")[0] == 404


def test_sizes_have_limits(clients):
    a, b, _ = clients
    largest, invalid = random.Random(3).randbytes(VALUE_BYTES_MAX), grpc.StatusCode.INVALID_ARGUMENT
    a.again("Kv/Put", key=b"k" * 4096, value=largest)
    assert b.value(b"k" * 4096) == largest
    for size in (1, 1 << 16, VALUE_BYTES_MAX):
        refusal = refused(a, "Kv/Put", key=b"k", value=largest + bytes(size))
        assert is_unchanged(refusal, invalid) and refusal.kind == "invalid", (size, refusal.code, refusal.text)
    for key in (b"", b"k" * 4097):
        assert is_unchanged(refused(a, "Kv/Get", key=key), invalid)
    for options in ({"read_acks": 0}, {"read_acks": 8}, {"timeout_ms": 0}):
        assert is_unchanged(refused(a, "Kv/Get", key=b"k", options=options), invalid)
    a.again("Kv/Delete", key=b"k" * 4096)


def call_by_curl(node, method, *arguments, body=b""):
    frame = struct.pack(">BI", 0, len(body)) + body
    path = f"/slipring.v1.{method}"
    return http(node, "POST", path, "-H", "Content-Type: application/grpc", "-H", "TE: trailers", *arguments, data=frame)


def test_message_in_gzip_is_read_and_bounded(alone):
    client, gzip = Client(alone), {"compression": grpc.Compression.Gzip}
    value = b"much the same " * 10_000
    client("Kv/Put", key=b"packed", value=value, **gzip)
    assert list(client("Kv/Get", key=b"packed", **gzip).values) == [value]
    largest = bytes(VALUE_BYTES_MAX)
    client("Kv/Put", key=b"packed", value=largest, **gzip)
    refusal = refused(client, "Kv/Put", key=b"packed", value=largest + bytes(1 << 16), **gzip)
    assert is_unchanged(refusal, grpc.StatusCode.INVALID_ARGUMENT) and "at most 16777216 bytes" in refusal.text
    assert client.value(b"packed") == largest
    client("Kv/Delete", key=b"packed")
    client.close()


def test_what_is_no_grpc_is_told_so(alone):
    wrong_kind = ["-H", "Content-Type: text/plain"]
    for version in ("--http1.1", "--http2-prior-knowledge"):
        assert http(alone, "POST", "/slipring.v1.Kv/Put", version, *wrong_kind)[0] == 415
    assert call_by_curl(alone, "Kv/Get", "--http1.1")[0] == 505
    key = b"\x12\x01k"
    for method, body, arguments, status in [
        ("Kv/Get", b"\xff" * 10, [], "3"), ("Kv/Nosuch", b"", [], "12"), ("Kv/Get", key, ["-H", "grpc-encoding: deflate"], "12"),
        ("Kv/Get", key, ["-H", "grpc-timeout: soon"], "3"), ("Kv/Get", key, ["-H", "grpc-timeout: 0m"], "4"),
    ]:
        code, _, headers = call_by_curl(alone, method, "--http2-prior-knowledge", *arguments, body=body)
        assert (code, headers["grpc-status"], headers["slipring-outcome"]) == (200, status, "unchanged"), (method, arguments)
    client, as_it_is = Client(alone), lambda message: message
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary("/slipring.v1.Nosuch/Get", as_it_is, as_it_is)(b"", timeout=PATIENCE)
    assert is_unchanged(Refusal(caught.value), grpc.StatusCode.UNIMPLEMENTED)
    client.close()


def test_garbage_on_the_port_is_no_harm(alone):
    before, chance = alone.resident_bytes(), random.Random(11)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    host, port = alone.http.rsplit(":", 1)
    settings = b"\0\0\0\x04\0\0\0\0\0"
    for turn in range(120):
        begin = [b"", preface, preface + settings, preface[: turn % 24]][turn % 4]
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.settimeout(0.2)
            try:
                connection.sendall(begin + chance.randbytes(chance.randrange(1, 30_000)))
                while connection.recv(65536):
                    pass
            except OSError:
                pass
    client = Client(alone)
    client("Kv/Put", key=b"alive", value=b"yes")
    assert client.value(b"alive") == b"yes" and http(alone, "GET", "/v1/kv/default/alive")[1] == b"yes"
    assert alone.resident_bytes() - before < 100 * 1024 * 1024
    client.close()


def test_a_promised_message_reserves_nothing(alone):
    """Many calls that promise the largest message and send little of it."""
    before, path = alone.resident_bytes(), "/slipring.v1.Kv/Put"
    literal = lambda name, value: b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", alone.http.encode()),
              (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    head = b"".join(literal(name, value) for name, value in fields)
    frame = lambda kind, flags, stream, body: struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
    host, port = alone.http.rsplit(":", 1)
    connections = []
    for _ in range(20):
        connection = socket.create_connection((host, int(port)))
        said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
        for stream in range(1, 160, 2):
            said += frame(1, 4, stream, head) + frame(0, 0, stream, struct.pack(">BI", 0, VALUE_BYTES_MAX) + b"only a little")
        connection.sendall(said)
        connections.append(connection)
    client = Client(alone)
    client("Kv/Put", key=b"alive", value=b"still")
    assert client.value(b"alive") == b"still"
    assert alone.resident_bytes() - before < 200 * 1024 * 1024
    for connection in connections:
        connection.close()
    client.close()


def test_one_connection_has_only_so_many_calls_under_way(alone):
    busy, other = Client(alone), Client(alone)
    watches = [busy.start("grpc.health.v1.Health/Watch", timeout=None) for _ in range(99)]
    assert [next(watch).status for watch in watches] == [1] * 99
    assert busy.value(b"nothing") is None
    watches.append(busy.start("grpc.health.v1.Health/Watch", timeout=None))
    assert next(watches[-1]).status == 1
    assert refused(busy, "Kv/Get", key=b"k", timeout=0.5).code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert other.value(b"nothing") is None
    watches[0].cancel()
    wait_until("a place is free again", lambda: busy.value(b"nothing") is None)
    for client in (busy, other):
        client.close()


def test_an_outcome_that_is_not_known_is_called_so_and_a_refusal_too(fresh):
    a, b, c = fresh.nodes
    client = Client(a)
    client.again("Kv/Put", key=b"k", value=b"before")
    watch = client.start("grpc.health.v1.Health/Watch", timeout=WATCH_TIMEOUT)
    await_status(watch, 1)

    def put_in_vain():
        """What two calls end with whose time is short: sooner than the node's own limit, or the loss of its peers."""
        began = time.monotonic()
        for node in (b, c):
            freeze(node)
        refusal = refused(client, "Kv/Put", key=b"k", value=b"maybe", options={"timeout_ms": 200})
        called = [
            call_by_curl(a, method, "--http2-prior-knowledge", "-H", f"grpc-timeout: {time}", body=body)[2]
            for time in ("1m", "200m")
            for method, body in (("Kv/Put", b"\x12\x01k\x1a\x01v"), ("Kv/Get", b"\x12\x01k"))
        ]
        if time.monotonic() - began < 1.4:
            return refusal, called
        for node in (b, c):
            node.process.send_signal(signal.SIGCONT)
        fresh.wait_until_whole()

    refusal, called = wait_until("the client's limit holds, not the node's", put_in_vain)
    assert (refusal.code, refusal.kind, refusal.outcome) == (grpc.StatusCode.UNKNOWN, "outcome_unknown", "unknown")
    assert "may have happened" in refusal.text
    ends = [(headers["grpc-status"], headers["slipring-outcome"]) for headers in called]
    assert ends == [("4", "unknown"), ("4", "unchanged")] * 2, "the deadline of the call ends it"
    for node in (b, c):
        node.kill()
    refused_at_last(client, "unavailable", "Kv/Put", key=b"k", value=b"maybe")
    refusal = refused(client, "Kv/Put", key=b"k", value=b"no")
    assert is_unchanged(refusal, grpc.StatusCode.UNAVAILABLE)
    assert refused(client, "Kv/Get", key=b"k").kind == "unavailable"
    await_status(watch, 2)
    assert client("grpc.health.v1.Health/Check").status == 2 and http(a, "GET", "/readyz")[0] == 503
    assert refused(client, "grpc.health.v1.Health/Check", service="nosuch").code == grpc.StatusCode.NOT_FOUND
    for node in (b, c):
        node.launch()
    for node in (b, c):
        node.wait()
    await_status(watch, 1)
    fresh.wait_until_whole()
    assert client.value(b"k") in (b"before", b"maybe", b"v")
    watch.cancel()
    client.close()


def await_status(watch, wanted):
    """Waits for a status that a watch may tell after others."""
    next(answer for answer in watch if answer.status == wanted)


def freeze(node):
    """Stops a process as it stands, and waits until each of its threads has stopped."""
    node.process.send_signal(signal.SIGSTOP)
    tasks = pathlib.Path(f"/proc/{node.process.pid}/task")
    states = lambda: {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()}
    wait_until("the process has stopped", lambda: states() == {"T"})


def refused_at_last(client, kind, method, **fields):
    """Waits for a refusal of that kind; what comes before it, while the node still learns, may have happened."""
    def look():
        refusal = refused(client, method, **fields)
        return refusal if refusal.kind == kind else None

    return wait_until(f"{method} is refused as {kind}", look)


def test_a_node_that_stops_says_so_to_those_who_watch(tmp_path):
    node = Node(tmp_path, 0).start()
    client = Client(node)
    watch = client.start("grpc.health.v1.Health/Watch", service="slipring.v1.Kv", timeout=WATCH_TIMEOUT)
    await_status(watch, 1)
    assert node.terminate() == 0
    assert [answer.status for answer in watch] == [2]
    client.close()
