#!/usr/bin/env python3
"""Kills every process of a cluster with kill -9 under load, starts it again, and checks that nothing was lost or done twice.

    cargo build --release --workspace
    loadtests/kill9.py                      # 5 rounds; three nodes and a gateway, each a process of its own
    loadtests/kill9.py --local --rounds 20  # the whole cluster in one process
    loadtests/kill9.py --entities 200000 --resident-cap 50MB
    loadtests/kill9.py --prove              # shows that it notices planted bugs

Every write carries a value that no other write has, so that it can be found in the history. After each restart it holds:

1. Every acknowledged write is in the history exactly once, under the version that was acknowledged.
2. A write whose outcome is unknown (under way at the kill, or answered 504) is there at most once; retried with its key it is
   there exactly once, and the answer names the version under which it is.
3. An acknowledged write that is retried with its key is answered with its first version and changes nothing.
4. A write answered 429 or 503 was not applied.
5. Versions are 1, 2, 3 … without a gap, and the state is what the events add up to.
6. A read never shows less than what was acknowledged before it began.

kill -9 leaves the page cache alone: this proves recovery, not that bytes reached the disk.

Needs nothing but Python's standard library. Ends with 0 when all of it held.
"""

import argparse
import http.client
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOCAL = (
    "{programs}/berth --data {data} --nodes {nodes} --gateway-port {port} --admin-port {admin} --node-port {peers} "
    "--resident-cap {cap}"
)
LIST_MAX = 10  # of violations that are printed


class Violations:
    """What did not hold. Shared by all threads."""

    def __init__(self):
        self.lock, self.found = threading.Lock(), []

    def add(self, text):
        with self.lock:
            self.found.append(text)

    def __len__(self):
        return len(self.found)


class Unexpected(Exception):
    """An answer after which checking cannot go on."""


# ---- The cluster


class Cluster:
    """The processes of a cluster, started from command lines, ended all at once."""

    def __init__(self, options, data):
        self.options, self.data, self.processes, self.log = options, data, [], None

    def start(self):
        """Gives the seconds until every shard answers."""
        begin = time.monotonic()
        self.log = open(os.path.join(self.data, "..", "cluster.log"), "ab")
        for words, settings in self.commands():
            environment = {**os.environ, **settings, **dict(pair.split("=", 1) for pair in self.options.env)}
            process = subprocess.Popen(
                words, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            self.processes.append(process)
        self.wait()
        return time.monotonic() - begin

    def commands(self):
        """Command line and settings of every process."""
        options = self.options
        programs, port, admin = options.programs, options.port, options.port + 1
        if options.command:
            places = {"root": ROOT, "programs": programs, "data": self.data, "port": port, "admin": admin}
            places |= {"nodes": options.nodes, "peers": port + 10, "cap": options.resident_cap_text}
            return [(shlex.split(options.command.format(**places)), {})]
        peers = [f"127.0.0.1:{port + 10 + number}" for number in range(options.nodes)]
        nodes = [
            (
                [f"{programs}/berth-node"],
                {
                    "BERTH_DATA_DIR": os.path.join(self.data, f"node-{number}"),
                    "BERTH_LISTEN": peer,
                    "BERTH_ADMIN_LISTEN": f"127.0.0.1:{port + 40 + number}",
                    "BERTH_CLUSTER__NODES": ",".join(peers),
                    **options.node_settings,
                },
            )
            for number, peer in enumerate(peers)
        ]
        gateway = {
            "BERTH_LISTEN": f"127.0.0.1:{port}",
            "BERTH_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "BERTH_NODES": ",".join(peers),
        }
        return [*nodes, ([f"{programs}/berth-gateway"], gateway)]

    def wait(self):
        """Until entities of every shard can be read; 404 is an answer of the owner too."""
        deadline = time.monotonic() + self.options.start_timeout
        waiting = [f"probe-{number}" for number in range(256)]
        client = Client(self.options.port)
        why = "nothing"
        while waiting:
            for process in self.processes:
                if process.poll() is not None:
                    raise SystemExit(f"a process ended by itself with {process.returncode}; see {self.log.name}")
            try:
                status, _, answer = client.request("GET", entity_path("counter", waiting[-1]))
                if status in (200, 404):
                    waiting.pop()
                    continue
                why = f"{status} {answer}"
            except OSError as error:
                why = repr(error)
            if time.monotonic() > deadline:
                raise SystemExit(f"not ready after {self.options.start_timeout} s: {why}; see {self.log.name}")
            time.sleep(0.02)

    def kill(self):
        """kill -9 of every process, the later ones without waiting for the earlier ones."""
        order = list(self.processes)
        random.shuffle(order)
        for process in order:
            # The process leads a group of its own, in which there is nobody else's.
            os.killpg(process.pid, signal.SIGKILL)
        for process in order:
            process.wait()
        self.processes = []
        if self.log:
            self.log.close()

    def memory(self):
        """Resident bytes of the node with the most: all, and those that are not the cache of a file."""
        most = (0, 0)
        for process in self.processes[: self.options.nodes]:
            with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                text = status.read()
            total, anonymous = (int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) * 1024 for name in ("VmRSS", "RssAnon"))
            most = max(most, (anonymous, total))
        return most[1], most[0]


