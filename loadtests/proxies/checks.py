"""What must hold behind a proxy, one function each. A check gets a `Site`, raises `Wrong` when something does not hold, and
returns what is worth saying in the table besides "ok". It knows nothing of which proxy stands there."""

import asyncio
import gzip
import json
import time
from dataclasses import dataclass, field

from chaos import wire
from proxies.relay import Losses
from proxies.stream import Ended, Silent, Stream

BODY_BYTES_MAX = 1 << 20  # of the contract
ARRIVE_SECONDS_MAX = 3
SILENCE_SECONDS_MAX = 16  # the contract's 15, and one for a busy machine
RETRY_SECONDS_MAX = 40
RETRY_PAUSE = 0.1
NOTICE_SECONDS = 0.2
COMMANDS_MIN = 40  # of a load, for it to say something
# Ids that arrive as they are only where nobody decodes, joins or normalizes the path.
IDS = ("a/b", "/", "//a//b", "a//../b", "50%", "%2F", "a?b#c", "a b", "a+b", "a;b=c", "a\\b", "a:b@c", "ü€𝄞", "'\"<>", "...")


class Wrong(Exception):
    """What does not hold: in a word or two for the table, and in full."""

    def __init__(self, label, detail):
        super().__init__(detail)
        self.label = label


@dataclass
class Site:
    """A proxy before gateways."""

    proxy: tuple  # host and port
    gateway: tuple  # of one that is there all the time
    relays: list
    losses: Losses
    token: str  # a session token as long as this cluster makes it
    kill: callable = None  # one of the gateways, with kill -9
    revive: callable = None
    hold_seconds: float = 20
    load_seconds: float = 3
    number: int = 0
    notes: list = field(default_factory=list)

    def __post_init__(self):
        self.through, self.direct = wire.Pool(*self.proxy), wire.Pool(*self.gateway)

    def entity(self, kind, name):
        """One that nobody used before."""
        Site.number += 1
        return kind, f"{name}-{Site.number}-{time.time_ns()}"

    async def ask(self, method, path, expected, body=None, headers=(), what=""):
        """An answer through the proxy, with the status that is expected."""
        try:
            answer = await self.through.request(method, path, body, headers, timeout=30)
        except OSError as error:
            raise Wrong("no answer", f"{what}: {method} {path}: {error}") from error
        return require(answer, expected, f"{what}: {method} {path}")

    async def add(self, entity, expected=200):
        """One more event of a counter, by a command that goes to a gateway directly."""
        answer = await self.direct.request("POST", f"{wire.entity_path(entity)}/add", {"by": 1}, timeout=30)
        return require(answer, expected, f"add to {entity}").document()["version"]

    async def events(self, entity):
        """All there are of one that has few."""
        answer = await self.direct.request("GET", f"{wire.entity_path(entity)}/events?after=0&limit=100", timeout=30)
        if answer.status == 404:
            return []
        return require(answer, 200, f"events of {entity}").document()["events"]

    def close(self):
        self.through.close()
        self.direct.close()


def require(answer, expected, what):
    if answer.status != expected:
        raise Wrong(str(answer.status), f"{what}: {answer.status} instead of {expected}: {answer.headers} {answer.raw[:300]}")
    return answer


def must(held, label, detail):
    if not held:
        raise Wrong(label, detail)


# ---- Entity tags


async def etags(site):
    """ETag of an answer → If-Match of a command → a new tag; and 412, 304."""
    path = wire.entity_path(site.entity("counter", "etag"))
    first = (await site.ask("POST", f"{path}/add", 200, {"by": 1})).headers.get("etag")
    must(first == '"1"', "ETag", f"the tag of version 1 is {first}")
    await site.ask("GET", path, 304, headers=[("If-None-Match", first)], what="unchanged")
    again = await site.ask("POST", f"{path}/add", 200, {"by": 1}, [("If-Match", first)], "at its version")
    must(again.headers.get("etag") == '"2"', "ETag", f"the tag of version 2 is {again.headers.get('etag')}")
    late = await site.ask("POST", f"{path}/add", 412, {"by": 1}, [("If-Match", first)], "at an old version")
    problem = late.document()
    must(late.headers.get("content-type") == "application/problem+json", "412", f"a 412 of {late.headers}")
    must(problem["currentVersion"] == 2, "412", f"a 412 without the version: {problem}")
    await site.ask("GET", path, 200, headers=[("If-None-Match", first)], what="changed")
    await site.ask("POST", f"{path}/add", 412, {"by": 1}, [("If-None-Match", "*")], what="only if absent")


