"""HTTP as its standards have it: conditions, parameters, keys of any bytes, one form for every error."""

import base64
import json
import urllib.parse

import pytest
import redis

from conftest import Cluster, http, wait_until

KEY = "/v1/kv/default/"


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(3)
    yield cluster
    cluster.close()


def put(node, key, value, *headers, query=""):
    status, body, told = http(node, "PUT", KEY + key + query, *headers, data=value)
    assert status < 500, body
    return status, told.get("etag")


def get(node, key, *headers):
    status, body, told = http(node, "GET", KEY + key, *headers)
    return status, body, told.get("etag")


def listed(node, bucket, query=""):
    """Every page of a list together: the texts and those in base64 beside them."""
    cursor, texts, others = None, [], []
    while cursor != "0":
        page = json.loads(http(node, "GET", f"/v1/kv/{bucket}?cursor={cursor or 0}{query}")[1])
        cursor, texts, others = page["cursor"], texts + page["keys"], others + page.get("keys_base64", [])
    return texts, others


def given(header, *tags):
    return ("-H", f"{header}: {', '.join(tags)}")


def test_write_answers_with_the_etag_that_reads_find(cluster):
    a, b, c = cluster.nodes
    status, first = put(a, "tagged", b"one")
    assert status == 204 and get(b, "tagged") == (200, b"one", first)
    status, second = put(b, "tagged", b"two", *given("If-Match", first))
    assert status == 204 and second != first and get(c, "tagged") == (200, b"two", second)
    assert put(c, "tagged", b"three", *given("If-Match", first))[0] == 412
    assert put(c, "tagged", b"three", *given("If-Match", f"W/{second}"))[0] == 412, "a weak tag is no strong one"
    status, third = put(c, "tagged", b"three", *given("If-Match", '"other"', first, second))
    assert status == 204 and put(a, "tagged", b"four", *given("If-Match", "*"))[0] == 204
    assert put(a, "tagged", b"five", *given("If-Match", third))[0] == 412
    assert put(a, "tagged", b"five", *given("If-Match", "unquoted"))[0] == 400
    assert get(b, "tagged")[1] == b"four"


def test_if_none_match_is_a_list_of_etags(cluster):
    a, b, _ = cluster.nodes
    status, tag = put(a, "none", b"one", *given("If-None-Match", "*"))
    assert status == 204 and put(b, "none", b"two", *given("If-None-Match", "*"))[0] == 412
    for tags in ((tag,), (f"W/{tag}",), ('"other"', tag), ("*",)):
        assert get(b, "none", *given("If-None-Match", *tags)) == (304, b"", tag), tags
        assert put(b, "none", b"two", *given("If-None-Match", *tags))[0] == 412, tags
    assert http(b, "HEAD", KEY + "none", "--head", *given("If-None-Match", tag))[0] == 304
    assert get(b, "none", *given("If-None-Match", '"other"')) == (200, b"one", tag)
    assert get(b, "none", *given("If-Match", '"other"'))[0] == 412
    assert get(b, "none", *given("If-Match", tag)) == (200, b"one", tag)
    assert get(b, "nosuch", *given("If-None-Match", "*"))[0] == 404
    assert put(b, "none", b"two", *given("If-None-Match", '"other"'))[0] == 204
    assert http(a, "DELETE", KEY + "none", *given("If-Match", tag))[0] == 412
    assert http(a, "DELETE", KEY + "none", *given("If-Match", '"other"', get(b, "none")[2]))[0] == 204


def test_expired_session_does_not_come_back(cluster):
    a, b, c = cluster.nodes
    status, tag = put(a, "session", b"mine", query="?ttl_ms=300")
    assert status == 204
    wait_until("the session is over", lambda: get(b, "session")[0] == 404)
    for tags in ((tag,), ("*",)):
        assert put(c, "session", b"mine again", *given("If-Match", *tags))[0] == 412, tags
        assert put(c, "never-was", b"x", *given("If-Match", *tags))[0] == 412, tags
    assert get(a, "session")[0] == get(a, "never-was")[0] == 404


@pytest.mark.parametrize("method, path, advice", [
    ("PUT", KEY + "k?ttl=5", "key_encoding, ttl_ms"),
    ("PUT", KEY + "k?ttl_ms=5&ttl=6", "key_encoding, ttl_ms"),
    ("GET", KEY + "k?ttl_ms=5", "key_encoding"),
    ("DELETE", KEY + "k?force=true", "key_encoding"),
    ("GET", "/v1/kv/default?limit=5", "cursor, count, key_encoding"),
    ("GET", "/v1/buckets?x=1", "takes none"),
    ("POST", "/v1/buckets?x=1", "takes none"),
    ("PATCH", "/v1/buckets/default?replicas=2", "takes none"),
    ("DELETE", "/v1/buckets/default?force=1", "takes none"),
    ("GET", "/v1/cluster?x", "takes none"),
    ("GET", "/v1/cluster/ok-to-stop?x", "takes none"),
    ("GET", "/v1/layout?x=1", "takes none"),
    ("POST", "/v1/layout/changes?x=1", "takes none"),
    ("DELETE", "/v1/registry/a?addr=b:1", "address"),
    ("GET", "/readyz?all=true", "whole"),
    ("GET", "/healthz?x=1", "takes none"),
    ("GET", "/metrics?x=1", "takes none"),
    ("GET", "/openapi.json?x=1", "takes none"),
])
def test_unknown_parameter_is_refused_with_the_right_one(cluster, method, path, advice):
    status, body, _ = http(cluster.nodes[0], method, path, data=b"x" if method in ("PUT", "POST", "PATCH") else None)
    error = json.loads(body)["error"]
    assert (status, error["kind"]) == (400, "invalid") and advice in error["message"], error


