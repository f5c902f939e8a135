"""Scenarios in which the owner of busy shards is killed under load: with its disk lost (`owner-wipe`) and kept (`owner-kill`)."""

import asyncio
import time

from chaos.cluster import Stuck
from chaos.trial import COUNTS, Report, Trial, clean, counts, percentile

COLUMNS = [("try", 3), ("start s", 7), ("shards", 6), ("p50 s", 5), ("max s", 5), ("slowest s", 9), ("not ok", 6), ("back s", 6)]


async def kill_owner(trial, load, wipe):
    """kill -9 of the owner of the busiest shard; what it owned and when it was killed."""
    owners = await trial.cluster.every_shard_owned()
    victim = owners[load.shards[trial.chance.choice(load.hot)]]
    owned = {shard for shard, owner in owners.items() if owner is victim}
    when = time.monotonic()
    victim.kill()
    if wipe:
        await asyncio.to_thread(victim.wipe)
    return victim, owned, when


def failover_cells(report, trial, load, first, since):
    """The columns about how long it took. `slowest` is the longest request of all."""
    times = list(first.values())
    report.sample("kill to first write, per shard", times)
    if times:
        report.sample("kill to first write on the last shard, per try", [max(times)])
    slowest = [o.completed - o.invoked for o in load.operations if o.invoked > since - 1 and o.completed < float("inf")]
    return {
        "shards": len(times),
        "p50 s": percentile(times, 50) if times else "",
        "max s": max(times, default=""),
        "slowest s": max(slowest, default=""),
    }


def check_bounds(report, trial, options):
    """The promise about the time is one about all tries together."""
    times = report.samples["kill to first write, per shard", "s"]
    for percent, bound in ((50, options.p50), (99, options.p99)):
        if times and percentile(times, percent) > bound:
            trial.add("too-slow", f"p{percent} of kill to first write is {percentile(times, percent):.2f} s, above {bound} s")
    report.violations += [(trial, violation) for violation in trial.violations]
    trial.violations = []


async def owner_wipe(options, network):
    """Every try is a fresh cluster, so that it does not matter whether lost replicas are replaced."""
    report, trial = Report(options, [*COLUMNS, *COUNTS, ("violations", 10)]), None
    print_return(options)
    for number in range(1, options.repeat + 1):
        trial = Trial(options, network(), f"wipe-{number}")
        cells = {}
        try:
            async with trial:
                load = await trial.new_load("load")
                trial.watch_hashes()
                load.start()
                await asyncio.sleep(options.seconds * trial.chance.uniform(0.5, 1))
                victim, owned, when = await kill_owner(trial, load, wipe=True)
                back = asyncio.create_task(come_back(options, victim))
                first = await trial.until_recovered(load, owned, when)
                back_after = await back
                await asyncio.sleep(1)
                await load.stop()
                cells = failover_cells(report, trial, load, first, when)
                cells |= {"start s": trial.started, "not ok": trial.must_succeed(load), "back s": back_after}
                # The victim's replicas are gone, and what is at its address now is another node.
                cells |= counts(await trial.verify(load, replicas=trial.cluster.shape.copies - 1))
        except Stuck as stuck:
            trial.add("stuck", str(stuck))
        trial.network.close()
        held = not trial.violations
        report.row(trial, **cells)
        if held:
            clean(options, trial)
        if report.is_over():
            break
    check_bounds(report, trial, options)
    return report.summary()


def print_return(options):
    back = "does not come back" if options.back < 0 else f"comes back {options.back} s later at its address with an empty disk, as a new node"
    print(f"    the killed node {back}; no try waits until its replicas are replaced", flush=True)


async def come_back(options, victim):
    """An empty disk at the address of a member: a new node, which must disturb nobody."""
    if options.back < 0:
        return "never"
    await asyncio.sleep(options.back)
    victim.start()
    return options.back


async def owner_kill(options, network):
    """One cluster: in every round another owner dies, and is back and has caught up before the next."""
    report = Report(options, [*COLUMNS, *COUNTS, ("violations", 10)])
    trial = Trial(options, network(), "kill")
    try:
        async with trial:
            for number in range(1, options.repeat + 1):
                load = await trial.new_load(f"round-{number}")
                trial.watch_hashes()
                load.start()
                await asyncio.sleep(options.seconds * trial.chance.uniform(0.5, 1))
                victim, owned, when = await kill_owner(trial, load, wipe=False)
                first = await trial.until_recovered(load, owned, when)
                await asyncio.sleep(max(0, options.back))
                begin = time.monotonic()
                victim.start()
                await trial.until_hashes_agree()
                back = time.monotonic() - begin
                await load.stop()
                cells = failover_cells(report, trial, load, first, when)
                cells |= {"start s": trial.started, "not ok": trial.must_succeed(load), "back s": back}
                cells |= counts(await trial.verify(load))
                report.row(trial, **cells)
                if report.is_over():
                    break
            await trial.verify_again()
    except Stuck as stuck:
        trial.add("stuck", str(stuck))
    trial.network.close()
    check_bounds(report, trial, options)
    if not report.violations:
        clean(options, trial)
    return report.summary()
