"""Acknowledgements that a request names: given as asked for, or refused with nothing done."""

import grpc
import pytest

from conftest import Cluster, http, wait_until
from test_grpc import Client, Refusal

KEY = "/v1/kv/default/k"
INVALID = (400, grpc.StatusCode.INVALID_ARGUMENT)
TOO_FEW_COPIES = (503, grpc.StatusCode.UNAVAILABLE)


@pytest.fixture(scope="module")
def cluster():
    """One node at first; `default` is to have three copies."""
    cluster = Cluster(1)
    yield cluster
    cluster.close()


def by_http(node, kind, acks, value=None):
    header = ("-H", f"Slipring-{kind}-Acks: {acks}")
    status, _, _ = http(node, *(("GET", KEY) if value is None else ("PUT", KEY)), *header, data=value)
    return status


def by_grpc(client, method, kind, acks, **fields):
    try:
        client(f"Kv/{method}", key=b"k", options={f"{kind}_acks": acks}, **fields)
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        refusal = Refusal(error)
        assert refusal.outcome == "unchanged"
        return refusal.code


def assert_acks(node, client, expected):
    for acks, (status, code) in expected.items():
        written, read = (204, 200) if status == 200 else (status, status)
        assert by_http(node, "Write", acks, b"by http") == written, acks
        assert by_http(node, "Read", acks) == read, acks
        assert by_grpc(client, "Put", "write", acks, value=b"by grpc") == code, acks
        assert by_grpc(client, "Get", "read", acks) == code, acks
        is_looked_at = grpc.StatusCode.FAILED_PRECONDITION if status == 200 else code
        assert by_grpc(client, "Increment", "write", acks, delta=1) == is_looked_at, acks


def test_acks_beyond_the_copies_are_refused(cluster):
    node, done = cluster.nodes[0], (200, grpc.StatusCode.OK)
    client = Client(node)
    expected = {0: INVALID, 1: done, 2: TOO_FEW_COPIES, 3: TOO_FEW_COPIES, 4: INVALID, 8: INVALID}
    assert_acks(node, client, expected)
    assert http(node, "PUT", KEY, data=b"kept")[0] == 204
    assert by_http(node, "Write", 3, b"lost") == 503 and by_http(node, "Write", 4, b"lost") == 400
    status, body, _ = http(node, "GET", KEY)
    assert (status, body) == (200, b"kept"), "what is refused changes nothing"
    _, body, _ = http(node, "GET", KEY, "-H", "Slipring-Read-Acks: 4")
    assert b"must be 1 to 3" in body
    cluster.join()
    cluster.join()
    cluster.wait_until_whole()
    wait_until("three copies acknowledge", lambda: by_http(node, "Write", 3, b"x") == 204)
    assert_acks(node, client, {0: INVALID, 1: done, 2: done, 3: done, 4: INVALID, 8: INVALID})
    cluster.nodes.pop().kill()
    wait_until("a dead copy is missed", lambda: by_http(node, "Write", 3, b"x") == 503)
    assert by_http(node, "Write", 2, b"two") == 204 and by_http(node, "Read", 2) == 200
    client.close()


def test_bucket_of_an_unknown_service_is_refused(cluster):
    node = cluster.nodes[0]
    wish = b'{"name": "odd", "policy": {"service": "kvv"}}'
    status, body, _ = http(node, "POST", "/v1/buckets", data=wish)
    assert status == 400 and b"kvv" in body and b"choose one of kv" in body, body
    client = Client(node)
    with pytest.raises(grpc.RpcError) as caught:
        client("Buckets/Create", name="odd", policy={"service": "kvv"})
    assert Refusal(caught.value).code == grpc.StatusCode.INVALID_ARGUMENT
    assert http(node, "GET", "/v1/buckets/odd")[0] == 404
    client.close()