async def compressed(site):
    """The same with a client that takes gzip, whoever compresses: what was made of the tag must come to the same version."""
    path = wire.entity_path(site.entity("document", "gzip"))
    value, takes = {"text": "the same again " * 500}, ("Accept-Encoding", "gzip")
    await site.ask("POST", f"{path}/put", 200, {"value": value}, [takes])
    read = await site.ask("GET", path, 200, headers=[takes])
    coding, tag = read.headers.get("content-encoding", "identity"), read.headers.get("etag")
    must(tag is not None, "no ETag", f"an answer in {coding} has no tag: {read.headers}")
    text = gzip.decompress(read.raw) if coding == "gzip" else read.raw
    must(json.loads(text)["state"] == value, "altered", f"what came in {coding} is not what was put")
    await site.ask("GET", path, 304, headers=[takes, ("If-None-Match", tag)], what=f"unchanged, with {tag}")
    await site.ask("POST", f"{path}/put", 200, {"value": "short"}, [takes, ("If-Match", tag)], f"at its version, with {tag}")
    await site.ask("POST", f"{path}/put", 412, {"value": "other"}, [takes, ("If-Match", tag)], f"at an old version, with {tag}")
    return f"{coding} {tag}" if coding != "identity" else ""


# ---- What must pass as it is


async def ids(site):
    """Whatever may be in an id arrives as it was sent."""
    refused = []
    for number, text in enumerate(IDS):
        entity = ("counter", f"{text}{number}")
        path = wire.entity_path(entity)
        answer = await site.through.request("POST", f"{path}/add", {"by": 1}, timeout=30)
        if answer.status == 200:
            told = answer.document()["id"]
            must(told == entity[1], "altered ids", f"{entity[1]!r} arrived as {told!r}")
            read = await site.ask("GET", path, 200)
            must(read.document()["id"] == entity[1], "altered ids", f"{entity[1]!r} was read as {read.document()['id']!r}")
        else:
            refused.append(f"{entity[1]!r} ({answer.status})")
    must(not refused, f"{len(refused)} of {len(IDS)} refused", f"refused ids: {', '.join(refused)}")


async def tokens(site):
    """A session token that has seen many shards passes in both directions."""
    path = wire.entity_path(site.entity("counter", "token"))
    headers = [("Berth-Session", site.token)]
    for _ in range(2):
        answer = await site.ask("POST", f"{path}/add", 200, {"by": 1}, headers, f"with {len(site.token)} characters of token")
        token = answer.headers.get("berth-session", "")
        must(len(token) >= len(site.token), "shorter", f"{len(token)} characters of token came back of {len(site.token)}")
        headers = [("Berth-Session", token)]
    return f"{len(token)} characters"


async def bodies(site):
    """A body of exactly 1 MiB is taken and can be read; one byte more is 413, preferably in the gateway's own words."""
    path = wire.entity_path(site.entity("document", "body"))
    value = "x" * (BODY_BYTES_MAX - len(json.dumps({"value": ""})))
    await site.ask("POST", f"{path}/put", 200, {"value": value}, what="1 MiB")
    read = await site.ask("GET", path, 200)
    must(read.document()["state"] == value, "altered", "1 MiB came back as something else")
    status = await put_in_chunks(site, path, value[:-1] + "y")
    must(status == 200, f"{status} in chunks", f"1 MiB in chunks was answered with {status}")
    read = await site.ask("GET", path, 200)
    must(read.document()["state"] == value[:-1] + "y", "altered", "1 MiB in chunks came back as something else")
    try:
        answer = await site.through.request("POST", f"{path}/put", {"value": value + "x"}, timeout=30)
    except OSError as error:
        raise Wrong("cut at 1 MiB", f"1 MiB and one byte has no answer: {error}") from error
    must(answer.status == 413, f"{answer.status} above", f"1 MiB and one byte: {answer.status} {answer.raw[:200]}")
    is_own = b'"too-large"' in answer.raw
    must(is_own, "its own 413", f"1 MiB and one byte: 413 by the proxy itself: {answer.raw[:200]}")


async def put_in_chunks(site, path, value):
    """The status of a command whose length is not told beforehand."""
    text = json.dumps({"value": value}).encode()
    lines = [f"POST {path}/put HTTP/1.1", f"Host: {site.proxy[0]}:{site.proxy[1]}", "Content-Type: application/json"]
    reader, writer = await asyncio.open_connection(*site.proxy)
    try:
        writer.write("\r\n".join([*lines, "Transfer-Encoding: chunked"]).encode() + b"\r\n\r\n")
        for start in range(0, len(text), 50_000):
            piece = text[start : start + 50_000]
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(30):
            return int((await reader.readline()).split(b" ", 2)[1])
    except (OSError, TimeoutError, IndexError):
        return 0
    finally:
        writer.transport.abort()


