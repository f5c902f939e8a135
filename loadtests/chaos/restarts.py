"""Scenarios about what disks remember: all processes killed at once (`all-kill`), a node that was away for long (`catch-up`),
and most disks lost (`lost-quorum`)."""

import asyncio
import time

from chaos.cluster import Stuck
from chaos.trial import COUNTS, Report, Trial, clean, counts, finish


async def all_kill(options, network):
    """kill -9 of nodes and gateways under load, all started again, one cluster throughout."""
    report = Report(options, [("try", 3), ("load s", 6), ("start s", 7), *COUNTS, ("events", 7), ("violations", 10)])
    trial = Trial(options, network(), "all-kill")
    try:
        async with trial:
            for _ in range(options.repeat):
                load = await trial.new_load(f"round-{report.count + 1}")
                load.start()
                seconds = options.seconds * trial.chance.uniform(0.3, 1)
                await asyncio.sleep(seconds)
                trial.cluster.kill_all()
                await load.stop()
                trial.cluster.start_all()
                started = await trial.until_serving()
                tally = await trial.verify(load)
                report.row(trial, **{"load s": seconds, "start s": started, "events": tally.events}, **counts(tally))
                if report.is_over():
                    break
            await trial.verify_again()
    except Stuck as stuck:
        trial.add("stuck", str(stuck))
    return finish(options, report, trial)


# ---- catch-up

# Small enough for a short load to make the journal let go of what a node that is away has not seen.
SMALL_JOURNAL = {"BERTH_JOURNAL__LIVE_SIZE": "1MiB", "BERTH_STORE__CHECKPOINT_INTERVAL": "500ms"}
SNAPSHOT_HAS_COME = "a snapshot has come"  # in the log of the node that it came to


async def catch_up(options, network):
    """A node is away while the others write, first with a journal that keeps everything, then with one that does not."""
    columns = [("try", 3), ("by", 8), ("away s", 6), ("written", 7), ("back s", 6), ("snapshots", 9), *COUNTS, ("violations", 10)]
    report = Report(options, columns)
    for number in range(1, options.repeat + 1):
        for by in ("log", "snapshot"):
            small = by == "snapshot"
            settings = SMALL_JOURNAL if small else {}
            trial = Trial(options, network(), f"catch-up-{by}-{number}", node_settings=settings)
            cells = {"by": by}
            try:
                async with trial:
                    cells |= await be_away(options, trial, small)
                    if small and cells["snapshots"] == 0:
                        trial.add("no-snapshot", "the node caught up without a snapshot, so nothing was tested")
                    if not small and cells["snapshots"]:
                        trial.add("no-log", "the node caught up by a snapshot, though the log was there")
            except Stuck as stuck:
                trial.add("stuck", str(stuck))
            trial.network.close()
            held = not trial.violations
            report.row(trial, **cells)
            if held:
                clean(options, trial)
            if report.is_over():
                return report.summary()
    return report.summary()


async def be_away(options, trial, small):
    cluster = trial.cluster
    load = await trial.new_load("load", documents=60 if small else 0, document_bytes=4000)
    trial.watch_hashes()
    load.start()
    await asyncio.sleep(1)
    node = trial.chance.choice(cluster.nodes)
    node.kill()
    before = len(load.operations)
    await asyncio.sleep(options.away)
    written = sum(operation.version is not None and operation.command is not None for operation in load.operations[before:])
    begin = time.monotonic()
    node.start()
    # Under load, so that the node has to catch up with what moves on.
    await trial.until_hashes_agree()
    back = time.monotonic() - begin
    snapshots = snapshots_taken_in(node)
    await load.stop()
    cells = {"away s": options.away, "written": written, "back s": back, "snapshots": snapshots}
    return cells | counts(await trial.verify(load))


def snapshots_taken_in(node):
    """How many snapshots the node says it got since its last start."""
    return sum(SNAPSHOT_HAS_COME in line for line in node.log_since_start())


# ---- lost-quorum

ORDERS = ("all at once", "survivor late", "survivor first")


async def lost_quorum(options, network):
    """Two of three disks are gone. What is left may not answer, and nothing may begin anew in its place."""
    columns = [("try", 3), ("order", 14), ("asked", 6), ("503", 6), ("other", 6), ("violations", 10)]
    report = Report(options, columns)
    for number in range(1, options.repeat + 1):
        order = ORDERS[(number - 1) % len(ORDERS)]
        trial = Trial(options, network(), f"lost-quorum-{number}")
        cells = {"order": order}
        try:
            async with trial:
                cells |= await lose(options, trial, order)
        except Stuck as stuck:
            trial.add("stuck", str(stuck))
        trial.network.close()
        held = not trial.violations
        report.row(trial, **cells)
        if held:
            clean(options, trial)
        if report.is_over():
            break
    return report.summary()


async def lose(options, trial, order):
    cluster = trial.cluster
    load = await trial.new_load("load")
    load.start()
    await asyncio.sleep(options.seconds)
    await trial.verify(load)
    survivor = trial.chance.choice(cluster.nodes)
    before = survivor.identity()
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        if node is not survivor:
            node.wipe()
    await start_in(order, cluster, survivor)
    asked = await ask_in_vain(trial, load, seconds=max(options.seconds, 8))
    cluster.check_alive()
    await check_nothing_began(trial, survivor, before)
    unavailable = sum(operation.status == 503 for operation in asked)
    return {"asked": len(asked), "503": unavailable, "other": len(asked) - unavailable}


async def start_in(order, cluster, survivor):
    wiped = [node for node in cluster.nodes if node is not survivor]
    first, then = {"survivor late": (wiped, [survivor]), "survivor first": ([survivor], wiped)}.get(order, (cluster.nodes, []))
    for node in first:
        node.start()
    if then:
        # Time enough for two fresh nodes to make a mistake.
        await asyncio.sleep(4)
    for node in then:
        node.start()


async def ask_in_vain(trial, load, seconds):
    """Reads and writes for a while. Every answer must be 503: one that shows data, or says that there is none, is wrong,
    and 504 would be a write that reached an executor which may not have executed."""
    before, until = len(load.operations), time.monotonic() + seconds
    while time.monotonic() < until:
        # With a deadline of seconds each, some at once are enough.
        await load.in_parallel([lambda: load.run(load.next_operation()) for _ in range(40)], most=40)
    asked = load.operations[before:]
    for operation in asked:
        if operation.status != 503:
            trial.add("answered-without-quorum", str(operation))
    return asked


async def check_nothing_began(trial, survivor, before):
    """The survivor is of the cluster that it was of, the others of that one or none, and no shard has an owner."""
    cluster = trial.cluster
    after = survivor.identity()
    if after != before:
        trial.add("identity", f"the survivor's identity was {before} and is {after}")
    trial.check_disks()
    try:
        owners = await cluster.owners()
    except Stuck:
        return  # That nobody can say is an answer too.
    if owned := {shard: owner.name for shard, owner in owners.items() if owner is not None}:
        trial.add("owned-without-quorum", f"{len(owned)} shards have owners: {dict(list(owned.items())[:5])}")
