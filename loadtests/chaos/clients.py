"""Clients: requests at a given rate through all gateways, each once, each recorded with when it began and ended and what it
was told. They never try again by themselves; what is tried again on purpose, later and with the same key, is recorded apart."""

import asyncio
import base64
import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass

from chaos import wire
from chaos.cluster import Stuck
from chaos.histories import FAILED, MISMATCH, OK, REFUSED, REJECTED, UNKNOWN, UNSENT, Operation

DEADLINE_SECONDS = 5
# Past its deadline a request gets a little time for its answer to arrive, before the client hangs up.
PATIENCE_SECONDS = 2
# A marker makes an effect known: of counters it is the number added; of accounts the low digits of the amount.
MARKERS_MAX = 1 << 24
IN_FLIGHT_MAX = 3000


@dataclass
class Mix:
    """What the clients do."""

    rate: float = 300  # requests per second, all together
    entities: int = 60  # of each kind; more are made until every shard has some
    reads: float = 0.3  # the share of reads
    strict: float = 0.3  # of the reads
    hot: float = 0.15  # the share of requests that go to one entity of each kind
    conditional: float = 0.1  # the share of writes with If-Match
    keyed: float = 0.8  # the share of writes with a key of the client's; the gateway makes the others
    documents: int = 0  # documents among the entities, to give the log bytes
    document_bytes: int = 0
    sessions: int = 0  # clients that hand on session tokens
    in_session: float = 0.0  # the share of requests that are theirs; their reads are of the session's consistency
    stale: float = 0.0  # the share of all other reads that any replica may answer


class Session:
    """A client that sends with each request the token of an answer before. Requests overlap, so what it has seen goes with the token
    that has seen it."""

    def __init__(self):
        self.token, self.seen = None, {}

    def note(self, operation, seen, token):
        """An answer's token has seen what the request's token had, and this."""
        version = max(seen.get(operation.entity, 0), operation.version)
        self.token, self.seen = token, {**seen, operation.entity: version}


