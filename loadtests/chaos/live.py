"""Thousands of live histories on one gateway (`live`): while an owner is killed, comes back, and shards are handed over, each
reader gets each event of its entity once and in order, as the log has it. Some readers hang up and come back for the rest."""

import asyncio
import datetime
import json
import os
import resource
import time

from chaos import wire
from chaos.cluster import Stuck
from chaos.elastic import LOAD_COLUMNS, conclude, elastic_trial
from chaos.failover import kill_owner
from chaos.trial import COUNTS, Report, counts, percentile

# Places of the gateway beside those of the readers: who hangs up and comes back at once may find its former one still taken.
SPARE_PLACES = 64
OPEN_AT_ONCE = 100
OPEN_SECONDS_MAX = 60
# Until the last event has reached every reader.
ARRIVE_SECONDS_MAX = 30
# A comment comes at most every 15 s; what is above is the harness's.
SILENCE_SECONDS_MAX = 17
# The share of readers that hang up, and how long they read before.
LEAVING_SHARE, LEAVING_SECONDS = 0.1, (1, 8)
RETURN_SECONDS = 0.2
CALM_SECONDS = 5


class Follower:
    """What one reader got, over all its streams. Pure."""

    def __init__(self, entity):
        self.entity, self.last, self.content = entity, 0, 0
        self.flaws = []

    def take(self, message):
        """One message of an event stream. Gives the event, or None where it is a comment or a hint."""
        fields = dict(line.split(": ", 1) for line in message.split("\n") if line and line[0] != ":")
        if "data" not in fields:
            return None
        event = json.loads(fields["data"])
        version = int(fields["id"])
        if version <= self.last:
            self.flaws.append(("twice", f"{self.entity}: version {version} came after {self.last}"))
        elif version > self.last + 1:
            self.flaws.append(("gap", f"{self.entity}: version {version} came after {self.last}"))
        if event.get("id") != fields["id"] or event.get("specversion") != "1.0":
            self.flaws.append(("answer", f"{self.entity}: no CloudEvent of that id: {message[:200]}"))
        self.last, self.content = version, added(self.content, event)
        return event

    def check(self, log):
        """What is wrong in the end, with all events of the entity known."""
        content = 0
        for event in log:
            content = added(content, event)
        if self.last < len(log):
            self.flaws.append(("missing", f"{self.entity}: the last that came is {self.last}, of {len(log)}"))
        elif not self.flaws and self.content != content:
            self.flaws.append(("altered", f"{self.entity}: what came is not what the log has"))
        return self.flaws


def added(content, event):
    """The fingerprint of a history with one more event; the same for a CloudEvent and for an event of a page."""
    return hash((content, event["type"], event["time"], json.dumps(event["data"], sort_keys=True)))


class Messages:
    """Takes an HTTP/1.1 answer with a chunked event stream apart. Pure."""

    def __init__(self):
        self.raw, self.text, self.status, self.is_over = bytearray(), bytearray(), None, False

    def feed(self, data):
        """The messages that are whole now."""
        self.raw += data
        if self.status is None:
            head, end, rest = self.raw.partition(b"\r\n\r\n")
            if not end:
                return []
            self.status, self.raw = int(head.split(b" ", 2)[1]), bytearray(rest)
            if self.status != 200:
                return []
        while not self.is_over:
            size, end, rest = self.raw.partition(b"\r\n")
            if not end or len(rest) < (length := int(size, 16)) + 2:
                break
            self.text += rest[:length]
            self.raw, self.is_over = bytearray(rest[length + 2 :]), length == 0
        *whole, self.text = self.text.split(b"\n\n")
        return [message.decode() for message in whole]