# ---- Live history


async def open_stream(site, entity, last, headers=()):
    path = f"{wire.entity_path(entity)}/events"
    try:
        stream = await Stream.open(site.proxy, path, [("Last-Event-ID", str(last)), *headers], timeout=ARRIVE_SECONDS_MAX)
    except (OSError, Ended, Silent) as error:
        raise Wrong("no stream", f"GET {path}: {error!r}") from error
    media = stream.headers.get("content-type", "")
    if stream.status != 200 or not media.startswith("text/event-stream"):
        stream.close()
        raise Wrong(f"{stream.status} {media}"[:40], f"GET {path} as an event stream: {stream.status} {stream.headers}")
    return stream


async def take(stream, version, seconds=ARRIVE_SECONDS_MAX):
    """The next event, which must be this version."""
    try:
        fields = await stream.event(seconds)
    except Silent as error:
        raise Wrong("withheld", f"version {version}: {error}") from error
    except Ended as error:
        raise Wrong("cut", f"version {version}: {error}") from error
    event = json.loads(fields["data"])
    must(fields.get("id") == str(version) == event.get("id"), "altered", f"version {version} came as {fields}")


async def streams(site):
    """Each event arrives while nothing comes after it that could push it through, and a reader comes back for the rest."""
    entity = site.entity("counter", "stream")
    await site.add(entity)
    stream = await open_stream(site, entity, 0, [("Accept-Encoding", "gzip")])
    slowest = 0.0
    try:
        must("content-encoding" not in stream.headers, "compressed", f"the stream is compressed: {stream.headers}")
        must("no-cache" in stream.headers.get("cache-control", ""), "cacheable", f"the stream may be cached: {stream.headers}")
        await take(stream, 1)
        for _ in range(5):
            begin = time.monotonic()
            version = await site.add(entity)
            await take(stream, version)
            slowest = max(slowest, time.monotonic() - begin)
    finally:
        stream.close()
    await site.add(entity)
    stream = await open_stream(site, entity, 6)
    try:
        await take(stream, 7)
    finally:
        stream.close()
    return f"{1000 * slowest:.0f} ms"


async def held(site):
    """A stream on which nothing happens stays open, pings come through, and so does what is written at last."""
    entity = site.entity("counter", "held")
    await site.add(entity)
    stream, begin = await open_stream(site, entity, 0), time.monotonic()
    try:
        await take(stream, 1)
        try:
            await stream.event(site.hold_seconds)
        except Silent:
            pass
        except Ended as error:
            after = time.monotonic() - begin
            raise Wrong(f"cut after {after:.0f} s", f"a stream without events was cut after {after:.1f} s: {error}") from error
        must(time.monotonic() - stream.heard <= SILENCE_SECONDS_MAX and stream.silence <= SILENCE_SECONDS_MAX, "silent", "no pings")
    finally:
        stream.close()
    # It was interrupted in the middle of reading, so it is not read on; another one shows that the entity goes on.
    stream = await open_stream(site, entity, 1)
    try:
        version = await site.add(entity)
        await take(stream, version)
    finally:
        stream.close()


async def waits(site):
    """A long poll is answered when its time is over, not before by somebody else."""
    entity = site.entity("counter", "wait")
    await site.add(entity)
    path = f"{wire.entity_path(entity)}/events?after=1&limit=10&wait={site.hold_seconds:g}"
    begin = time.monotonic()
    pool = wire.Pool(*site.proxy)
    try:
        answer = await pool.request("GET", path, timeout=site.hold_seconds + 10)
    except OSError as error:
        raise Wrong("cut", f"GET {path}: {error}") from error
    finally:
        pool.close()
    after = time.monotonic() - begin
    must(answer.status == 200, f"{answer.status} after {after:.0f} s", f"GET {path}: {answer.status} {answer.raw[:200]}")
    must(answer.document()["events"] == [], "altered", f"GET {path}: {answer.raw[:200]}")
    must(after >= site.hold_seconds - 1, "too soon", f"GET {path} was answered after {after:.1f} s")


# ---- Retries

# What is sent, whether with a key, and how many events the entity must have in the end; it has one before a DELETE.
KEYED, KEYED_EMPTY, PLAIN, PLAIN_EMPTY, DELETE, DELETE_KEYED = "POST with key", "empty POST with key", "POST", "empty POST", "DELETE", "DELETE with key"
LOSSES = (KEYED, KEYED_EMPTY, PLAIN, PLAIN_EMPTY, DELETE, DELETE_KEYED)


