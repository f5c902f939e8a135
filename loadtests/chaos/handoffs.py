"""How long nobody can write to a shard while it passes from one living owner to another (`hand-offs`): members come and go, and
shards that are about to change their owner have a client that writes every 5 ms. The longest time between two of its successes
around the hand-off is what is measured, and nothing of it is left out, the harness' own delays included."""

import asyncio
import gc
import time

from chaos.cluster import shown_id
from chaos.elastic import LOAD_COLUMNS, SPREAD_COLUMNS, conclude, elastic_trial, end_of_load
from chaos.histories import OK
from chaos.logs import JSON_LINES, HandOff, Tails
from chaos.network import come_first
from chaos.trial import COUNTS, Report, counts, percentile

WRITE_SECONDS = 0.005
LOOK_SECONDS = 0.1
# A hand-off is measured where its client wrote so long before it began and after it ended.
AROUND_SECONDS = 0.3
# How long a client goes on after its shard is where it belongs, and how long it waits for the plan that moves it.
AFTERWARDS_SECONDS = 0.8
PLANNING_SECONDS = 5
# Changes of members without a hand-off that could be measured, after which the scenario gives up.
IDLE_CHANGES_MAX = 4


async def hand_offs(options, network):
    columns = [("try", 3), ("change", 6), *SPREAD_COLUMNS, ("settled s", 9), ("hand-offs", 9), ("measured", 8)]
    columns += [("p50 ms", 6), ("p99 ms", 6), ("max ms", 6), ("own p50", 7), ("own max", 7), ("calm max", 8), ("lag max", 7)]
    report = Report(options, [*columns, *LOAD_COLUMNS, *COUNTS, ("violations", 10)])
    # A collection of all garbage takes longer than the pauses that are looked for.
    gc.disable()
    come_first()
    async with elastic_trial(options, network, "hand-offs", options.dns, node_settings=JSON_LINES) as trial, trial:
        measured, idle, number = 0, 0, 0
        while measured < options.repeat and not report.is_over():
            number += 1
            found = await one_change(options, report, trial, number)
            measured, idle = measured + found, 0 if found else idle + 1
            if idle == IDLE_CHANGES_MAX:
                trial.add("harness", f"{idle} changes of members without a hand-off that could be measured")
                break
        check_pauses(options, report, trial)
    gc.enable()
    return conclude(options, report, trial)


AROUND = ("longest time without a success around a hand-off", "ms")
OWN = ("pause by the word of the former owner", "ms")


def check_pauses(options, report, trial):
    """The promise about the time is one about all hand-offs together."""
    pauses = report.samples[AROUND]
    for percent, bound in ((99, options.pause_p99), (100, options.pause_max)):
        if pauses and percentile(pauses, percent) > bound:
            what = "the longest" if percent == 100 else f"p{percent}"
            trial.add("pause", f"{what} of {len(pauses)} pauses is {percentile(pauses, percent):.0f} ms, above {bound:g} ms")