# ---- The client


class Client:
    """One connection, opened again after it broke."""

    def __init__(self, port, timeout=15):
        self.port, self.timeout, self.connection = port, timeout, None

    def request(self, method, path, body=None, headers=None):
        """Status, headers (in lower case) and parsed body. OSError when the outcome did not arrive."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
            try:
                self.connection.connect()
                self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                self.connection = None
                raise
        try:
            text = None if body is None else json.dumps(body)
            self.connection.request(method, path, text, {"Content-Type": "application/json", **(headers or {})})
            response = self.connection.getresponse()
            raw = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            return response.status, names, json.loads(raw) if raw else None
        except (http.client.HTTPException, ValueError) as error:
            self.close()
            raise ConnectionError(f"broken answer: {error!r}") from error
        except OSError:
            self.close()
            raise

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def entity_path(kind, entity_id):
    return f"/v1/entities/{kind}/{urllib.parse.quote(entity_id, safe='')}"


# ---- The load


@dataclass
class Write:
    entity: tuple
    marker: int
    key: str
    outcome: str = "unknown"  # acknowledged, unknown, or refused
    version: int = 0

    def send(self, client, retry=False):
        kind, entity_id = self.entity
        name, body = ("add", {"by": self.marker}) if kind == "counter" else ("put", {"value": {"marker": self.marker}})
        headers = {"Idempotency-Key": self.key, "Prefer": "wait=10" if retry else "wait=5"}
        return client.request("POST", f"{entity_path(kind, entity_id)}/{name}", body, headers)


class Load:
    """Writes from many threads until it is told to stop. Every write has a marker of its own."""

    def __init__(self, options, run, violations):
        self.options, self.run, self.violations = options, run, violations
        self.lock, self.next_marker, self.writes = threading.Lock(), 1, []
        self.acknowledged = {}  # entity → highest acknowledged version
        self.stopping = threading.Event()

    def entity(self, chance):
        if chance.random() < 0.3:
            return (chance.choice(("counter", "document")), f"{self.run}-hot")
        kind = chance.choice(("counter", "document"))
        return (kind, f"{self.run}-{chance.randrange(self.options.spread)}")

    def start(self, seed):
        self.stopping.clear()
        self.threads = [
            threading.Thread(target=self.work, args=(random.Random(f"{seed}-{number}"),), daemon=True)
            for number in range(self.options.clients)
        ]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)
            if thread.is_alive():
                raise SystemExit("a client thread hangs: a request outlived its time-out")

    def work(self, chance):
        client = Client(self.options.port)
        while not self.stopping.is_set():
            with self.lock:
                write = Write(self.entity(chance), self.next_marker, f"{self.run}-{self.next_marker}")
                self.next_marker += 1
                self.writes.append(write)
            try:
                self.record(write, *write.send(client))
                if chance.random() < 0.2:
                    self.read(client, write.entity)
            except OSError:
                # The write under way stays unknown. Nobody listens any more, or not yet again.
                self.stopping.wait(0.05)
            except Exception as error:  # An answer that does not read as one is no reason to stop looking.
                self.violations.add(f"{write} was answered with something else than the contract says: {error!r}")
        client.close()

    def record(self, write, status, _headers, answer):
        if status == 200:
            write.outcome, write.version = "acknowledged", answer["version"]
            with self.lock:
                known = self.acknowledged.get(write.entity, 0)
                self.acknowledged[write.entity] = max(known, write.version)
        elif status in (429, 503):
            write.outcome = "refused"
        elif status != 504:
            self.violations.add(f"{write} was answered with {status} {answer}")

    def read(self, client, entity):
        with self.lock:
            least = self.acknowledged.get(entity, 0)
        status, _, answer = client.request("GET", entity_path(*entity))
        if status == 200 and answer["version"] < least:
            self.violations.add(f"{entity} was read at version {answer['version']} after {least} was acknowledged")
        elif status not in (200, 404, 429, 503, 504) or (status == 404 and least):
            self.violations.add(f"reading {entity} at version {least} or above was answered with {status} {answer}")


# ---- The check


def history(client, entity):
    """All events, or None for an entity without any."""
    events, after = [], 0
    while True:
        path = f"{entity_path(*entity)}/events?after={after}&limit=1000"
        status, _, page = retried(lambda path=path: client.request("GET", path))
        if status == 404:
            return None
        if status != 200:
            raise Unexpected(f"GET {path} was answered with {status} {page}")
        events += page["events"]
        if page.get("next") is None:
            return events
        after = page["next"]


def retried(call, patience=30):
    """Asks again while the answer is that nothing was done, or while nobody answers."""
    deadline = time.monotonic() + patience
    while True:
        try:
            answer = call()
            if answer[0] not in (409, 429, 503, 504) or time.monotonic() > deadline:
                return answer
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def marker_of(entity, event):
    data = event["data"]
    return data.get("by") if entity[0] == "counter" else (data.get("value") or {}).get("marker")


@dataclass
class Tally:
    acknowledged: int = 0
    unknown: int = 0
    unknown_applied: int = 0
    refused: int = 0
    retried: int = 0
    events: int = 0
    entities: set = field(default_factory=set)


class Check:
    """Compares what clients were told with what the histories say."""

    def __init__(self, options, load, violations):
        self.options, self.load, self.violations = options, load, violations

    def run(self, chance):
        tally = Tally()
        by_entity = {}
        for write in self.load.writes:
            by_entity.setdefault(write.entity, []).append(write)
        # First half: as the restart left it. Second half: after some writes were retried.
        work = list(by_entity.items())
        self.in_parallel(work, lambda client, item: self.compare(client, *item, tally))
        again = [write for write in self.load.writes if self.is_retried(write, chance)]
        self.in_parallel(again, lambda client, write: self.retry(client, write))
        touched = {write.entity for write in again}
        self.in_parallel([i for i in work if i[0] in touched], lambda client, item: self.compare(client, *item, None))
        tally.retried = len(again)
        return tally

    @staticmethod
    def is_retried(write, chance):
        """Half of the unknown ones, so that the others stay a test of at most once, and some acknowledged ones."""
        return chance.random() < {"unknown": 0.5, "acknowledged": 0.05, "refused": 0.0}[write.outcome]

    def in_parallel(self, items, work):
        items, lock, failures = list(items), threading.Lock(), []

        def run():
            client = Client(self.options.port)
            try:
                while True:
                    with lock:
                        if not items or failures:
                            return
                        item = items.pop()
                    work(client, item)
            except BaseException as failure:  # noqa: B036 - handed on to the thread that waits
                failures.append(failure)
            finally:
                client.close()

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def compare(self, client, entity, writes, tally):
        events = history(client, entity) or []
        wrong = self.violations.add
        versions = [event["version"] for event in events]
        if versions != list(range(1, len(events) + 1)):
            at = next(i for i, version in enumerate(versions) if version != i + 1)
            wrong(f"{entity}: after version {at} comes {versions[at]}")
        places = {}
        for event in events:
            places.setdefault(marker_of(entity, event), []).append(event["version"])
        for write in writes:
            found = places.pop(write.marker, [])
            if len(found) > 1:
                wrong(f"{write} is there {len(found)} times, as versions {found}")
            elif write.outcome == "acknowledged" and found != [write.version]:
                wrong(f"{write} is lost" if not found else f"{write} is there as version {found[0]}")
            elif write.outcome == "refused" and found:
                wrong(f"{write} was called not applied, but is there as version {found[0]}")
            if tally is not None:
                with self.load.lock:
                    tally.acknowledged += write.outcome == "acknowledged"
                    tally.refused += write.outcome == "refused"
                    tally.unknown += write.outcome == "unknown"
                    tally.unknown_applied += write.outcome == "unknown" and bool(found)
        if places:
            wrong(f"{entity}: has events that nobody wrote: {list(places.items())[:3]}")
        self.compare_state(client, entity, events)
        if tally is not None:
            with self.load.lock:
                tally.events += len(events)
                tally.entities.add(entity)

    def compare_state(self, client, entity, events):
        status, _, answer = retried(lambda: client.request("GET", entity_path(*entity)))
        if not events:
            if status != 404:
                self.violations.add(f"{entity} has no events, but is answered with {status}")
            return
        if entity[0] == "counter":
            expected = {"value": sum(marker_of(entity, event) for event in events)}
        else:
            expected = {"marker": marker_of(entity, events[-1])}
        if status != 200 or answer["version"] != events[-1]["version"] or answer["state"] != expected:
            self.violations.add(f"{entity}: events give {expected}, a read gives {status} {answer}")

    def retry(self, client, write):
        status, headers, answer = retried(lambda: write.send(client, retry=True))
        if status != 200:
            self.violations.add(f"{write} was retried and answered with {status} {answer}")
            return
        if write.outcome == "acknowledged":
            if headers.get("idempotency-replayed") != "true":
                self.violations.add(f"{write} was retried and executed again")
            if answer["version"] != write.version:
                self.violations.add(f"{write} was retried and answered with version {answer['version']}")
        write.outcome, write.version = "acknowledged", answer["version"]


# ---- Rounds


def rounds(options, data):
    violations = Violations()
    chance = random.Random(options.seed)
    cluster = Cluster(options, data)
    load = Load(options, f"k{options.seed}", violations)
    check = Check(options, load, violations)
    print(f"seed {options.seed}; {options.clients} clients, {options.spread} entities of each kind and a hot one")
    print("round   load s  start s   acked  unknown  of these applied  refused  retried  events  violations", flush=True)
    try:
        first = cluster.start()
        print(f"first start: {first:.2f} s")
        for number in range(1, options.rounds + 1):
            before = sum(write.outcome == "acknowledged" for write in load.writes)
            load.start(f"{options.seed}-{number}")
            seconds = chance.uniform(*options.load_seconds)
            time.sleep(seconds)
            cluster.kill()
            load.stop()
            if sum(write.outcome == "acknowledged" for write in load.writes) == before:
                violations.add(f"round {number}: nothing was acknowledged before the kill, so that nothing was tested")
            started = cluster.start()
            tally = check.run(chance)
            print(
                f"{number:5} {seconds:8.2f} {started:8.2f} {tally.acknowledged:7} {tally.unknown:8} {tally.unknown_applied:17} "
                f"{tally.refused:8} {tally.retried:8} {tally.events:7} {len(violations):11}",
                flush=True,
            )
            if violations and not options.keep_going:
                break
    except Unexpected as unexpected:
        violations.add(str(unexpected))
    finally:
        cluster.kill()
    return violations


# ---- Memory


UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def size(text):
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]+)", text)
    if not match or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 50MB")
    return int(match[1]) * UNITS[match[2]]


def document_of(number):
    """A state of about 1 KB, different for every entity, so that an answer with another entity's state is noticed."""
    return {"number": number, "text": f"{number:08x}" * 120}


