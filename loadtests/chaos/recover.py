"""Two of three nodes are gone for good, and an operator recovers the shards from the one that is left (`recover`): the disks of
the others are removed and new nodes come, or they come back later with disks that have more than was recovered."""

import asyncio
import os
import re
import time

from chaos.cluster import Stuck
from chaos.elastic import conclude, elastic_trial
from chaos.restarts import ask_in_vain
from chaos.trial import COUNTS, Report, counts

VARIANTS = ("disks gone", "disks back")
LOST = 3  # what the command ends with when it has only listed what is lost
COMMAND_SECONDS_MAX = 60


async def recover(options, network):
    columns = [("try", 3), ("variant", 10), ("503", 5), ("lost", 4), ("recovered s", 11), ("settled s", 9), *COUNTS, ("violations", 10)]
    report, trial = Report(options, columns), None
    for number in range(1, options.repeat + 1):
        variant = VARIANTS[(number - 1) % len(VARIANTS)]
        name = f"recover-{number}"
        async with elastic_trial(options, network, name, node_settings=options.replacing) as trial, trial:
            cells = trial.new_row(variant=variant)
            await lose_and_recover(options, report, trial, variant, cells)
            await trial.verify_again()
            report.row(trial, **cells)
        if number < options.repeat and not report.is_over():
            conclude_one(report, trial)
        if report.is_over():
            break
    return conclude(options, report, trial)


def conclude_one(report, trial):
    """What was found after the row of a try that is not the last one."""
    if trial.violations:
        report.row(trial, **trial.row)


async def lose_and_recover(options, report, trial, variant, cells):
    cluster = trial.cluster
    kept = await trial.new_load("kept")
    kept.start()
    await asyncio.sleep(options.seconds)
    # With it the survivor has everything: the replicas agree up to the end.
    await trial.verify(kept)
    survivor = trial.chance.choice(cluster.nodes)
    others = [node for node in cluster.nodes if node is not survivor]
    if variant == "disks back":
        await write_without(options, trial, survivor)
    for node in cluster.nodes:
        node.kill()
    if variant == "disks gone":
        for node in others:
            cluster.forget(node)
    survivor.start()
    cells["503"] = len(await ask_in_vain(trial, kept, seconds=4))
    begin = time.monotonic()
    cells["lost"] = await operate(options, trial, survivor)
    await until_owned_by(trial, survivor)
    await cluster.answers()
    cells["recovered s"] = time.monotonic() - begin
    report.sample("command to all shards served", [cells["recovered s"]])
    after = await trial.new_load("after")
    trial.watch_hashes()
    after.start()
    await asyncio.sleep(1)
    begin = time.monotonic()
    for node in others:
        if variant == "disks gone":
            trial.join()
        else:
            node.start()
    await trial.until_settled()
    cells["settled s"] = time.monotonic() - begin
    report.sample("start of two nodes to three copies", [cells["settled s"]])
    await after.stop()
    cells |= counts(await trial.verify(after))
    await check_incarnations(trial)


async def write_without(options, trial, survivor):
    """What the others acknowledge now is lost, so nobody asks for it afterwards."""
    survivor.kill()
    load = await trial.new_load("lost")
    load.start()
    await asyncio.sleep(options.seconds)
    await load.stop()
    load.close()
    trial.loads.remove(load)


async def operate(options, trial, survivor):
    """What an operator does: asks what is lost, and says the words. Gives the number of shards."""
    address = f"http://{survivor.admin[0]}:{survivor.admin[1]}"
    shards = trial.cluster.shape.shards + 1

    async def listed():
        status, text = await command(options, trial, survivor, "--node", address)
        rows = re.findall(r"^  (?:system|\d+) +\d+ of term \d+ ", text, re.MULTILINE)
        if status != LOST or len(rows) != shards:
            raise Stuck(f"the command ends with {status}, not {LOST}, or lists {len(rows)} of {shards} shards: {text[-500:]}")
        return text

    text = await trial.cluster.until("the command lists all shards as lost", listed, pause=0.5)
    words = re.search(r'--confirm "([^"]+)"', text)
    if words is None:
        raise Stuck(f"the command names no words: {text[-500:]}")
    status, refusal = await command(options, trial, survivor, "--node", address, "--confirm", "yes")
    if status != 1:
        trial.add("unconfirmed", f"the command ends with {status} although nothing was confirmed: {refusal[-300:]}")
    status, text = await command(options, trial, survivor, "--node", address, "--confirm", words[1])
    if status:
        raise Stuck(f"the recovery ends with {status}: {text[-500:]}")
    status, text = await command(options, trial, survivor, "--node", address)
    if status:
        trial.add("still-lost", f"the command ends with {status} after the recovery: {text[-300:]}")
    return shards


async def command(options, trial, survivor, *arguments):
    """Exit status and all output of `berth recover`."""
    program = os.path.join(options.programs, "berth")
    words = [*trial.network.inside(survivor.host), program, "recover", *arguments]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    try:
        out, _ = await asyncio.wait_for(child.communicate(), COMMAND_SECONDS_MAX)
    except asyncio.TimeoutError as late:
        child.kill()
        await child.wait()
        raise Stuck(f"{' '.join(arguments)}: no end after {COMMAND_SECONDS_MAX} s") from late
    return child.returncode, out.decode(errors="replace")


async def until_owned_by(trial, survivor):
    async def ask():
        owners = await trial.cluster.owners()
        return all(owners.get(shard) is survivor for shard in range(trial.cluster.shape.shards))

    await trial.cluster.until(f"{survivor.name} owns every shard", ask)


async def check_incarnations(trial):
    """Every replica is of the incarnation that the recovery began, and there are three of each."""
    for shard in (await trial.cluster.ask("/v1/cluster/hashes"))["shards"]:
        incarnations = [replica["incarnation"] for replica in shard["replicas"]]
        if incarnations != [1, 1, 1]:
            trial.add("incarnation", f"shard {shard['shard']} has replicas of the incarnations {incarnations}")