class Stream(asyncio.Protocol):
    """One connection of a reader."""

    def __init__(self, readers, follower):
        self.readers, self.follower, self.messages = readers, follower, Messages()
        self.transport, self.is_left, self.heard = None, False, time.monotonic()
        self.began = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        host, port = self.readers.gateway.public
        lines = [f"GET {wire.entity_path(self.follower.entity)}/events HTTP/1.1", f"Host: {host}:{port}"]
        lines += ["Accept: text/event-stream", f"Last-Event-ID: {self.follower.last}"]
        transport.write("\r\n".join(lines).encode() + b"\r\n\r\n")

    def data_received(self, data):
        now = time.monotonic()
        self.readers.silence = max(self.readers.silence, now - self.heard)
        self.heard = now
        messages = self.messages.feed(data)
        if self.messages.status is not None and not self.began.done():
            self.began.set_result(self.messages.status)
        for message in messages:
            event = self.follower.take(message)
            if event is not None:
                self.readers.arrived(event)

    def connection_lost(self, _):
        if not self.began.done():
            self.began.set_result(0)
        elif not self.is_left and self.messages.status == 200:
            self.readers.ends += 1
            self.readers.resume(self)

    def leave(self):
        self.is_left = True
        self.transport.abort()


class Readers:
    """All readers, on one gateway."""

    def __init__(self, trial, gateway, entities, count):
        self.trial, self.gateway = trial, gateway
        self.followers = [Follower(entities[number % len(entities)]) for number in range(count)]
        self.streams, self.tasks = {}, set()
        self.events, self.ends, self.returns, self.silence = 0, 0, 0, 0.0
        self.delays, self.is_calm = [], False

    async def open(self, follower):
        """A stream of this reader from where it was; the status that it was answered with, 0 for none."""
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(lambda: Stream(self, follower), *self.gateway.public)
        status = await asyncio.wait_for(stream.began, OPEN_SECONDS_MAX)
        if status == 200:
            self.streams[follower] = stream
        else:
            stream.leave()
        return status

    async def open_all(self):
        """Seconds until every reader has its stream."""
        begin, waiting = time.monotonic(), list(self.followers)

        async def work():
            while waiting:
                if (status := await self.open(waiting.pop())) != 200:
                    raise Stuck(f"a live history was answered with {status}")

        await asyncio.gather(*(work() for _ in range(OPEN_AT_ONCE)))
        return time.monotonic() - begin

    def arrived(self, event):
        self.events += 1
        if self.is_calm:
            written = datetime.datetime.fromisoformat(event["time"]).timestamp()
            self.delays.append(1000 * (time.time() - written))

    def resume(self, stream):
        self.launch(self.come_back(stream.follower))

    def launch(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.trial.add("harness", f"a reader came back no more: {task.exception()!r}")

    async def come_back(self, follower):
        while await self.open(follower) != 200:
            await asyncio.sleep(RETURN_SECONDS)
        self.returns += 1

    async def keep_leaving(self, follower, chance):
        while True:
            await asyncio.sleep(chance.uniform(*LEAVING_SECONDS))
            self.streams[follower].leave()
            await self.come_back(follower)

    async def until_arrived(self, logs):
        """Waits until every reader has all events, or no longer."""
        deadline = time.monotonic() + ARRIVE_SECONDS_MAX
        while time.monotonic() < deadline and any(one.last < len(logs[one.entity]) for one in self.followers):
            await asyncio.sleep(0.05)

    def close(self):
        for task in self.tasks:
            task.cancel()
        for stream in self.streams.values():
            stream.leave()


async def live(options, network):
    columns = [("try", 3), ("streams", 7), ("open s", 6), ("KiB each", 8), ("events", 7), ("returns", 7), ("ends", 4)]
    columns += [("p50 ms", 6), ("p99 ms", 6), ("max ms", 6), ("silent s", 8)]
    report = Report(options, [*columns, *LOAD_COLUMNS, *COUNTS, ("violations", 10)])
    # A connection is a file, here and in the gateway, which inherits this.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    places = {"BERTH_STREAMS_MAX": str(options.streams + SPARE_PLACES)}
    async with elastic_trial(options, network, "live", gateway_settings=places) as trial, trial:
        for number in range(1, options.repeat + 1):
            await one_try(options, report, trial, f"try-{number}")
            if report.is_over():
                break
        await trial.verify_again()
    return conclude(options, report, trial)


async def one_try(options, report, trial, name):
    load = await trial.new_load(name)
    gateway = trial.cluster.gateways[0]
    readers = Readers(trial, gateway, [*load.entities, *load.hot], options.streams)
    cells, before = trial.new_row(streams=options.streams), resident_kib(gateway)
    try:
        cells["open s"] = await readers.open_all()
        cells["KiB each"] = (resident_kib(gateway) - before) / options.streams
        await check_places(trial, readers, options.streams)
        await fail_and_move(options, trial, load, readers)
        await load.stop()
        logs = await load.logs()
        await readers.until_arrived(logs)
        for follower in readers.followers:
            for check, text in follower.check(logs[follower.entity]):
                trial.add(check, text)
    finally:
        readers.close()
    if readers.ends:
        trial.add("answer", f"{readers.ends} streams were ended, and the gateway was not")
    if readers.silence > SILENCE_SECONDS_MAX:
        trial.add("answer", f"a stream said nothing for {readers.silence:.1f} s")
    if not readers.returns or not readers.delays:
        trial.add("harness", "nobody came back, or nothing arrived: nothing was tested")
    await trial.cluster.until("the gateway has forgotten its readers", lambda: has_no_streams(gateway), 10)
    cells |= {"events": readers.events, "returns": readers.returns, "ends": readers.ends, "silent s": readers.silence}
    cells |= {f"p{percent} ms": percentile(readers.delays, percent) for percent in (50, 99) if readers.delays}
    cells["max ms"] = max(readers.delays, default="")
    report.sample("write to arrival, while nothing fails", readers.delays, "ms")
    cells["not ok"] = len(trial.failed(load))
    cells |= trial.load_cells(load) | counts(await trial.verify(load))
    report.row(trial, **cells)


async def fail_and_move(options, trial, load, readers):
    """Load in calm, then an owner is killed and comes back, and then a node comes and another one gives everything away."""
    for follower in trial.chance.sample(readers.followers, int(LEAVING_SHARE * len(readers.followers))):
        readers.launch(readers.keep_leaving(follower, trial.chance))
    load.start()
    readers.is_calm = True
    await asyncio.sleep(CALM_SECONDS)
    readers.is_calm = False
    victim, owned, when = await kill_owner(trial, load, wipe=False)
    await trial.until_recovered(load, owned, when)
    await asyncio.sleep(max(0, options.back))
    victim.start()
    await trial.until_settled()
    await trial.until_ready(trial.join())
    await trial.leave(trial.some_node())
    await trial.until_settled()
    await asyncio.sleep(1)


async def check_places(trial, readers, count):
    """The gateway counts its streams; whoever comes when all places are taken is refused, and hears when to come again."""
    if (seen := await streams_of(readers.gateway)) != count:
        trial.add("answer", f"the gateway counts {seen} streams of {count}")
    entity = readers.followers[0].entity
    others = Readers(trial, readers.gateway, [entity], SPARE_PLACES)
    try:
        await others.open_all()
        pool = wire.Pool(*readers.gateway.public)
        path, accept = f"{wire.entity_path(entity)}/events", [("Accept", "text/event-stream")]
        answer = await pool.request("GET", path, headers=accept)
        pool.close()
        if answer.status != 429 or "retry-after" not in answer.headers or b"overloaded" not in answer.raw:
            trial.add("answer", f"one stream too many was answered {answer.status} {answer.raw[:200]!r}")
    finally:
        others.close()


async def has_no_streams(gateway):
    return await streams_of(gateway) == 0


async def streams_of(gateway):
    """How many live histories and long polls the gateway says that it has."""
    answer = await wire.get(gateway.admin, "/metrics")
    lines = answer[1].splitlines() if answer and answer[0] == 200 else []
    values = [line.rsplit(" ", 1)[1] for line in lines if line.split("{")[0].split(" ")[0] == "berth_gateway_streams"]
    return int(float(values[0])) if values else None


def resident_kib(process):
    """Memory of a process that it really has."""
    with open(os.path.join("/proc", str(process.child.pid), "status"), encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
