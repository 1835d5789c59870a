"""What clients wrote and read, key by key, and whether one register for each key could have answered so.

Each key has one writer, which never writes a value twice. An operation takes effect once, between its beginning and its
end; one whose outcome is unknown at any time after its beginning, or never. Reads may come from anybody.
"""

import math
import random
import threading
import time
from typing import NamedTuple

import redis

from conftest import answered

KEYS = 50
ALWAYS, NEVER = -math.inf, math.inf


class Write(NamedTuple):
    """No value is a deletion. What is refused had no effect."""

    value: str | None
    outcome: str
    began: float
    ended: float


class Read(NamedTuple):
    value: str | None
    began: float
    ended: float


class Zone(NamedTuple):
    """When the register had a value: all the time from the first end of an operation on it to the last beginning of one,
    if they are in this order; else at some time between the two."""

    value: str | None
    first_end: float
    last_begin: float

    @property
    def lasts(self):
        return self.first_end < self.last_begin

    def excludes(self, other):
        """Whether there is no time left for the other."""
        return self.lasts and self.first_end < other.last_begin and other.first_end < self.last_begin


def breach(writes, reads):
    """What no register could have answered, if there is anything.

    Source: Gibbons and Korach, "Testing Shared Memories" (1997), on registers whose every value is written once.
    """
    writes = [Write(None, "ok", ALWAYS, ALWAYS), *writes]
    effective = [write for write in writes if write.outcome != "refused"]
    for read in reads:
        sources = [write for write in effective if write.value == read.value and write.began < read.ended]
        if not sources:
            return f"{read} is of no write"
        if all(is_over(source, read, effective) for source in sources):
            return f"{read} is older than an acknowledged write"
    found = zones(effective, reads)
    lasting = [zone for zone in found if zone.lasts]
    pairs = ((zone, other) for zone in lasting for other in found if zone is not other)
    clash = next((pair for pair in pairs if pair[0].excludes(pair[1])), None)
    return f"{clash[0]} leaves no time for {clash[1]}" if clash else None


def is_over(source, read, writes):
    """Whether an acknowledged write came wholly between an acknowledged one and a read of it."""
    return any(w.outcome == "ok" and source.ended < w.began and w.ended < read.began for w in writes)


def zones(writes, reads):
    """One zone for each value that took effect, each deletion, and each read that found nothing."""
    read_of, found = {}, []
    for read in reads:
        read_of.setdefault(read.value, []).append(read)
    for write in writes:
        uses = [write, *(read_of.get(write.value, []) if write.value else [])]
        zone = Zone(write.value, min(use.ended for use in uses), max(use.began for use in uses))
        found += [zone] if zone.first_end < NEVER else []
    return found + [Zone(None, read.ended, read.began) for read in read_of.get(None, [])]


def test_a_register_explains_what_one_could_answer():
    writes = [Write("a", "ok", 0, 1), Write("b", "unknown", 2, NEVER), Write("c", "ok", 4, 6), Write(None, "ok", 8, 9)]
    assert breach(writes, []) is None
    assert breach(writes, [Read("a", 1, 2), Read("c", 6, 7), Read(None, 9, 10)]) is None
    assert breach(writes, [Read("a", 2, 3), Read("b", 3, 5), Read("c", 5, 7)]) is None
    # What is unknown may take effect after all that follows it, and a write before its acknowledgement.
    assert breach(writes, [Read("c", 4.5, 5), Read("c", 7, 7.5), Read(None, 9, 10), Read("b", 11, 12)]) is None
    assert breach(writes, [Read(None, -2, 0.5), Read("a", 0.5, 0.7), Read(None, 8.2, 8.4)]) is None


def test_the_history_finds_planted_breaches():
    writes = [Write("a", "ok", 0, 1), Write("b", "unknown", 2, NEVER), Write("c", "ok", 4, 6), Write(None, "ok", 8, 9),
              Write("d", "refused", 10, 11), Write("e", "ok", 12, 13)]
    for planted, reason in [
        ([Read("x", 1, 2)], "of no write"),
        ([Read("d", 11, 12)], "of no write"),
        ([Read("c", 1, 3)], "of no write"),
        ([Read("a", 7, 8)], "older than an acknowledged write"),
        ([Read(None, 2, 3)], "older than an acknowledged write"),
        ([Read(None, 14, 15)], "older than an acknowledged write"),
        ([Read("c", 10, 11)], "older than an acknowledged write"),
        ([Read("c", 4.1, 4.2), Read("a", 4.5, 4.8)], "leaves no time"),
        ([Read("b", 2, 3), Read("a", 3.1, 3.2), Read("b", 3.3, 3.4)], "leaves no time"),
        ([Read("b", 3, 4), Read("b", 14, 15)], "leaves no time"),
        ([Read(None, 8.1, 8.2), Read("c", 8.3, 8.4)], "leaves no time"),
    ]:
        assert reason in (breach(writes, planted) or "nothing"), planted