async def one_change(options, report, trial, number):
    """A node comes, or any one goes; how many hand-offs were measured meanwhile."""
    load = await trial.new_load(f"change-{number}")
    gc.collect()
    tails, lag = Tails(trial.cluster), Lag()
    probers = Probers(trial, load, options.probers)
    load.start()
    await asyncio.sleep(1)
    tasks = [asyncio.create_task(lag.run()), asyncio.create_task(probers.run())]
    begin, grows = time.monotonic(), number % 2 == 1
    cells = trial.new_row(change="+1" if grows else "-1")
    try:
        if grows:
            await trial.until_ready(trial.join())
        else:
            leaver = trial.some_node()
            await probers.before_leaving(leaver)
            await trial.leave(leaver)
        _, placement = await trial.until_settled()
        cells["settled s"] = time.monotonic() - begin
        await asyncio.sleep(AFTERWARDS_SECONDS + AROUND_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await probers.stop()
    seen = [event for event in tails.look() if isinstance(event, HandOff) and event.shard < trial.cluster.shape.shards]
    tails.close()
    cells |= measure(report, probers, seen) | {"lag max": lag.most_ms(), "not ok": await end_of_load(trial, load)}
    cells |= trial.spread_cells(placement) | trial.load_cells(load) | counts(await trial.verify(load))
    found = cells["measured"]
    report.row(trial, **cells)
    return found


def measure(report, probers, seen):
    """The columns about the hand-offs that were seen."""
    gaps, calm = [], []
    for event in seen:
        began = event.at - event.pause_ms / 1000
        for prober in probers.of(event.shard):
            if (gap := prober.longest_gap(began - AROUND_SECONDS, event.at + AROUND_SECONDS)) is not None:
                gaps.append(1000 * gap)
                before = prober.longest_gap(began - 2 * AROUND_SECONDS, began - AROUND_SECONDS)
                calm += [1000 * before] if before is not None else []
                break
    own = [event.pause_ms for event in seen]
    report.sample(AROUND[0], gaps, AROUND[1])
    report.sample(OWN[0], own, OWN[1])
    cells = {"hand-offs": len(seen), "measured": len(gaps)}
    if gaps:
        cells |= {"p50 ms": percentile(gaps, 50), "p99 ms": percentile(gaps, 99), "max ms": max(gaps)}
    if own:
        cells |= {"own p50": percentile(own, 50), "own max": max(own)}
    return {**cells, "calm max": max(calm, default="")}


class Prober:
    """One client that writes to one entity: the next write begins 5 ms after the one before it, or when that was answered."""

    def __init__(self, load, shard):
        self.load, self.shard = load, shard
        [self.entity] = load.counters_of([shard]).values()
        self.successes, self.is_over = [], False
        self.idle_since = None  # since when its shard is where it belongs
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while not self.is_over:
            begin = time.monotonic()
            operation = await self.load.run(self.load.write_of(self.entity, "add"))
            if operation.outcome == OK:
                self.successes.append(operation.completed)
            await asyncio.sleep(max(0, begin + WRITE_SECONDS - time.monotonic()))

    def longest_gap(self, begin, end):
        """Seconds of the longest time without a success that touches the time from begin to end; None where it did not write for
        all of it."""
        times = self.successes
        if not times or times[0] > begin or times[-1] < end:
            return None
        return max((later - earlier for earlier, later in zip(times, times[1:]) if later > begin and earlier < end), default=None)


class Probers:
    """Clients for the shards that are about to change their owner, a few at once."""

    def __init__(self, trial, load, most):
        self.trial, self.load, self.most = trial, load, most
        self.active, self.all = {}, []

    def of(self, shard):
        return [prober for prober in self.all if prober.shard == shard]

    async def run(self):
        while True:
            placement = await self.trial.cluster.until("somebody answers", self.trial.placement, 30)
            self.follow(placement.in_transit())
            await asyncio.sleep(LOOK_SECONDS)

    def follow(self, in_transit):
        now = time.monotonic()
        for shard, prober in list(self.active.items()):
            if shard in in_transit:
                prober.idle_since = None
            elif prober.idle_since is None:
                prober.idle_since = now
            elif now > prober.idle_since + AFTERWARDS_SECONDS:
                prober.is_over = True
                del self.active[shard]
        for shard in in_transit:
            if len(self.active) < self.most and shard not in self.active:
                self.begin(shard)

    async def before_leaving(self, node):
        """Once a node leaves, its shards are handed off within a second, which is too soon to begin then."""
        placement, node_id = await self.trial.placement(), shown_id(node.identity()["node"])
        owned = [number for number, group in placement.shards.items() if group["owner"] == node_id]
        for shard in self.trial.chance.sample(owned, min(self.most, len(owned))):
            self.begin(shard).idle_since = time.monotonic() + PLANNING_SECONDS
        await asyncio.sleep(2 * AROUND_SECONDS)

    def begin(self, shard):
        self.active[shard] = prober = Prober(self.load, shard)
        self.all.append(prober)
        return prober

    async def stop(self):
        """No client may write after this, because the histories are checked then."""
        for prober in self.all:
            prober.is_over = True
        await asyncio.gather(*(prober.task for prober in self.all))


class Lag:
    """How late the harness itself is, which is part of everything that it measures."""

    def __init__(self):
        self.worst = 0.0

    async def run(self):
        while True:
            turn = time.monotonic() + WRITE_SECONDS
            await asyncio.sleep(WRITE_SECONDS)
            self.worst = max(self.worst, time.monotonic() - turn)

    def most_ms(self):
        return 1000 * self.worst