def memory(options, data):
    violations = Violations()
    cluster = Cluster(options, data)
    helper = Check(options, Load(options, "memory", violations), violations)
    # What else a node keeps in memory is set low, so that the entities are what is seen.
    options.node_settings = {
        "BERTH_SHARD__RESIDENT_BYTES_MAX": options.resident_cap_text,
        "BERTH_STORE__CACHE_SIZE": "8MiB",
        "BERTH_JOURNAL__CACHE_SIZE": "4MiB",
        "BERTH_JOURNAL__TAIL_SIZE": "4MiB",
    }
    try:
        cluster.start()
        empty = cluster.memory()[1]
        # Beside the entities: 48 MiB of page caches, about 100 bytes for each of the load's idempotency keys, and what the
        # estimate of an entity's memory and the allocator are off by.
        bound = options.memory_bound or empty + options.resident_cap + 130 * 10**6
        print(
            f"{options.entities} entities of 1 KB on {options.nodes} node(s), resident cap {mb(options.resident_cap)} per node; "
            f"an empty node takes {mb(empty)}, so its anonymous memory must stay below {mb(bound)}"
        )
        begin = time.monotonic()

        def write(client, number):
            path = f"{entity_path('document', f'memory-{number}')}/put"
            # Without a key, because keys are kept in memory for a day; putting the same value again writes no event.
            body, headers = {"value": document_of(number)}, {"Prefer": "return=minimal"}
            status, _, answer = retried(lambda: client.request("POST", path, body, headers))
            if status != 200 or answer["version"] != 1:
                violations.add(f"writing memory-{number} was answered with {status} {answer}")

        helper.in_parallel(range(options.entities), write)
        print(f"written in {time.monotonic() - begin:.0f} s; {' '.join(report(cluster))}", flush=True)
        cluster.kill()
        print(f"started again in {cluster.start():.2f} s; {' '.join(report(cluster))}", flush=True)
        highest = sample_reads(options, cluster, helper, violations)
        if highest > bound:
            violations.add(f"the anonymous memory of a node grew to {mb(highest)}, above {mb(bound)}")
    finally:
        cluster.kill()
    return violations