class Client(threading.Thread):
    """Asks one node after the other for one thing at a time, until it is told to stop."""

    def __init__(self, cluster, name, stop):
        super().__init__(daemon=True)
        self.cluster, self.name_, self.stop = cluster, name, stop
        self.random = random.Random(name)
        self.connection, self.turn = None, 0
        self.wrong = []

    def run(self):
        while not self.stop.is_set():
            self.turn += 1
            if self.connection is None or self.turn % 100 == 0:
                port = self.random.choice(self.cluster.nodes).redis_port
                self.connection = redis.Redis(port=port, decode_responses=True, socket_timeout=5, retry=None)
            self.once()

    def ask(self, *command):
        """The outcome, the answer, and when it began and ended."""
        began = time.monotonic()
        try:
            answer, outcome = self.connection.execute_command(*command), "ok"
        except redis.ResponseError as error:
            answer, outcome = None, "unknown" if str(error).startswith("UNKNOWN ") else "refused"
            self.wrong += [] if str(error).startswith(("UNKNOWN ", "NOREPLICAS ")) else [str(error)]
        except (redis.ConnectionError, redis.TimeoutError):
            answer, outcome, self.connection = None, "unknown", None
            self.stop.wait(0.02)
        return outcome, answer, began, NEVER if outcome == "unknown" else time.monotonic()


class Writer(Client):
    """Sets and deletes keys of its own, each in order, and adds to a counter that all share."""

    def __init__(self, cluster, name, stop):
        super().__init__(cluster, name, stop)
        self.writes, self.added, self.maybe_added = {f"{name}:{index}": [] for index in range(KEYS)}, 0, 0

    def once(self):
        if self.turn % 10 == 0:
            outcome = self.ask("INCR", "total")[0]
            self.added += outcome == "ok"
            self.maybe_added += outcome != "refused"
            return
        key, value = f"{self.name_}:{self.random.randrange(KEYS)}", f"{self.name_}={self.turn}"
        value = None if self.turn % 8 == 0 else value
        outcome, _, began, ended = self.ask("SET", key, value) if value else self.ask("DEL", key)
        self.writes[key].append(Write(value, outcome, began, ended))


class Reader(Client):
    """Reads the keys of all writers."""

    def __init__(self, cluster, name, stop, keys):
        super().__init__(cluster, name, stop)
        self.keys, self.reads = keys, []

    def once(self):
        key = self.random.choice(self.keys)
        outcome, value, began, ended = self.ask("GET", key)
        if outcome == "ok":
            self.reads.append((key, Read(value, began, ended)))


class History:
    """Writers and readers at work while its block runs; what they did is checked afterwards."""

    def __init__(self, cluster, writers=3, readers=2):
        self.cluster, self.stop = cluster, threading.Event()
        self.writers = [Writer(cluster, f"w{index}", self.stop) for index in range(writers)]
        self.keys = [key for writer in self.writers for key in writer.writes]
        self.readers = [Reader(cluster, f"r{index}", self.stop, self.keys) for index in range(readers)]

    def __enter__(self):
        for client in [*self.writers, *self.readers]:
            client.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for client in [*self.writers, *self.readers]:
            client.join()

    def acknowledged(self):
        """How many writes and reads were, until now."""
        writes = sum(write.outcome == "ok" for writer in self.writers for ws in writer.writes.values() for write in list(ws))
        return writes, sum(len(reader.reads) for reader in self.readers)

    def check(self):
        """Reads everything once more on every node; each key is a register, and each addition was counted once."""
        reads = {key: [] for key in self.keys}
        for key, read in [found for reader in self.readers for found in reader.reads]:
            reads[key].append(read)
        added = [sum(w.added for w in self.writers), sum(w.maybe_added for w in self.writers)]
        for node in self.cluster.nodes:
            client = redis.Redis(port=node.redis_port, decode_responses=True)
            began = time.monotonic()
            for key, value in zip(self.keys, answered(lambda: client.mget(self.keys))):
                reads[key].append(Read(value, began, time.monotonic()))
            total = int(answered(lambda: client.get("total")) or 0)
            assert added[0] <= total <= added[1], f"{total} additions on node {node.index}"
        writes = {key: ws for writer in self.writers for key, ws in writer.writes.items()}
        found = {key: breach(writes[key], reads[key]) for key in self.keys}
        assert not any(found.values()), {key: what for key, what in found.items() if what}
        wrong = [error for client in [*self.writers, *self.readers] for error in client.wrong]
        assert wrong == []
