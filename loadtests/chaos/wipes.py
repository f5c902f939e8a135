"""A random node is killed with kill -9 and its disk is gone, again and again in one cluster (`wipe`). Others take over what it
owned, and later, after `replace_after`, its replicas; a fresh node comes after a while."""

import asyncio
import contextlib
import time

from chaos.cluster import Stuck, shown_id
from chaos.elastic import LOAD_COLUMNS, SPREAD_COLUMNS, conclude, elastic_trial
from chaos.failover import check_bounds, failover_cells
from chaos.placement import suspected
from chaos.trial import COUNTS, Report, counts

LOOK_SECONDS = 0.05
DETECTION_SECONDS_MAX = 2.0
# The fresh node comes before the dead one is replaced, or after it.
BACK_FACTORS = (0.25, 3)


async def wipe(options, network):
    columns = [("try", 3), ("killed", 8), ("back", 9), ("detected s", 10), ("shards", 6), ("p50 s", 5), ("max s", 5)]
    columns += [("back s", 6), ("restored s", 10), ("settled s", 9), *SPREAD_COLUMNS, *LOAD_COLUMNS, *COUNTS, ("violations", 10)]
    report = Report(options, columns)
    async with elastic_trial(options, network, "wipe", options.dns, node_settings=options.replacing) as trial, trial:
        for number in range(1, options.repeat + 1):
            load = await trial.new_load(f"round-{number}")
            trial.watch_hashes()
            load.start()
            await asyncio.sleep(options.seconds * trial.chance.uniform(0.5, 1))
            cells = trial.new_row()
            first, when = await lose_one(options, report, trial, load, cells)
            await load.stop()
            cells |= trial.load_cells(load) | failover_cells(report, trial, load, first, when)
            cells["not ok"] = trial.must_succeed(load)
            cells |= counts(await trial.verify(load))
            report.row(trial, **cells)
            if report.is_over():
                break
        await trial.verify_again()
    check_bounds(report, trial, options)
    return conclude(options, report, trial)


async def lose_one(options, report, trial, load, cells):
    """How long each shard of the victim's took no write, and when it was killed."""
    cluster = trial.cluster
    owners = await cluster.every_shard_owned()
    victim = trial.some_node()
    lost = shown_id(victim.identity()["node"])
    owned = {shard for shard, owner in owners.items() if owner is victim}
    when = time.monotonic()
    victim.kill()
    cells["killed"] = victim.name
    await asyncio.to_thread(victim.wipe)
    watching = asyncio.create_task(until_seen(options, trial, lost, when))
    back = asyncio.create_task(come_back(options, trial, victim))
    try:
        first = await trial.until_recovered(load, owned, when)
        cells |= await back
        detected = await watching
    finally:
        for task in (watching, back):
            task.cancel()
    cells["detected s"] = "never" if detected is None else detected
    if detected is not None:
        report.sample("kill to suspected", [detected])
    if detected is None or detected > DETECTION_SECONDS_MAX:
        trial.add("detection", f"{victim.name} is suspected {cells['detected s']} s after its end, not within {DETECTION_SECONDS_MAX} s")
    await until_restored(trial, lost)
    cells["restored s"] = time.monotonic() - when
    report.sample("kill to all replicas restored", [cells["restored s"]])
    _, placement = await trial.until_settled()
    cells["settled s"] = time.monotonic() - when
    cells |= trial.spread_cells(placement)
    return first, when


async def until_seen(options, trial, lost, when):
    """Seconds until the others suspect the node; None when they never do."""
    while time.monotonic() < when + options.patience:
        with contextlib.suppress(Stuck):
            if suspected(await trial.cluster.ask("/v1/cluster"), lost):
                return time.monotonic() - when
        await asyncio.sleep(LOOK_SECONDS)
    return None


async def come_back(options, trial, victim):
    """A node with an empty disk, at the address of the dead one or at another."""
    seconds = max(0, options.back) * trial.chance.uniform(*BACK_FACTORS)
    await asyncio.sleep(seconds)
    at_its_place = trial.chance.random() < 0.5
    if at_its_place:
        trial.cluster.start_empty(victim)
    else:
        trial.cluster.forget(victim)
        trial.join()
    return {"back": "same host" if at_its_place else "new host", "back s": seconds}


async def until_restored(trial, lost):
    """Until every shard has its full number of voters, all on nodes that run, and their contents agree."""

    async def ask():
        nodes, placement = trial.ids(), await trial.placement()
        return lost not in nodes and not placement.unrestored(nodes, min(trial.cluster.shape.replicas, len(trial.cluster.nodes)))

    await trial.cluster.until("the number of replicas is restored", ask, trial.options.patience, LOOK_SECONDS)
    await trial.until_hashes_agree()
