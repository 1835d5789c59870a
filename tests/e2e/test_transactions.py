"""Transactions on the Redis port: what MULTI queues runs at EXEC and once, and an error in the queue leaves nothing behind."""

import json
import shutil
import subprocess

import pytest
import redis

from conftest import Cluster
from test_limits import ask, connect, line, metric

CONVERSATIONS = [
    "MULTI|SET a 1|INCR a|GET a|EXEC|GET a",
    "MULTI|INCRBY a 5|nosuch a|INCRBY b 5|EXEC|GET a|GET b|EXEC",
    "MULTI|INCR a|GET|INCR b|EXEC|GET a|GET b",
    "MULTI|INCR a|MULTI|WATCH a|INCR b|EXEC|GET b",
    "MULTI|INCR a|WATCH|EXEC|GET a",
    "MULTI|INCR a|DISCARD|GET a|DISCARD|EXEC",
    "MULTI|INCR a|DISCARD x|DISCARD|GET a",
    "MULTI|INCR a|RESET|EXEC|GET a",
    "MULTI|INCR a|SHUTDOWN NOSAVE|EXEC|GET a",
    "SET a text|MULTI|GET a|INCR a|SET a 7|GET a|EXEC",
    "MULTI|EXEC",
    "MULTI x|EXEC|MULTI|INCR a|EXEC x|EXEC|GET a",
    "MULTI|SELECT 999|PING|ECHO there|UNWATCH|TTL a|SET a b EX nosuch|EXEC",
    "MULTI|MSET a 1 b 2|MGET a b c|DEL a b|EXISTS a|EXEC",
    "UNWATCH|MULTI|INCR a|QUIT",
]
JAVASCRIPT = """
const Redis = require("ioredis");
const client = new Redis(Number(process.argv[2]));
(async () => {
  const replies = await client.multi().set("js", "1").incr("js").get("js").exec();
  const broken = await client.multi().incr("js").call("nosuch").exec().catch((error) => error.message);
  console.log(JSON.stringify({ replies, broken, value: await client.get("js") }));
  client.disconnect();
})();
"""


@pytest.fixture(scope="module", params=[1, 3], ids=["alone", "three"])
def node(request):
    """A node that answers alone, and one that waits for others."""
    cluster = Cluster(request.param, ("--request-timeout-ms", "30000"))
    yield cluster.nodes[-1]
    cluster.close()


def whole(connection, *words):
    """One reply with all that is in it."""
    def read(first):
        if first[:1] == b"*":
            return [read(reply(connection)) for _ in range(int(first[1:]))]
        return first
    return read(first_of(ask(connection, *words), connection))


def reply(connection):
    return first_of(line(connection), connection)


def first_of(head, connection):
    if head[:1] != b"$" or head == b"$-1\r\n":
        return head
    wanted, body = int(head[1:]) + 2, b""
    while len(body) < wanted:
        body += connection.recv(wanted - len(body))
    return head + body


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_replies_are_those_of_redis(node, real_redis, conversation):
    told = []
    for address in (node.redis, f"127.0.0.1:{real_redis}"):
        with connect(address) as connection:
            ask(connection, "DEL", "a", "b")
            told.append([(command, whole(connection, *command.split())) for command in conversation.split("|")])
    assert told[0] == told[1]


def test_refused_watch_leaves_the_transaction_without_effect(node):
    with connect(node.redis) as connection:
        ask(connection, "DEL", "a")
        assert b"quorum bucket" in ask(connection, "WATCH", "a")
        assert ask(connection, "GET", "a") == b"$-1\r\n"
        assert ask(connection, "MULTI").startswith(b"-ERR MULTI")
        assert ask(connection, "INCR", "a").startswith(b"-ERR nothing was done")
        assert ask(connection, "EXEC").startswith(b"-EXECABORT")
        assert ask(connection, "GET", "a") == b"$-1\r\n"
        for end in ("UNWATCH", "DISCARD", "RESET"):
            ask(connection, "WATCH", "a")
            ask(connection, end)
            assert (ask(connection, "MULTI"), ask(connection, "DISCARD")) == (b"+OK\r\n", b"+OK\r\n")


def test_closed_connection_takes_its_queue_along(node):
    client = redis.Redis(port=node.redis_port)
    client.delete("a")
    with connect(node.redis) as connection:
        assert ask(connection, "MULTI") == b"+OK\r\n"
        assert ask(connection, "INCR", "a") == b"+QUEUED\r\n"
    assert client.get("a") is None


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_runs_its_pipelines_once(node, protocol):
    client = redis.Redis(port=node.redis_port, protocol=protocol, decode_responses=True)
    client.delete("total", "text")
    before = metric(node, "redis_transactions")
    for _ in range(5):
        client.pipeline(transaction=True).incrby("total", 100).set("text", "x").execute()
    assert client.get("total") == "500"
    replies = client.pipeline(transaction=True).incr("text").incr("total").execute(raise_on_error=False)
    assert isinstance(replies[0], redis.ResponseError) and replies[1] == 501
    assert metric(node, "redis_transactions") == before + 6
    with pytest.raises(redis.ResponseError, match="unknown command"):
        client.pipeline(transaction=True).incr("total").execute_command("NOSUCH").execute()
    with client.pipeline() as pipe, pytest.raises(redis.ResponseError, match="quorum bucket"):
        pipe.watch("total")
    assert client.get("total") == "501"


def test_large_transaction_answers_every_command(node):
    client = redis.Redis(port=node.redis_port)
    pipe = client.pipeline(transaction=True)
    for index in range(3000):
        pipe.set(f"large:{index % 40}", bytes(1000)).get(f"large:{index % 40}")
    replies = pipe.execute()
    assert replies == [True, bytes(1000)] * 3000


def test_transaction_beyond_its_memory_has_no_effect(node):
    value = bytes(8 * 1024 * 1024)
    with connect(node.redis) as connection:
        ask(connection, "DEL", "first")
        assert ask(connection, "MULTI") == b"+OK\r\n"
        assert ask(connection, "SET", "first", value) == b"+QUEUED\r\n"
        replies = [ask(connection, "SET", "large", value) for _ in range(7)]
        assert [reply[:11] for reply in replies] == [b"+QUEUED\r\n"] * 6 + [b"-OVERLOADED"]
        assert ask(connection, "EXEC").startswith(b"-EXECABORT")
        assert ask(connection, "GET", "first") == b"$-1\r\n"


@pytest.fixture(scope="module")
def ioredis(tmp_path_factory):
    if not shutil.which("npm"):
        pytest.skip("npm is not here")
    folder = tmp_path_factory.mktemp("ioredis")
    subprocess.run(["npm", "install", "--silent", "--no-fund", "ioredis@5"], cwd=folder, check=True, timeout=120)
    (folder / "transaction.js").write_text(JAVASCRIPT)
    return folder / "transaction.js"


def test_ioredis_runs_its_transactions(node, ioredis):
    done = subprocess.run(["node", ioredis, str(node.redis_port)], capture_output=True, text=True, timeout=60)
    told = json.loads(done.stdout)
    assert told["replies"] == [[None, "OK"], [None, 2], [None, "2"]]
    assert "EXECABORT" in told["broken"] and told["value"] == "2"