def sample_reads(options, cluster, helper, violations):
    """Reads random entities, prints memory every second, and gives the highest."""
    highest, reads, stop = 0, [0], time.monotonic() + options.read_seconds
    chance = random.Random(options.seed)

    def read(client, _):
        while time.monotonic() < stop:
            number = chance.randrange(options.entities)
            status, _, answer = retried(lambda n=number: client.request("GET", entity_path("document", f"memory-{n}")))
            if status != 200 or answer["state"] != document_of(number) or answer["version"] != 1:
                violations.add(f"reading memory-{number} was answered with {status} {str(answer)[:200]}")
            reads[0] += 1

    worker = threading.Thread(target=helper.in_parallel, args=(range(8), read))
    worker.start()
    while worker.is_alive():
        worker.join(1)
        total, anonymous = cluster.memory()
        highest = max(highest, anonymous)
        print(f"  {reads[0]:8} reads, resident {mb(total)}, of it anonymous {mb(anonymous)}", flush=True)
    if not reads[0]:
        violations.add("nothing was read")
    return highest


def report(cluster):
    total, anonymous = cluster.memory()
    return f"resident {mb(total)}, of it anonymous {mb(anonymous)}".split()


def mb(count):
    return f"{count / 10**6:.0f} MB"


# ---- Planted bugs


