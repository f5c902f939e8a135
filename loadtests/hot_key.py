#!/usr/bin/env python3
"""Measures what one entity that everybody wants costs the others: a cluster of real processes, clients that write to many
counters at a steady rate, and others that all write to one, in bursts that are larger than what may wait for it.

    cargo build --release --workspace
    loadtests/hot_key.py
    loadtests/hot_key.py --burst 2000 --every 0.5 --seconds 30

Prints a table of three phases: the others alone; the others beside the same bursts spread over as many entities; the others
beside the hot entity. Ends with 0 when the hot entity was refused (429 with Retry-After), nothing else was, and the p99 of the
others beside it is within --within (2) times what it is alone. Both kinds of clients are processes of their own. Run it on a
machine with nothing else to do. Needs nothing but Python's standard library.
"""

import argparse
import asyncio
import collections
import multiprocessing
import os
import shutil
import sys
import tempfile
import time

from chaos import wire
from chaos.cluster import ROOT, Cluster, Shape, Stuck
from chaos.network import Loopback

HOT = ("counter", "hot")
PATIENCE_SECONDS = 7


class Tally:
    """What clients of one kind were told."""

    def __init__(self):
        self.statuses, self.millis, self.unpromised = collections.Counter(), [], 0

    async def ask(self, pool, entity):
        """One command. Times are those of the commands that were executed."""
        begin = time.monotonic()
        try:
            answer = await pool.request("POST", f"{wire.entity_path(entity)}/add", body={"by": 1}, timeout=PATIENCE_SECONDS)
        except OSError as error:
            self.statuses[type(error).__name__] += 1
            return
        self.statuses[answer.status] += 1
        if answer.status == 200:
            self.millis.append((time.monotonic() - begin) * 1000)
        if answer.status == 429 and "retry-after" not in answer.headers:
            self.unpromised += 1

    def percentile(self, share):
        if not self.millis:
            return float("nan")
        ordered = sorted(self.millis)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def row(self, name):
        others = sum(count for status, count in self.statuses.items() if status not in (200, 429))
        counts = f"{sum(self.statuses.values()):>9}{self.statuses[200]:>9}{self.statuses[429]:>9}{others:>7}"
        return f"{name:<34}{counts}{self.percentile(0.5):>10.1f}{self.percentile(0.99):>10.1f}"


async def steady(address, options):
    """Requests at a rate, whatever becomes of them; each for the next of many entities."""
    pool, tally, running = wire.Pool(*address), Tally(), set()
    begin, number = time.monotonic(), 0
    while (now := time.monotonic()) < begin + options.seconds:
        while number < (now - begin) * options.rate:
            asking = asyncio.create_task(tally.ask(pool, ("counter", f"other-{number % options.entities}")))
            running.add(asking)
            asking.add_done_callback(running.discard)
            number += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*running)
    pool.close()
    return tally


async def bursts(address, options, entity_of):
    """Many requests at once, again and again."""
    pool, tally, running = wire.Pool(*address), Tally(), set()
    begin, number = time.monotonic(), 0
    while time.monotonic() < begin + options.seconds:
        for place in range(options.burst):
            asking = asyncio.create_task(tally.ask(pool, entity_of(place)))
            running.add(asking)
            asking.add_done_callback(running.discard)
        number += 1
        await asyncio.sleep(max(0.0, begin + number * options.every - time.monotonic()))
    await asyncio.gather(*running)
    pool.close()
    return tally


def hot(_place):
    return HOT


def spread(place):
    return ("counter", f"spread-{place}")


def in_process(work, *arguments):
    """Runs a coroutine function in a process of its own; gives what waits for its result."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run():
        theirs.send(asyncio.run(work(*arguments)))

    child = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    child.start()
    theirs.close()
    return ours


def phase(address, options, entity_of=None):
    """The tallies of the others and, where there are bursts, of these."""
    measuring = in_process(steady, address, options)
    bursting = in_process(bursts, address, options, entity_of) if entity_of else None
    return measuring.recv(), bursting.recv() if bursting else None


async def prepare(cluster, options):
    """Makes what is written to, so that nothing is measured that happens once only."""
    await cluster.every_shard_owned()
    await cluster.answers()
    pool, tally = wire.Pool(*cluster.gateways[0].public), Tally()
    entities = [("counter", f"other-{number}") for number in range(options.entities)]
    for entity in [*entities, *(spread(place) for place in range(options.burst)), HOT]:
        await tally.ask(pool, entity)
    pool.close()
    if set(tally.statuses) != {200}:
        raise Stuck(f"what is to be measured was not written: {dict(tally.statuses)}")


def measure(cluster, options):
    """Prints the table; gives what does not hold."""
    address = cluster.gateways[0].public
    print(f"{options.rate:g} commands/s to {options.entities} counters; bursts of {options.burst} every {options.every:g} s")
    print(f"{'':<34}{'commands':>9}{'200':>9}{'429':>9}{'other':>7}{'p50 ms':>10}{'p99 ms':>10}")
    alone, _ = phase(address, options)
    print(alone.row("others, alone"))
    beside_many, many = phase(address, options, spread)
    print(beside_many.row("others, beside bursts to many"))
    print(many.row("  these"))
    beside_hot, one = phase(address, options, hot)
    print(beside_hot.row("others, beside bursts to one"))
    print(one.row("  the hot one"))
    ratio = beside_hot.percentile(0.99) / alone.percentile(0.99)
    print(f"p99 of the others beside the hot one: {ratio:.2f} times what it is alone, {options.within:g} allowed")
    wrong = []
    if not ratio <= options.within:
        wrong.append("the others are slower than allowed")
    for name, tally in (("alone", alone), ("beside many", beside_many), ("beside the hot one", beside_hot)):
        if set(tally.statuses) != {200}:
            wrong.append(f"others, {name}: {dict(tally.statuses)}")
    if not one.statuses[429] or set(one.statuses) - {200, 429}:
        wrong.append(f"the hot one: {dict(one.statuses)}")
    if one.unpromised:
        wrong.append(f"{one.unpromised} refusals without Retry-After")
    return wrong


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=os.path.join(ROOT, "target", "release"), help="where the programs lie")
    parser.add_argument("--seconds", type=float, default=15, help="per phase")
    parser.add_argument("--rate", type=float, default=200, help="commands per second to the others")
    parser.add_argument("--entities", type=int, default=200, help="others")
    parser.add_argument("--burst", type=int, default=500, help="commands at once")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one burst to the next")
    parser.add_argument("--within", type=float, default=2.0, help="how many times slower the others may be")
    return parser.parse_args()


def main():
    options = arguments()
    place = tempfile.mkdtemp(prefix="berth-hot-key-")
    cluster = Cluster(Shape(options.programs, gateways=1), Loopback(), place)
    try:
        cluster.start_all()
        asyncio.run(prepare(cluster, options))
        wrong = measure(cluster, options)
    finally:
        cluster.kill_all()
        shutil.rmtree(place, ignore_errors=True)
    for line in wrong:
        print(f"does not hold: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
