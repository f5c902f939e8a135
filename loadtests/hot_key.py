#!/usr/bin/env python3
"""Measures what one entity that everybody wants costs the others: a cluster of real processes; clients that write to some
counters at a steady rate; and a crowd that all the time wants more of one counter than may wait for it.

    cargo build --release --workspace
    loadtests/hot_key.py
    loadtests/hot_key.py --rounds 5 --seconds 10
    loadtests/hot_key.py --prove            # without the bounds of entities: it must be noticed

The others are of three groups, which are told apart: in the shard of the hot counter, in other shards of the same owner, and of
other owners. Each round measures all of them three times, one after the other: alone; beside a crowd of which each wants a
counter of its own, which tells what so much work costs by itself; and beside the hot counter.

Ends with 0 when all of this holds: the p99 of each group beside the hot counter is within --within (2) times what it is alone;
the crowd was refused (429) in every round, each time with Retry-After, and otherwise executed; none of the others was refused;
nothing has moved meanwhile. Clients that measure, and the crowd, are processes of their own. Run it on a machine with nothing
else to do. Needs nothing but Python's standard library.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time

from chaos import wire
from chaos.cluster import ROOT, Cluster, Shape, Stuck
from chaos.network import Loopback, come_first

HOT = ("counter", "hot")
GROUPS = ("in its shard", "of its owner", "of other owners")
PATIENCE_SECONDS = 7
# Before each measurement, so that what much work leaves behind (checkpoints, purges of logs) is not measured with the next.
SETTLE_SECONDS = 4
EXPLAINED_AT_ONCE = 8
EXPLAINED_MAX = 20_000
UNBOUND = 1_000_000
UNBOUND_NODE = {"BERTH_SHARD__ENTITY_QUEUE_MAX": str(UNBOUND)}
UNBOUND_GATEWAY = {"BERTH_IN_FLIGHT_PER_ENTITY_MAX": str(UNBOUND), "BERTH_ENTITY_SHARE": str(UNBOUND)}


class Tally:
    """What clients of one kind were told."""

    def __init__(self):
        self.statuses, self.millis, self.unpromised = collections.Counter(), [], 0

    def add(self, other):
        self.statuses += other.statuses
        self.millis += other.millis
        self.unpromised += other.unpromised

    def count(self, status, promises):
        self.statuses[status] += 1
        if status == 429 and not promises:
            self.unpromised += 1

    async def ask(self, pool, entity):
        """One command. Times are those of the commands that were executed."""
        begin = time.monotonic()
        try:
            answer = await pool.request("POST", f"{wire.entity_path(entity)}/add", body={"by": 1}, timeout=PATIENCE_SECONDS)
        except OSError as error:
            self.statuses[type(error).__name__] += 1
            return
        self.count(answer.status, "retry-after" in answer.headers)
        if answer.status == 200:
            self.millis.append((time.monotonic() - begin) * 1000)

    def percentile(self, share):
        if not self.millis:
            return float("nan")
        ordered = sorted(self.millis)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def counts(self):
        others = sum(count for status, count in self.statuses.items() if status not in (200, 429))
        return f"{sum(self.statuses.values()):>9}{self.statuses[200]:>9}{self.statuses[429]:>9}{others:>7}"


async def steady(address, groups, options):
    """Requests of each group at a rate, whatever becomes of them; each for the next of its entities. Gives a tally per group."""
    come_first()
    pool, running = wire.Pool(*address), set()
    tallies = [Tally() for _ in groups]
    begin, number = time.monotonic(), 0
    while (now := time.monotonic()) < begin + options.seconds:
        while number < (now - begin) * options.rate * len(groups):
            turn, group = divmod(number, len(groups))
            entities = groups[group]
            asking = asyncio.create_task(tallies[group].ask(pool, entities[turn % len(entities)]))
            running.add(asking)
            asking.add_done_callback(running.discard)
            number += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*running)
    pool.close()
    return tallies


class Insistent(asyncio.Protocol):
    """One connection of the crowd: asks again as soon as it is answered, and after a pause when it was refused, which is once to
    twice what Retry-After says where no other is given. It reads no more of an answer than it must, so that the crowd is quicker
    than what it asks."""

    def __init__(self, request, pause, tally, over):
        self.request, self.pause, self.tally, self.over = request, pause, tally, over
        self.buffer, self.transport, self.is_waiting = b"", None, False

    def connection_made(self, transport):
        self.transport = transport
        self.ask()

    def ask(self):
        if self.over.is_set() or self.transport.is_closing():
            self.transport.abort()
            return
        self.is_waiting = True
        self.transport.write(self.request)

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        body = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        if len(self.buffer) < end + 4 + body:
            return
        self.buffer, self.is_waiting = b"", False
        status = int(head[9:12])
        told = head.partition(b"\r\nretry-after:")[2].partition(b"\r\n")[0]
        self.tally.count(status, bool(told))
        if status == 200:
            self.ask()
        else:
            # At least as long as it was told, and not all at the same time.
            pause = float(told or 1) * (1 + random.random()) if self.pause is None else self.pause
            asyncio.get_running_loop().call_later(pause, self.ask)

    def connection_lost(self, exc):
        if self.is_waiting and not self.over.is_set():
            self.tally.statuses["ConnectionLost"] += 1


def request_bytes(address, entity):
    body = json.dumps({"by": 1}).encode()
    lines = [
        f"POST {wire.entity_path(entity)}/add HTTP/1.1",
        f"Host: {address[0]}:{address[1]}",
        "Content-Type: application/json",
        "Prefer: return=minimal",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def crowd(address, entities, options, until):
    """As many connections as the crowd is large, all of which want something of `entities` all the time, until told to end."""
    tally, over, loop = Tally(), asyncio.Event(), asyncio.get_running_loop()
    for number in range(options.crowd):
        request = request_bytes(address, entities[number % len(entities)])
        await loop.create_connection(lambda request=request: Insistent(request, options.pause, tally, over), *address)
    # From here on the crowd is complete.
    until.send(None)
    await loop.run_in_executor(None, until.recv)
    over.set()
    return tally


def in_process(work):
    """Runs a coroutine in a process of its own that is connected with us; `work` takes its end. Its result is the last it sends."""
    ours, theirs = multiprocessing.Pipe()

    def run():
        theirs.send(asyncio.run(work(theirs)))

    child = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    child.start()
    theirs.close()
    return ours


def phase(address, groups, options, entities=None):
    """The tallies of the groups and, where a crowd wants `entities`, of this."""
    crowding = in_process(lambda until: crowd(address, entities, options, until)) if entities else None
    if crowding:
        crowding.recv()
        time.sleep(options.warm)
    measured = in_process(lambda _: steady(address, groups, options)).recv()
    if not crowding:
        return measured, Tally()
    crowding.send(None)
    return measured, crowding.recv()


async def where(pool, entity):
    """Shard and owner of an entity."""
    kind, entity_id = entity
    answer = await pool.request("GET", f"/v1/cluster/explain/{kind}/{entity_id}", timeout=PATIENCE_SECONDS)
    if answer.status != 200:
        raise Stuck(f"where {kind}/{entity_id} is was answered with {answer.status}: {answer.raw[:200]}")
    place = answer.document()
    if place["owner"] is None:
        raise Stuck(f"shard {place['shard']} has no owner")
    return place["shard"], place["owner"]


async def choose(cluster, options):
    """Entities for each group, by where the cluster says that they are."""
    pool = wire.Pool(*cluster.gateways[0].admin)
    shard, owner = await where(pool, HOT)
    groups, number = [[] for _ in GROUPS], 0
    while min(map(len, groups)) < options.entities:
        if number >= EXPLAINED_MAX:
            raise Stuck(f"too few entities were found for each group: {[len(group) for group in groups]}")
        entities = [("counter", f"other-{number + place}") for place in range(EXPLAINED_AT_ONCE)]
        number += len(entities)
        for entity, (its_shard, its_owner) in zip(entities, await asyncio.gather(*(where(pool, one) for one in entities))):
            group = groups[0 if its_shard == shard else 1 if its_owner == owner else 2]
            if len(group) < options.entities:
                group.append(entity)
    pool.close()
    return groups


async def placed(cluster, groups):
    """Where everything is."""
    pool = wire.Pool(*cluster.gateways[0].admin)
    places = [await where(pool, entity) for entity in [HOT, *(entity for group in groups for entity in group)]]
    pool.close()
    return places


async def prepare(cluster, options, many):
    """The groups. Makes what is written to, so that nothing is measured that happens once only."""
    await cluster.every_shard_owned()
    await cluster.answers()
    groups = await choose(cluster, options)
    pool, tally = wire.Pool(*cluster.gateways[0].public), Tally()
    for entity in [HOT, *many, *(entity for group in groups for entity in group)]:
        await tally.ask(pool, entity)
    pool.close()
    if set(tally.statuses) != {200}:
        raise Stuck(f"what is to be measured was not written: {dict(tally.statuses)}")
    return groups


class Findings:
    """What was measured, over all rounds."""

    def __init__(self):
        self.alone, self.beside_many, self.beside_hot = ([Tally() for _ in GROUPS] for _ in range(3))
        self.many, self.hot = Tally(), Tally()
        self.refused = []

    def measure(self, address, groups, many, options):
        """One round."""
        for entities, tallies, crowd_tally in (
            (None, self.alone, Tally()),
            (many, self.beside_many, self.many),
            ([HOT], self.beside_hot, self.hot),
        ):
            time.sleep(SETTLE_SECONDS)
            measured, crowding = phase(address, groups, options, entities)
            for tally, more in zip(tallies, measured):
                tally.add(more)
            crowd_tally.add(crowding)
        self.refused.append(crowding.statuses[429])

    def ratio(self, group):
        return self.beside_hot[group].percentile(0.99) / self.alone[group].percentile(0.99)

    def print(self, options):
        print(
            f"{options.rate:g} commands/s to {options.entities} counters of each group; a crowd of {options.crowd}; "
            f"{options.rounds} rounds of {options.seconds:g} s for each line"
        )
        print(f"{'':<36}{'commands':>9}{'200':>9}{'429':>9}{'other':>7}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>7}")
        for group, name in enumerate(GROUPS):
            for beside, tallies in (("alone", self.alone), ("many", self.beside_many), ("hot", self.beside_hot)):
                tally, label = tallies[group], name + (", alone" if beside == "alone" else f", beside {beside}")
                ratio = tally.percentile(0.99) / self.alone[group].percentile(0.99)
                print(f"{label:<36}{tally.counts()}{tally.percentile(0.5):>9.1f}{tally.percentile(0.99):>9.1f}{ratio:>7.2f}")
        for label, tally in (("the crowd that wants many", self.many), ("the crowd that wants one", self.hot)):
            seconds = options.rounds * (options.seconds + options.warm)
            executed, refused = (tally.statuses[status] / seconds for status in (200, 429))
            print(f"{label:<36}{tally.counts()}   {executed:.0f} executed/s, {refused:.0f} refused/s")

    def slowed(self, options):
        """Groups that are slower than allowed."""
        slow = [group for group in range(len(GROUPS)) if not self.ratio(group) <= options.within]
        return [f"{GROUPS[group]}: the p99 beside the hot one is {self.ratio(group):.2f} times what it is alone" for group in slow]

    def unrefused(self):
        """Rounds in which the crowd got all that it wanted."""
        return [f"round {number}: nothing was refused" for number, count in enumerate(self.refused, 1) if not count]

    def disturbed(self):
        """Others who were told anything but an outcome."""
        wrong = []
        phases = (("alone", self.alone), ("beside many", self.beside_many), ("beside the hot one", self.beside_hot))
        for beside, tallies in phases:
            for name, tally in zip(GROUPS, tallies):
                if set(tally.statuses) != {200}:
                    wrong.append(f"{name}, {beside}: {dict(tally.statuses)}")
        return wrong

    def broken(self):
        """What the crowd must not be told."""
        wrong = []
        if set(self.hot.statuses) - {200, 429}:
            wrong.append(f"the hot one: {dict(self.hot.statuses)}")
        if self.hot.unpromised:
            wrong.append(f"{self.hot.unpromised} refusals without Retry-After")
        return wrong


def run(options, place):
    """What does not hold."""
    settings = dict(options.gateway_env)
    unbound = (UNBOUND_NODE, UNBOUND_GATEWAY) if options.prove else ({}, {})
    shape = Shape(options.programs, gateways=1, node_settings=unbound[0], gateway_settings=settings | unbound[1])
    network = Loopback()
    cluster = Cluster(shape, network, place)
    many = [("counter", f"many-{number}") for number in range(options.crowd)]
    try:
        cluster.start_all()
        groups = asyncio.run(prepare(cluster, options, many))
        before, findings = asyncio.run(placed(cluster, groups)), Findings()
        for _ in range(options.rounds):
            findings.measure(cluster.gateways[0].public, groups, many, options)
            cluster.check_alive()
        findings.print(options)
        moved = [] if asyncio.run(placed(cluster, groups)) == before else ["entities moved meanwhile: measure again"]
    finally:
        cluster.kill_all()
        network.close()
    slowed = findings.slowed(options)
    if options.prove:
        for line in slowed:
            print(f"noticed: {line}")
        return moved if slowed else ["without the bounds of entities, nobody was slowed down"]
    noticed = slowed + findings.unrefused() + findings.disturbed()
    for line in noticed:
        print(f"does not hold: {line}")
    wrong = findings.broken() + moved
    for line in wrong:
        print(f"does not hold: {line}")
    return noticed + wrong


def setting(text):
    name, is_set, value = text.partition("=")
    if not name or not is_set:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=os.path.join(ROOT, "target", "release"), help="where the programs lie")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=10, help="per measurement")
    parser.add_argument("--warm", type=float, default=1, help="seconds that the crowd is there before anything is measured")
    parser.add_argument("--rate", type=float, default=60, help="commands per second to each group")
    parser.add_argument("--entities", type=int, default=8, help="of each group")
    parser.add_argument("--crowd", type=int, default=512, help="connections, each of which waits for an answer or was refused")
    parser.add_argument("--pause", type=float, help="seconds after which who was refused asks again, whatever Retry-After says")
    parser.add_argument(
        "--gateway-env", action="append", type=setting, default=[], metavar="NAME=VALUE", help="a setting of the gateway"
    )
    parser.add_argument("--within", type=float, default=2.0, help="how many times slower the others may be")
    parser.add_argument("--prove", action="store_true", help="without the bounds of entities: fail unless that is noticed")
    return parser.parse_args()


def main():
    options = arguments()
    place = tempfile.mkdtemp(prefix="berth-hot-key-")
    try:
        wrong = run(options, place)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(place, ignore_errors=True)
    print("does not hold" if wrong else "noticed, as it must be" if options.prove else "holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