async def lost(site):
    """A command is carried out and its answer lost, on a connection that is new and on one that was used. Whoever sends it
    again, the proxy or the client with its key, it has one effect."""
    by_itself, statuses = set(), set()
    for case in LOSSES:
        for is_warm in (False, True):
            status = await lose(site, case, is_warm)
            if status in (200, 204):
                by_itself.add(case)
            else:
                statuses.add(status)
    if by_itself:
        site.notes.append(f"sends again by itself: {', '.join(case for case in LOSSES if case in by_itself)}")
    site.notes.append(f"says of a lost answer: {', '.join(map(str, sorted(statuses))) or 'nothing'}")


async def lose(site, case, is_warm):
    """The status of the first try as the client sees it, 0 for none."""
    entity = site.entity("counter", "lost")
    before = 1
    await site.add(entity)
    method, path = ("DELETE", wire.entity_path(entity)) if "DELETE" in case else ("POST", f"{wire.entity_path(entity)}/add")
    headers = [("Idempotency-Key", f"lost-{entity[1]}")] if "key" in case else []
    body = {"by": 1} if case in (KEYED, PLAIN) else None
    # A proxy may have turned from a gateway for a while because of the loss before.
    for _ in range(2 * len(site.relays)):
        await until_answered(site, "GET", wire.entity_path(entity), None, (), {200})
    if not is_warm:
        for relay in site.relays:
            await relay.cut()
        # Until everybody has seen that.
        await asyncio.sleep(NOTICE_SECONDS)
    count = site.losses.count
    site.losses.arm(entity[1])
    status = await try_once(site, method, path, body, headers)
    must(site.losses.count == count + 1, "not tried", f"{case}: no answer was lost; the client saw {status}")
    if headers and status not in (200, 204):
        await until_answered(site, method, path, body, headers, {200, 204})
    must(headers or "DELETE" in case or status != 200, "double effect", f"{case}: was answered with 200 although its answer was lost")
    events = len(await site.events(entity)) - before
    must(events <= 1, "double effect", f"{case}, {'warm' if is_warm else 'cold'}: {events} events, and the client saw {status}")
    must(events == 1, "no effect", f"{case}: it was carried out, and is not there")
    return status


async def try_once(site, method, path, body, headers):
    try:
        return (await site.through.request(method, path, body, headers, timeout=30)).status
    except OSError:
        return 0


async def until_answered(site, method, path, body, headers, expected):
    """Sends it until it has one of these statuses, and says how often it was sent."""
    deadline, tries = time.monotonic() + RETRY_SECONDS_MAX, 1
    while (status := await try_once(site, method, path, body, headers)) not in expected:
        must(time.monotonic() < deadline, f"{status} for long", f"{method} {path}: still {status} after {RETRY_SECONDS_MAX} s")
        await asyncio.sleep(RETRY_PAUSE)
        tries += 1
    return tries


async def killed(site):
    """One of the gateways is killed under load and comes back: a command with a key has one effect, however often it is
    sent, and one without a key at most one."""
    commands, stop = [], time.monotonic() + site.load_seconds

    async def work(number):
        while time.monotonic() < stop:
            entity = site.entity("counter", f"kill-{number}")
            path, is_keyed = f"{wire.entity_path(entity)}/add", number % 4 > 0
            if is_keyed:
                tries = await until_answered(site, "POST", path, {"by": 1}, [("Idempotency-Key", entity[1])], {200})
                commands.append((entity, {1}, tries))
            else:
                status = await try_once(site, "POST", path, {"by": 1}, ())
                commands.append((entity, {1} if status == 200 else {0, 1}, 1))
            await asyncio.sleep(0.01)

    async def fail():
        await asyncio.sleep(site.load_seconds / 4)
        await site.kill()
        await asyncio.sleep(site.load_seconds / 4)
        await site.revive()

    await asyncio.gather(fail(), *(work(number) for number in range(16)))
    for entity, allowed, _ in commands:
        events = len(await site.events(entity))
        label = "double effect" if events > max(allowed) else "lost"
        must(events in allowed, label, f"{entity}: {events} events, where {allowed} is right")
    must(len(commands) >= COMMANDS_MIN, "too few", f"only {len(commands)} commands were sent")
    retries = sum(tries - 1 for _, _, tries in commands)
    return f"{len(commands)} commands, {retries} retries"


CHECKS = {
    "ETag": etags,
    "ETag gzip": compressed,
    "ids": ids,
    "token": tokens,
    "1 MiB": bodies,
    "SSE": streams,
    "SSE held": held,
    "wait=": waits,
    "lost answers": lost,
    "kill -9": killed,
}
