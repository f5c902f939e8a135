"""Scenarios in which an owner is not dead but cannot be heard: stopped for a while (`pause`) or cut off (`partition`). What it
believes when it is back is out of date, and nothing of that may reach a client."""

import asyncio
import time

from chaos.cluster import Stuck
from chaos.failover import failover_cells
from chaos.trial import COUNTS, Report, Trial, counts, finish

COLUMNS = [("try", 3), ("cut from", 18), ("shards", 6), ("p50 s", 5), ("max s", 5), ("slowest s", 9), ("not ok", 6), ("late", 5)]
# Before the paused ones go on, requests are laid before the paused gateway; after it, it is asked on.
BURST_SECONDS = 0.7
BURST = 150
# After a short pause the former owner still finds the answers of its replicas in its sockets, and connections that stand.
SHORT_PAUSES = (1.1, 1.5, 2.5, 4)


async def pause(options, network):
    """SIGSTOP of an owner and of one gateway that believes in it; others take over; SIGCONT. The gateway then finds requests
    in its sockets that began long after the take-over, and sends them to the former owner at once, and more for a while. Every
    other pause is a short one."""
    report = Report(options, [*COLUMNS, *COUNTS, ("violations", 10)])
    trial = Trial(options, network(), "pause", gateways=options.gateways + 1)
    try:
        async with trial:
            *active, stale = trial.cluster.gateways
            for number in range(1, options.repeat + 1):
                load = await trial.new_load(f"round-{number}", active)
                trial.watch_hashes()
                load.start()
                await asyncio.sleep(options.seconds * trial.chance.uniform(0.3, 1))
                seconds = options.pause if number % 2 else trial.chance.choice(SHORT_PAUSES)
                cells = await pause_owner(seconds, report, trial, load)
                cells["cut from"] = f"time, {seconds:g} s"
                cells |= counts(await trial.verify(load))
                report.row(trial, **cells)
                if report.is_over():
                    break
            await trial.verify_again()
    except Stuck as stuck:
        trial.add("stuck", str(stuck))
    return finish(options, report, trial)


async def believe(load, gateway):
    """Connections to a gateway that has just asked every owner, so that it knows them and is connected to them."""
    pool = load.pool_of(gateway)
    await load.in_parallel([lambda e=entity: load.run(load.read_of(e), pool) for entity in load.entities], most=BURST)
    return pool


async def pause_owner(seconds, report, trial, load):
    cluster, stale = trial.cluster, trial.cluster.gateways[-1]
    owners = await cluster.every_shard_owned()
    victim = owners[load.shards[trial.chance.choice(load.hot)]]
    owned = {shard for shard, owner in owners.items() if owner is victim}
    believer = await believe(load, stale)
    when = time.monotonic()
    victim.pause()
    stale.pause()
    try:
        first = await trial.until_recovered(load, owned, when)
        await asyncio.sleep(max(0, when + seconds - BURST_SECONDS - time.monotonic()))
        late = await ask_believer(load, believer, owned)
        await asyncio.sleep(max(0, when + seconds - time.monotonic()))
    finally:
        # Either may be the first to go on.
        for process in trial.chance.sample((victim, stale), 2):
            process.resume()
            await asyncio.sleep(trial.chance.choice((0, 0, 0.05)))
    late += await ask_believer(load, believer, owned)
    await asyncio.gather(*late)
    await trial.until_hashes_agree()
    await load.stop()
    cells = failover_cells(report, trial, load, first, when)
    return cells | {"not ok": len(trial.failed(load, when - 1)), "late": len(late)}


async def ask_believer(load, pool, owned):
    """Requests to the victim's entities, most of them reads of what others have written meanwhile. They begin now; while the
    gateway is stopped they are answered after the pause."""
    busy = [entity for entity in [*load.hot * 20, *load.entities] if load.shards.get(entity) in owned]
    late = []
    for _ in range(BURST):
        entity = load.chance.choice(busy)
        if load.chance.random() < 0.7:
            operation = load.read_of(entity)
        else:
            operation = load.write_of(entity, {"counter": "add", "document": "put"}.get(entity[0], "withdraw"))
            if load.chance.random() < 0.3:
                operation.expected = max(1, load.known[entity] - 1)
        late.append(load.launch(operation, pool))
        await asyncio.sleep(BURST_SECONDS / BURST / 2)
    return late


CUTS = ("peers", "everyone", "split")


async def partition(options, network):
    """The owner is cut from its peers only, so that gateways still reach it; then from everyone; then it is alone with one
    gateway, whose clients go on asking it while others write elsewhere. Links are cut silently: packets vanish, connections
    stay."""
    report = Report(options, [*COLUMNS, *COUNTS, ("violations", 10)])
    trial = Trial(options, network(), "partition", gateways=options.gateways + 1)
    try:
        async with trial:
            for number in range(1, options.repeat + 1):
                for cut in CUTS:
                    gateways = trial.cluster.gateways if cut == "split" else trial.cluster.gateways[:-1]
                    load = await trial.new_load(f"round-{number}-{cut}", gateways)
                    trial.watch_hashes()
                    load.start()
                    await asyncio.sleep(options.seconds * trial.chance.uniform(0.3, 1))
                    cells = await cut_owner(options, report, trial, load, cut)
                    cells |= counts(await trial.verify(load))
                    report.row(trial, **cells)
                    if report.is_over():
                        return finish(options, report, trial)
            await trial.verify_again()
    except Stuck as stuck:
        trial.add("stuck", str(stuck))
    return finish(options, report, trial)


async def cut_owner(options, report, trial, load, cut):
    cluster = trial.cluster
    owners = await cluster.every_shard_owned()
    victim = owners[load.shards[trial.chance.choice(load.hot)]]
    owned = {shard for shard, owner in owners.items() if owner is victim}
    peers, (*gateways, alone) = [node for node in cluster.nodes if node is not victim], cluster.gateways
    links = [(victim, peer) for peer in peers]
    if cut == "everyone":
        links += [(victim, gateway) for gateway in cluster.gateways]
    elif cut == "split":
        links += [(victim, gateway) for gateway in gateways] + [(alone, peer) for peer in peers]
    when = time.monotonic()
    for link in links:
        cluster.cut(*link)
    first = await trial.until_recovered(load, owned, when)
    await asyncio.sleep(max(0, when + options.pause - time.monotonic()))
    for link in links:
        cluster.heal(*link)
    await trial.until_hashes_agree()
    await load.stop()
    cells = failover_cells(report, trial, load, first, when)
    return cells | {"cut from": cut, "not ok": len(trial.failed(load, when - 1))}
