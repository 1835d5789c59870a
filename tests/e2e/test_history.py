"""What clients wrote and read, key by key, and whether one register for each key could have answered so.

Each key has one writer, which never writes a value twice. An operation takes effect once, between its beginning and its
end; one whose outcome is unknown at any time after its beginning, or never. Reads may come from anybody.
"""

import functools
import math
import random
import threading
import time
from bisect import bisect_left
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
    """What no register could have answered, if there is anything. The writes are in order, as of one writer.

    Source: Gibbons and Korach, "Testing Shared Memories" (1997), on registers whose every value is written once.
    """
    effective = [write for write in (Write(None, "ok", ALWAYS, ALWAYS), *writes) if write.outcome != "refused"]
    acknowledged = [write for write in effective if write.outcome == "ok"]
    writes_of = {}
    for write in effective:
        writes_of.setdefault(write.value, []).append(write)
    uses, ambiguous = {write: [write] for write in effective}, []
    for read in reads:
        sources = [write for write in writes_of.get(read.value, []) if write.began < read.ended]
        if not sources:
            return f"{read} is of no write"
        last = acknowledged[bisect_left(acknowledged, read.began, key=lambda write: write.ended) - 1]
        sources = [source for source in sources if source.ended >= last.began]
        if not sources:
            return f"{read} is older than {last}, which was acknowledged"
        # Any of several deletions may be what it found nothing of.
        (uses[sources[0]] if len(sources) == 1 else ambiguous).append(read)
    found = [zone(operations) for operations in (*uses.values(), *([read] for read in ambiguous))]
    lasting = sorted((one for one in found if one.lasts), key=lambda one: one.first_end)
    return next(filter(None, (clash(lasting, one) for one in found)), None)


def zone(operations):
    """That of all operations on one value. Where none of them ended there may never have been one: then it is in nobody's way."""
    return Zone(operations[0].value, min(one.ended for one in operations), max(one.began for one in operations))


def clash(lasting, one):
    """What leaves no time for a zone: the last of the lasting ones that begin before it ends, if these do not overlap; of
    those that do, all but the last find another that begins before they end."""
    before = lasting[:bisect_left(lasting, one.last_begin, key=lambda other: other.first_end)]
    is_clash = before and before[-1] is not one and before[-1].excludes(one)
    return f"{before[-1]} leaves no time for {one}" if is_clash else None


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
        ([Read("a", 7, 8)], "is older than"),
        ([Read(None, 2, 3)], "is older than"),
        ([Read(None, 14, 15)], "is older than"),
        ([Read("c", 10, 11)], "is older than"),
        ([Read("c", 4.1, 4.2), Read("a", 4.5, 4.8)], "leaves no time"),
        ([Read("b", 2, 3), Read("a", 3.1, 3.2), Read("b", 3.3, 3.4)], "leaves no time"),
        ([Read("b", 3, 4), Read("b", 14, 15)], "leaves no time"),
        ([Read(None, 8.1, 8.2), Read("c", 8.3, 8.4)], "leaves no time"),
        ([Read("b", 2, 3), Read(None, 3.5, 4)], "is older than"),
    ]:
        assert reason in (breach(writes, planted) or "nothing"), planted


def is_explained(writes, reads):
    """Whether any order of all operations explains them, by trying each."""
    steps = [write for write in writes if write.outcome != "refused"] + list(reads)

    @functools.cache
    def can_go_on(done, value):
        left = [(index, step) for index, step in enumerate(steps) if index not in done]
        # What ended before another began comes before it; what is unknown need never come.
        first_end = min((step.ended for _, step in left), default=NEVER)
        if first_end == NEVER:
            return True
        able = [(index, step) for index, step in left if step.began < first_end]
        return any(
            can_go_on(done | {index}, step.value)
            for index, step in able
            if isinstance(step, Write) or step.value == value
        )

    return can_go_on(frozenset(), None)


def drawn(chance):
    """A few writes and reads at random, which may or may not be those of a register."""
    writes, reads, now = [], [], 0
    for index in range(chance.randint(1, 4)):
        began = now + chance.random()
        ended = began + chance.random()
        now = ended + chance.random() / 5
        outcome = chance.choices(("ok", "unknown", "refused"), (7, 2, 1))[0]
        value = chance.choice((None, *4 * [f"v{index}"]))
        writes.append(Write(value, outcome, began, NEVER if outcome == "unknown" else ended))
    for _ in range(chance.randint(0, 4)):
        began = chance.uniform(0, now + 1)
        reads.append(Read(chance.choice((None, *(write.value for write in writes))), began, began + chance.random()))
    return writes, reads


def test_it_finds_what_an_exhaustive_search_finds():
    chance, explained = random.Random(1), 0
    for _ in range(2_000):
        writes, reads = drawn(chance)
        is_fine = breach(writes, reads) is None
        assert is_fine == is_explained(writes, reads), (writes, reads)
        explained += is_fine
    assert 500 < explained < 1_500


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
