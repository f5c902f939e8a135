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
5. Versions are 1, 2, 3 … without a gap, and every state that was answered is what the events add up to at its version.
6. Reads and writes are in an order that contradicts no real time: what began later saw what had ended.

The checks are those of the chaos scenarios (chaos/histories.py), which fail the cluster piece by piece; this one also runs
against the whole cluster in one process, and measures memory.

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
import sys
import tempfile
import threading
import time

from chaos import clients, histories
from chaos.cluster import ROOT, Process, Shape, cluster_settings
from chaos.histories import FAILED, OK, REFUSED, UNKNOWN, UNSENT, Operation
from chaos.wire import Answer, NotAnswered, NotSent, entity_path

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
        self.options, self.data, self.processes = options, data, []
        self.log_path = os.path.join(data, "..", "cluster.log")

    def start(self):
        """Gives the seconds until every shard answers."""
        begin = time.monotonic()
        everywhere = dict(pair.split("=", 1) for pair in self.options.env)
        for number, (words, settings) in enumerate(self.commands()):
            process = Process(f"process-{number}", words, {**settings, **everywhere}, self.log_path)
            process.start()
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
        shape = Shape(programs, nodes=options.nodes)
        nodes = [
            (
                [f"{programs}/berth-node"],
                {
                    "BERTH_DATA_DIR": os.path.join(self.data, f"node-{number}"),
                    "BERTH_LISTEN": peer,
                    "BERTH_ADMIN_LISTEN": f"127.0.0.1:{port + 40 + number}",
                    **cluster_settings(shape, peers),
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
                if (status := process.ended_by_itself()) is not None:
                    raise SystemExit(f"a process ended by itself with {status}; see {self.log_path}")
            try:
                answer = client.request("GET", entity_path(("counter", waiting[-1])))
                if answer.status in (200, 404):
                    waiting.pop()
                    continue
                why = f"{answer.status} {answer.raw[:500]}"
            except OSError as error:
                why = repr(error)
            if time.monotonic() > deadline:
                raise SystemExit(f"not ready after {self.options.start_timeout} s: {why}; see {self.log_path}")
            time.sleep(0.02)

    def kill(self):
        """kill -9 of every process, the later ones without waiting for the earlier ones."""
        order = list(self.processes)
        random.shuffle(order)
        for process in order:
            process.signal(signal.SIGKILL)
        for process in order:
            process.kill()
        self.processes = []

    def memory(self):
        """Resident bytes of the node with the most: all, and those that are not the cache of a file."""
        most = (0, 0)
        for process in self.processes[: self.options.nodes]:
            with open(f"/proc/{process.child.pid}/status", encoding="ascii") as status:
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
        """The answer, or NotSent, or NotAnswered."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
            try:
                self.connection.connect()
                self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                self.connection = None
                raise NotSent(repr(error)) from error
        try:
            text = None if body is None else json.dumps(body)
            self.connection.request(method, path, text, {"Content-Type": "application/json", **(headers or {})})
            response = self.connection.getresponse()
            raw = response.read()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, raw)
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise NotAnswered(repr(error)) from error

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


# ---- The load


class Load:
    """Requests from many threads until it is told to stop. Every write has a marker of its own."""

    def __init__(self, options, run):
        self.options, self.run = options, run
        self.lock, self.next_marker, self.operations, self.retries = threading.Lock(), 1, [], []
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
            operation = self.next_write(self.entity(chance))
            self.send(client, operation)
            if operation.outcome in (UNKNOWN, UNSENT):
                # Nobody listens any more, or not yet again.
                self.stopping.wait(0.05)
            elif chance.random() < 0.2:
                self.read(client, operation.entity)
        client.close()

    def next_write(self, entity):
        with self.lock:
            marker = self.next_marker
            self.next_marker += 1
        return Operation(entity, "add" if entity[0] == "counter" else "put", marker, f"{self.run}-{marker}")

    def read(self, client, entity):
        operation = Operation(entity)
        self.send(client, operation)
        return operation

    def send(self, client, operation):
        with self.lock:
            self.operations.append(operation)
        clients_turn(client, operation)

    def count(self, outcome):
        return sum(operation.outcome == outcome and operation.command is not None for operation in self.operations)


def clients_turn(client, operation, wait=5):
    """Sends one request and notes what came of it, as the clients of the chaos scenarios do."""
    path, headers, body = entity_path(operation.entity), {"Prefer": f"wait={wait}"}, None
    if operation.command:
        path += f"/{operation.command}"
        headers["Idempotency-Key"] = operation.key
        body = {"by": operation.marker} if operation.command == "add" else {"value": {"marker": operation.marker}}
    operation.invoked = time.monotonic()
    try:
        answer = client.request("POST" if operation.command else "GET", path, body, headers)
    except NotSent:
        operation.outcome = UNSENT
    except NotAnswered:
        return  # Unknown, without an end.
    else:
        clients.note(operation, answer)
    operation.completed = time.monotonic()


# ---- The check


def history(client, entity):
    """All events; none for an entity without any."""
    events, after = [], 0
    while True:
        path = f"{entity_path(entity)}/events?after={after}&limit=1000"
        answer = retried(lambda path=path: client.request("GET", path))
        if answer.status == 404:
            return []
        if answer.status != 200:
            raise Unexpected(f"GET {path} was answered with {answer.status} {answer.raw[:500]}")
        page = answer.document()
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
            if answer.status not in (409, 429, 503, 504) or time.monotonic() > deadline:
                return answer
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


class Check:
    """Compares what clients were told with what the histories say."""

    def __init__(self, options, load, violations):
        self.options, self.load, self.violations = options, load, violations

    def run(self, chance):
        """Once as the restart left it, and once after some writes were retried. Gives the first tally, and how many were."""
        tally = self.compare()
        again = [operation for operation in list(self.load.operations) if self.is_retried(operation, chance)]
        self.in_parallel(again, self.retry)
        self.compare()
        return tally, len(again)

    @staticmethod
    def is_retried(operation, chance):
        """Half of the unknown ones, so that the others stay a test of at most once, and some acknowledged ones."""
        return operation.command and chance.random() < {UNKNOWN: 0.5, OK: 0.05}.get(operation.outcome, 0)

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

    def compare(self):
        logs = {}

        def fetch(client, entity):
            read = self.load.read(client, entity)
            if read.outcome not in (OK, FAILED):
                raise Unexpected(str(read))
            logs[entity] = history(client, entity)

        self.in_parallel({operation.entity for operation in self.load.operations}, fetch)
        found, tally = histories.check(self.load.operations, logs, self.load.retries)
        for violation in found:
            self.violations.add(f"{violation.check}: {violation.text}")
        return tally

    def retry(self, client, first):
        again = Operation(first.entity, first.command, first.marker, first.key)
        for _ in range(4):
            clients_turn(client, again, wait=10)
            if again.outcome not in (UNKNOWN, UNSENT, REFUSED):
                break
        else:
            raise Unexpected(f"a retry was answered with {again}")
        with self.load.lock:
            self.load.retries.append((first, again))


# ---- Rounds


def rounds(options, data):
    violations = Violations()
    chance = random.Random(options.seed)
    cluster = Cluster(options, data)
    load = Load(options, f"k{options.seed}")
    check = Check(options, load, violations)
    print(f"seed {options.seed}; {options.clients} clients, {options.spread} entities of each kind and a hot one")
    print("round   load s  start s   acked  unknown  of these applied  refused  retried  events  violations", flush=True)
    try:
        first = cluster.start()
        print(f"first start: {first:.2f} s")
        for number in range(1, options.rounds + 1):
            before = load.count(OK)
            load.start(f"{options.seed}-{number}")
            seconds = chance.uniform(*options.load_seconds)
            time.sleep(seconds)
            cluster.kill()
            load.stop()
            if load.count(OK) == before:
                violations.add(f"round {number}: nothing was acknowledged before the kill, so that nothing was tested")
            started = cluster.start()
            tally, retries = check.run(chance)
            by = tally.by_outcome
            print(
                f"{number:5} {seconds:8.2f} {started:8.2f} {by[OK]:7} {by[UNKNOWN]:8} {tally.unknown_applied:17} "
                f"{by[REFUSED] + by[UNSENT]:8} {retries:8} {tally.events:7} {len(violations):11}",
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
    helper = Check(options, Load(options, "memory"), violations)
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
            path = f"{entity_path(('document', f'memory-{number}'))}/put"
            # Without a key, because keys are kept in memory for a day; putting the same value again writes no event.
            body, headers = {"value": document_of(number)}, {"Prefer": "return=minimal"}
            answer = retried(lambda: client.request("POST", path, body, headers))
            if answer.status != 200 or answer.document()["version"] != 1:
                violations.add(f"writing memory-{number} was answered with {answer.status} {answer.raw[:200]}")

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
            answer = retried(lambda n=number: client.request("GET", entity_path(("document", f"memory-{n}"))))
            told = answer.document() if answer.status == 200 else {}
            if told.get("state") != document_of(number) or told.get("version") != 1:
                violations.add(f"reading memory-{number} was answered with {answer.status} {answer.raw[:200]}")
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