def prove(options, data):
    """Runs against a model of the contract with planted bugs; every one must be noticed, and none where there is none."""
    flaws = ["none", "lost-write", "double-effect", "forgets-keys", "unknown-twice", "gap", "stale-read", "server-error"]
    unnoticed = Violations()
    for flaw in flaws:
        options.command = "{root}/loadtests/flawed.py --data {data} --gateway-port {port} --flaw " + flaw
        place = os.path.join(data, flaw, "data")
        os.makedirs(place)
        found = rounds(options, place)
        print(f"=> {flaw}: {len(found)} violations{', such as ' + found.found[0] if found else ''}\n", flush=True)
        if bool(found) != (flaw != "none"):
            unnoticed.add(f"{flaw}: {len(found)} violations")
    return unnoticed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=os.path.join(ROOT, "target", "release"), help="where the programs lie")
    parser.add_argument("--local", action="store_true", help=f"one process: {LOCAL}")
    parser.add_argument("--command", help="one process of another kind, with the same places to fill in")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="set for every process")
    parser.add_argument("--nodes", type=int, help="3, or 1 with --entities")
    parser.add_argument("--port", type=int, default=18580, help="of the gateway; the 50 above are used too")
    parser.add_argument("--data", help="where data goes; a new folder, kept when something is wrong, when not given")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of load and moments, printed at the start")
    parser.add_argument("--start-timeout", type=float, default=60, metavar="SECONDS")
    group = parser.add_argument_group("kill")
    group.add_argument("--rounds", type=int, default=5)
    group.add_argument("--clients", type=int, default=32)
    group.add_argument("--spread", type=int, default=200, help="entities of each kind beside the hot ones")
    group.add_argument("--load-seconds", type=float, nargs=2, default=(1.0, 4.0), metavar=("MIN", "MAX"))
    group.add_argument("--keep-going", action="store_true", help="go on after a violation")
    group.add_argument("--prove", action="store_true", help="show that planted bugs are noticed")
    group = parser.add_argument_group("memory")
    group.add_argument("--entities", type=int, help="load this many, restart, and read under the cap")
    group.add_argument("--resident-cap", dest="resident_cap_text", default="50MB", help="of each node's entities in memory")
    group.add_argument("--memory-bound", type=size, help="that a node's anonymous memory must stay below (default: empty node + cap + 130MB)")
    group.add_argument("--read-seconds", type=float, default=30)
    options = parser.parse_args()
    if options.local:
        options.command = LOCAL
    if options.command and options.entities:
        parser.error("--entities needs processes of their own, because it sets and watches the memory of nodes")
    options.nodes = options.nodes or (1 if options.entities else 3)
    options.resident_cap, options.node_settings = size(options.resident_cap_text), {}

    place = options.data or tempfile.mkdtemp(prefix="berth-kill9-")
    data = os.path.join(place, "data")
    os.makedirs(data)
    violations = prove(options, data) if options.prove else memory(options, data) if options.entities else rounds(options, data)
    if violations:
        print(f"\n{len(violations)} violations; data and log are kept in {place}")
        for violation in violations.found[:LIST_MAX]:
            print(f"- {violation}")
        return 1
    if not options.data:
        shutil.rmtree(place)
    print("\neverything held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