def test_unknown_header_of_its_own_is_refused(cluster):
    node, taken = cluster.nodes[0], "Slipring-Read-Acks, Slipring-Write-Acks, Slipring-Timeout-Ms"
    for method, path, header, advice in (
        ("PUT", KEY + "k", "Slipring-TTL: 5", f"{taken}, Slipring-TTL-Ms"),
        ("GET", KEY + "k", "Slipring-TTL-Ms: 5", taken),
        ("GET", "/v1/buckets", "Slipring-Write-Acks: 1", "takes none"),
    ):
        status, body, _ = http(node, method, path, "-H", header, data=b"x" if method == "PUT" else None)
        error = json.loads(body)["error"]
        assert (status, error["kind"]) == (400, "invalid") and advice in error["message"], error
    assert http(node, "PUT", KEY + "k", "-H", "Slipring-TTL-Ms: 50000", "-H", "Slipring-Write-Acks: 2", data=b"x")[0] == 204


def test_wrong_values_of_parameters_are_refused(cluster):
    node = cluster.nodes[0]
    for path in ("?count=0", "?count=1025", "?count=x", "?cursor=-1", "?count=1&count=2", "?key_encoding=hex"):
        status, body, _ = http(node, "GET", f"/v1/kv/default{path}")
        assert status == 400 and json.loads(body)["error"]["kind"] == "invalid", path
    for path in ("?count=1", "?count=1024", "?"):
        assert http(node, "GET", f"/v1/kv/default{path}")[0] == 200, path


def test_key_may_have_slashes_and_any_bytes(cluster):
    a, b, c = cluster.nodes
    http(a, "POST", "/v1/buckets", data=b'{"name": "odd"}')
    wait_until("every node knows the bucket", lambda: all(http(n, "GET", "/v1/buckets/odd")[0] == 200 for n in cluster.nodes))
    number = json.loads(http(a, "GET", "/v1/buckets/odd")[1])["number"]
    keys = [b"a/b", b"/", b"a//b/", b"\xff\x00\xfe", "ä/%".encode(), b"plain"]
    direct = redis.Redis(port=c.redis_port, db=number)
    for key in keys:
        path = "/v1/kv/odd/" + urllib.parse.quote(key, safe="/")
        assert http(a, "PUT", path, "--path-as-is", data=key)[0] == 204, key
        assert direct.get(key) == key
        in_base64 = base64.urlsafe_b64encode(key).decode()
        for text in (in_base64, in_base64.rstrip("=")):
            assert http(b, "GET", f"/v1/kv/odd/{text}?key_encoding=base64")[:2] == (200, key), key
        assert http(b, "GET", "/v1/kv/odd/" + urllib.parse.quote(key, safe=""))[:2] == (200, key)
    in_base64, others = listed(b, "odd", "&key_encoding=base64")
    assert {base64.urlsafe_b64decode(key + "==") for key in in_base64} == set(keys) and others == []
    texts, others = listed(b, "odd")
    assert [base64.urlsafe_b64decode(key + "==") for key in others] == [b"\xff\x00\xfe"]
    assert {key.encode() for key in texts} == set(keys) - {b"\xff\x00\xfe"}
    for key in others:
        assert http(c, "DELETE", f"/v1/kv/odd/{key}?key_encoding=base64")[0] == 204
    assert direct.get(b"\xff\x00\xfe") is None
    for path in ("/v1/kv/odd/%zz", "/v1/kv/odd/A?key_encoding=base64"):
        assert http(a, "GET", path)[0] == 400, path


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/", 404), ("GET", "/v1/nosuch", 404), ("GET", "/v1/kv/default/nosuch", 404), ("GET", "/v1/kv/nosuch/k", 404),
    ("GET", "/v1/kv/default/", 404), ("GET", "/v1/buckets/nosuch", 404), ("GET", "/v1/buckets/%ff", 400),
    ("POST", KEY + "k", 405), ("PUT", "/v1/cluster", 405), ("DELETE", "/healthz", 405), ("GET", "/v1/layout/plan", 405),
    ("POST", "/v1/buckets", 400), ("POST", "/v1/layout/plan", 400), ("PUT", "/v1/registry/a", 400),
    ("GET", "/slipring.v1.Kv/Get", 415), ("GET", KEY + "k" * 4097, 414),
])
def test_every_error_has_one_form(cluster, method, path, status):
    found, body, headers = http(cluster.nodes[0], method, path, data=b"{" if method in ("PUT", "POST") else None)
    assert (found, headers["content-type"]) == (status, "application/json"), body
    error = json.loads(body)["error"]
    assert error["kind"] in ("invalid", "not_found") and len(error["message"]) >= 20, error
    assert ("allow" in headers) == (status == 405)


def test_large_bodies_and_wrong_types_have_that_form_too(cluster):
    node = cluster.nodes[0]
    large = bytes(16 * 1024 * 1024 + 1)
    for path, data, sent in ((KEY + "k", large, "a/b"), ("/v1/registry/a", bytes(2000), "application/json")):
        status, body, _ = http(node, "PUT", path, "-H", f"Content-Type: {sent}", data=data)
        assert status == 413 and json.loads(body)["error"]["kind"] == "invalid", path
    status, body, _ = http(node, "POST", "/v1/buckets", "-H", "Content-Type: text/plain", data=b"{}")
    assert status == 415 and json.loads(body)["error"]["kind"] == "invalid"