class Load:
    """Everything that clients did in one run, and what they know of it."""

    def __init__(self, cluster, mix, name, seed, gateways=None):
        self.cluster, self.mix, self.name = cluster, mix, name
        self.chance = random.Random(f"{seed}-{name}")
        self.pools = [wire.Pool(*gateway.public) for gateway in gateways or cluster.gateways]
        self.other_pools = []
        self.operations, self.retries = [], []
        self.sessions = [Session() for _ in range(mix.sessions)]
        self.entities, self.hot = [], []
        self.known = defaultdict(int)  # entity → highest version that was seen
        self.shards = {}  # entity → shard
        self.markers, self.keys = 0, 0
        self.under_way, self.held_back, self.lag = set(), 0, 0.0
        self.pump = None
        # When the stream of requests began and ended, and how many requests there were before and then.
        self.started = self.stopped = 0.0
        self.begun_before = self.begun = 0

    # ---- Before the load

    async def prepare(self, seconds=30):
        """Makes entities until every shard has a counter; everything that is done for it is recorded like all else."""
        self.add_entities("counter", self.mix.entities)
        self.add_entities("account", self.mix.entities)
        self.add_entities("document", self.mix.documents)
        self.hot = [("counter", f"{self.name}-hot"), ("account", f"{self.name}-hot")]
        fresh, deadline = [*self.entities, *self.hot], time.monotonic() + seconds
        while True:
            await self.in_parallel([lambda e=entity: self.begin(e) for entity in fresh])
            missing = set(range(self.cluster.shape.shards)) - set(self.counters_of())
            if not missing:
                return
            self.cluster.check_alive()
            if time.monotonic() > deadline:
                raise Stuck(f"no counter of shards {sorted(missing)[:10]} could be written in {seconds} s")
            fresh = self.add_entities("counter", 2 * len(missing))

    def add_entities(self, kind, count):
        fresh = [(kind, f"{self.name}-{len(self.entities) + number}") for number in range(count)]
        self.entities += fresh
        return fresh

    def counters_of(self, shards=None):
        """Shard → one counter of it."""
        found = {shard: entity for entity, shard in self.shards.items() if entity[0] == "counter"}
        return found if shards is None else {shard: found[shard] for shard in shards}

    async def begin(self, entity):
        command = {"counter": "add", "account": "open", "document": "put"}[entity[0]]
        await self.run(self.write_of(entity, command))

    async def in_parallel(self, calls, most=32):
        calls = list(reversed(calls))

        async def work():
            while calls:
                await calls.pop()()

        await asyncio.gather(*(work() for _ in range(min(most, len(calls)))))

    # ---- The load

    def start(self):
        self.started, self.begun_before = time.monotonic(), len(self.operations)
        self.pump = asyncio.create_task(self.keep_going())

    async def stop(self):
        """Ends the stream of requests and waits for the answers of those under way."""
        if self.pump is not None:
            self.stopped, self.begun = time.monotonic(), len(self.operations)
            self.pump.cancel()
            await asyncio.gather(self.pump, return_exceptions=True)
            self.pump = None
        while self.under_way:
            await asyncio.wait(self.under_way)

    def rate(self):
        """Requests per second that began while the stream lasted; 0 before it has ended."""
        lasted = self.stopped - self.started
        return (self.begun - self.begun_before) / lasted if lasted > 0 else 0.0

    async def keep_going(self):
        """Requests begin when it is their turn, however long earlier ones take, so that an outage meets as many requests as
        the time before it."""
        turn = time.monotonic()
        while True:
            turn += self.chance.expovariate(self.mix.rate)
            if (pause := turn - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            self.lag = max(self.lag, time.monotonic() - turn)
            if len(self.under_way) >= IN_FLIGHT_MAX:
                self.held_back += 1
                continue
            self.launch(self.next_operation())

    def launch(self, operation, pool=None):
        task = asyncio.create_task(self.run(operation, pool))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return task

    def next_operation(self):
        chance, mix = self.chance, self.mix
        operation = self.any_operation()
        if self.sessions and chance.random() < mix.in_session:
            operation.session = chance.choice(self.sessions)
            if operation.command is None:
                operation.consistency = "session"
        elif operation.command is None and chance.random() < mix.stale:
            operation.consistency = "stale"
        return operation

    def any_operation(self):
        chance, mix = self.chance, self.mix
        entity = chance.choice(self.hot if chance.random() < mix.hot else self.entities)
        if chance.random() < mix.reads:
            return self.read_of(entity)
        if entity[0] == "account":
            operation = self.write_of(entity, chance.choice(("deposit", "withdraw")))
        else:
            operation = self.write_of(entity, "add" if entity[0] == "counter" else "put")
        if chance.random() < mix.conditional:
            # Sometimes the version of a moment ago, which may have passed, so that there are refusals to check.
            operation.expected = max(1, self.known[entity] - (chance.random() < 0.3))
        return operation

    def read_of(self, entity, consistency=None):
        strict = self.chance.random() < self.mix.strict
        consistency = consistency or ("strict" if strict else "linearizable")
        return Operation(entity, consistency=consistency, gateway=self.some_gateway())

    def write_of(self, entity, command):
        self.markers += 1
        marker = self.markers
        if command == "open":
            marker = "opened"
        elif command in ("deposit", "withdraw"):
            # Withdrawals are higher, so that some are turned down.
            marker += MARKERS_MAX * self.chance.randrange(1, 8 if command == "deposit" else 14)
        key = None
        if self.chance.random() < self.mix.keyed:
            self.keys += 1
            key = f"{self.name}-{self.keys}"
        return Operation(entity, command, marker, key, gateway=self.some_gateway())

    def some_gateway(self):
        return self.chance.randrange(len(self.pools))

    async def run(self, operation, pool=None):
        """Sends one request and notes what came of it."""
        pool = pool or self.pools[operation.gateway]
        self.operations.append(operation)
        await self.send(operation, pool)
        if operation.version is not None and operation.outcome in (OK, MISMATCH):
            self.known[operation.entity] = max(self.known[operation.entity], operation.version)
        if operation.shard is not None:
            self.shards.setdefault(operation.entity, operation.shard)
        return operation

    async def send(self, operation, pool, patience=DEADLINE_SECONDS + PATIENCE_SECONDS):
        method, path, body, headers = self.request_of(operation)
        seen = {}
        if operation.session is not None and operation.session.token is not None:
            seen = operation.session.seen
            headers.append(("Berth-Session", operation.session.token))
            operation.seen = seen.get(operation.entity, 0)
        operation.invoked = time.monotonic()
        try:
            answer = await pool.request(method, path, body, headers, timeout=patience)
        except wire.NotSent as error:
            operation.outcome, operation.detail = UNSENT, str(error)
        except wire.NotAnswered as error:
            # Its end is not known: a write may take effect at any later time.
            operation.outcome, operation.detail = UNKNOWN, str(error)
            return
        else:
            operation.completed = time.monotonic()
            note(operation, answer)
            token = answer.headers.get("berth-session")
            if operation.session is not None and token and operation.outcome == OK:
                operation.session.note(operation, seen, token)
            return
        operation.completed = time.monotonic()

    def request_of(self, operation):
        path = wire.entity_path(operation.entity)
        headers = [("Prefer", f"wait={DEADLINE_SECONDS}")]
        if operation.command is None:
            suffix = "" if operation.consistency == "linearizable" else f"?consistency={operation.consistency}"
            return "GET", path + suffix, None, headers
        if operation.key is not None:
            headers.append(("Idempotency-Key", operation.key))
        if operation.expected is not None:
            headers.append(("If-Match", f'"{operation.expected}"'))
        body = {}
        if operation.command == "add":
            body = {"by": operation.marker}
        elif operation.command in ("deposit", "withdraw"):
            body = {"amountCents": operation.marker}
        elif operation.command == "put":
            body = {"value": {"marker": operation.marker, "pad": "x" * self.mix.document_bytes}}
        return "POST", f"{path}/{operation.command}", body, headers

    # ---- After the load

    async def retry_some(self, most=400):
        """Sends some requests again with their keys, through another gateway than the first time: half of those whose
        outcome is unknown, so that the others stay a test of at most once, and some of those that had an answer."""
        share = {UNKNOWN: 0.5, OK: 0.1, REJECTED: 0.3, MISMATCH: 0.3}
        picked = [o for o in self.operations if o.key is not None and self.chance.random() < share.get(o.outcome, 0)]
        picked.sort(key=lambda operation: operation.outcome != UNKNOWN)
        picked = picked[:most]
        await self.in_parallel([lambda o=operation: self.retry(o) for operation in picked])

    async def retry(self, first):
        again = Operation(first.entity, first.command, first.marker, first.key, first.expected)
        again.gateway = (first.gateway + 1) % len(self.pools)
        await self.send(again, self.pools[again.gateway])
        self.retries.append((first, again))

    async def read_all(self):
        """One read of every entity, recorded like all others: it must see everything that came before it. What is not
        answered is asked again, a few times."""
        waiting = sorted({*self.entities, *self.hot})
        for _ in range(4):
            calls = [self.read_of(entity, "linearizable") for entity in waiting]
            await self.in_parallel([lambda o=operation: self.run(o) for operation in calls])
            silent = [operation for operation in calls if operation.outcome not in (OK, FAILED)]
            if not silent:
                return
            waiting = [operation.entity for operation in silent]
        raise Stuck(f"{len(silent)} entities cannot be read, such as: {silent[0]}")

    async def logs(self):
        """Entity → all events."""
        found = {}

        async def fetch(entity):
            found[entity] = await fetch_log(self.pools[self.some_gateway()], entity)

        await self.in_parallel([lambda e=entity: fetch(e) for entity in {*self.entities, *self.hot}])
        return found

    def pool_of(self, gateway):
        """Connections to a gateway that the stream of requests does not use."""
        self.other_pools.append(wire.Pool(*gateway.public))
        return self.other_pools[-1]

    def close(self):
        for pool in [*self.pools, *self.other_pools]:
            pool.close()


def note(operation, answer):
    """What an answer says, into the operation."""
    operation.status = status = answer.status
    try:
        document = answer.document() or {}
    except ValueError:
        operation.outcome, operation.detail = FAILED, f"no JSON: {answer.raw[:200]!r}"
        return
    code = document.get("code")
    operation.detail = " ".join(str(part) for part in (code, document.get("reason"), document.get("detail")) if part)
    operation.replayed = answer.headers.get("idempotency-replayed") == "true"
    token = answer.headers.get("berth-session")
    if token:
        operation.cluster, operation.shard = read_token(token)
    if status == 200:
        operation.outcome, operation.version = OK, document.get("version")
        operation.state, operation.has_state = document.get("state"), "state" in document
        if not isinstance(operation.version, int):
            operation.outcome, operation.detail = FAILED, "no version"
    elif status == 404 and operation.command is None and code == "not-found":
        operation.outcome, operation.version = OK, 0
    elif status == 412 and operation.command and isinstance(document.get("currentVersion"), int):
        operation.outcome, operation.version = MISMATCH, document["currentVersion"]
    elif status == 422 and operation.command and code == "rejected":
        operation.outcome = REJECTED
    elif (status, code) in ((503, "unavailable"), (429, "overloaded"), (409, "in-progress")):
        operation.outcome = REFUSED
    elif (status, code) == (504, "unknown-outcome"):
        operation.outcome = UNKNOWN
    else:
        operation.outcome = FAILED
    if operation.outcome == UNKNOWN and operation.command is None:
        # A read has no effect of which the outcome could be unknown.
        operation.outcome, operation.detail = FAILED, f"a read was answered with {status} {operation.detail}"


def read_token(token):
    """Cluster id and shard of an answer's session token, whose layout `shared/src/session.rs` documents."""
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    count = raw[22]
    shard = int.from_bytes(raw[23:25], "little") if count == 1 else None
    return f"{int.from_bytes(raw[5:21], 'little'):032x}", shard


async def fetch_log(pool, entity, seconds=30):
    """All events of an entity, asked for again while nobody can answer; Stuck when that lasts."""
    events, after, deadline = [], 0, time.monotonic() + seconds
    while True:
        path = f"{wire.entity_path(entity)}/events?after={after}&limit=1000"
        try:
            answer = await pool.request("GET", path, timeout=10)
            status, text = answer.status, answer.raw[:200]
        except OSError as error:
            status, text = 0, repr(error)
        if status == 200:
            page = json.loads(answer.raw)
            events += page["events"]
            if page.get("next") is None:
                return events
            after = page["next"]
        elif status == 404 and b"not-found" in text:
            return events
        elif status in (0, 429, 503, 504) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        else:
            raise Stuck(f"GET {path}: {status} {text!r}")
