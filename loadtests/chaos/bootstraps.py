"""Fresh nodes become one cluster, in whatever order and however disturbed (`bootstrap`)."""

import asyncio
import contextlib
import time

from chaos import wire
from chaos.cluster import Stuck
from chaos.names import Names
from chaos.network import PEER_PORT
from chaos.trial import Report, Trial, clean

COLUMNS = [("try", 3), ("order", 8), ("late s", 6), ("killed", 6), ("at s", 5), ("formed s", 8), ("clusters", 8), ("violations", 10)]
SHARDS = 8  # few, because a cluster is formed, not loaded
START_SPREAD_SECONDS = 0.3
LATE_SECONDS = (0.3, 2.0)
# Forming a cluster takes a third of a second or so; most kills fall into it.
KILL_SECONDS = (0.1, 0.3, 1.2)
# When DNS lists a node, before or after it starts.
LISTED_SECONDS = (-0.5, 1.5)


async def bootstrap(options, network):
    report = Report(options, COLUMNS)
    numbers = iter(range(1, options.repeat + 1))

    async def work():
        for number in numbers:
            await attempt(options, network, report, number)
            if report.is_over():
                return

    await asyncio.gather(*(work() for _ in range(options.parallel)))
    return report.summary()


async def attempt(options, network, report, number):
    place, shape = network(), {"shards": SHARDS, "gateways": 1}
    names = Names(place.harness_host()) if options.dns else None
    if names:
        shape["node_settings"], shape["gateway_settings"] = names.settings(PEER_PORT)
    trial = DisturbedStart(options, place, f"bootstrap-{number}", **shape)
    trial.names = names
    try:
        async with names or contextlib.nullcontext(), trial:
            report.sample("last start to a cluster that serves", [trial.started])
            clusters = await check_one_cluster(trial)
            await check_serves(trial)
            if number % 10 == 0:
                # What was formed lasts: everything is killed, and comes back as the same cluster.
                trial.cluster.kill_all()
                trial.cluster.start_all()
                await trial.until_serving()
                if await check_one_cluster(trial) != clusters:
                    trial.add("clusters", f"before a restart of all {clusters}, then another")
            trial.cells |= {"formed s": trial.started, "clusters": len(clusters)}
    except Stuck as stuck:
        trial.add("stuck", str(stuck))
    trial.network.close()
    if names and not names.questions:
        trial.add("harness", "nobody asked for the name, so nothing was tested")
    held = not trial.violations
    report.row(trial, **trial.cells)
    if held:
        clean(options, trial)


class DisturbedStart(Trial):
    """A first start in random order, with one node late and one killed and started again in the middle of it. With a name,
    DNS lists each node a while before or after it starts, and every other time forgets the killed one while it is away."""

    names = None

    async def until_serving(self):
        if hasattr(self, "cells"):
            return await super().until_serving()
        chance, nodes = self.chance, self.cluster.nodes
        late, victim = chance.choice(nodes), chance.choice(nodes)
        waits = {node: chance.uniform(0, START_SPREAD_SECONDS) for node in nodes}
        waits[late] += chance.uniform(*LATE_SECONDS)
        # Most of what can be disturbed happens soon after the last one is there.
        kill_at = max(waits[victim], chance.choice((0, max(waits.values())))) + chance.uniform(0, chance.choice(KILL_SECONDS))
        self.cells = {
            "order": "".join(str(node.number) for node in sorted(nodes, key=waits.get)),
            "late s": waits[late],
            "killed": victim.name,
            "at s": kill_at,
        }
        begin = time.monotonic()

        async def start(node):
            await asyncio.sleep(waits[node])
            node.start()

        async def disturb():
            await asyncio.sleep(max(0, begin + kill_at - time.monotonic()))
            while not victim.is_running():
                await asyncio.sleep(0.005)
            victim.kill()
            is_forgotten = self.names and chance.random() < 0.5
            if is_forgotten:
                self.names.listed.discard(victim.host)
            await asyncio.sleep(chance.uniform(0, 0.5))
            victim.start()
            if is_forgotten:
                await list_node(victim, time.monotonic() - begin)

        async def list_node(node, at):
            await asyncio.sleep(max(0, begin + at + chance.uniform(*LISTED_SECONDS) - time.monotonic()))
            self.names.listed.add(node.host)

        listings = [list_node(node, waits[node]) for node in nodes] if self.names else []
        await asyncio.gather(*(start(node) for node in nodes), *listings, disturb())
        ready = time.monotonic()
        for node in nodes:
            await self.cluster.until(f"{node.name} is ready", lambda n=node: self.cluster.is_ready(n))
        await super().until_serving()
        return time.monotonic() - ready

    async def __aenter__(self):
        for gateway in self.cluster.gateways:
            gateway.start()
        start_all, self.cluster.start_all = self.cluster.start_all, lambda: None
        try:
            return await super().__aenter__()
        finally:
            self.cluster.start_all = start_all


async def check_one_cluster(trial):
    """Every node is asked, and every disk is looked at. Gives the ids of the clusters that were found."""
    on_disk = {node.name: (node.identity() or {}).get("cluster") for node in trial.cluster.nodes}
    told, members = {}, {}
    for node in trial.cluster.nodes:
        document = await trial.cluster.ask("/v1/cluster", [node])
        told[node.name] = document.get("cluster", document.get("clusterId"))
        members[node.name] = sorted(str(member.get("node", member.get("id"))) for member in document["members"])
    for what, found in (("disks", on_disk), ("nodes", told), ("members", members)):
        if len({str(one) for one in found.values()}) != 1 or None in found.values():
            trial.add("clusters", f"not one cluster by {what}: {found}")
    expected = sorted(trial.cluster.by_id())
    if members[trial.cluster.nodes[0].name] != expected:
        trial.add("members", f"the nodes are {expected}, but the members are {members}")
    return sorted({str(one) for one in told.values()})


async def check_serves(trial):
    """A write through the gateway, and a read of it."""
    gateway = trial.cluster.gateways[0]
    pool, path = wire.Pool(*gateway.public), wire.entity_path(("counter", trial.name))
    try:
        written = await pool.request("POST", f"{path}/add", {"by": 7})
        read = await pool.request("GET", path)
    except OSError as error:
        trial.add("serves", repr(error))
        return
    finally:
        pool.close()
    if written.status != 200 or read.status != 200 or read.document()["state"] != {"value": 7}:
        trial.add("serves", f"written: {written.status} {written.raw[:200]}, read: {read.status} {read.raw[:200]}")
