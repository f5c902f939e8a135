"""A node is heard by gossip and not by consensus, or the other way round, for half a minute or on and off (`flap`). Both travel on
the same connections, so proxies between the nodes leave out the messages of one kind. Whoever must judge by gossip who is there
may not be wrong about data, and may not plan again and again."""

import asyncio
import itertools
import json
import os
import sys
import time

from chaos.cluster import Stuck, shown_id
from chaos.elastic import LOAD_COLUMNS, SPREAD_COLUMNS, ElasticTrial, conclude
from chaos.network import PEER_PORT, die_with_parent
from chaos.trial import COUNTS, Report, counts

# What is left out, in which rhythm, and how many new plans that may bring: a node that nobody hears by gossip for longer than
# `replace_after` is as good as gone, and then it is back; that makes two changes. Everything else is none.
CASES = (("gossip", "steady", 2), ("gossip", "on and off", 0), ("raft", "steady", 0), ("raft", "on and off", 0))
# Seconds without and seconds with, below `replace_after` together with the time that it takes to suspect a node.
OFF_SECONDS, ON_SECONDS = 2.0, 1.0


async def flap(options, network):
    columns = [("try", 3), ("without", 7), ("rhythm", 10), ("node", 7), ("system", 6), ("left out", 8), ("plans", 5), ("allowed", 7)]
    columns += [("settled s", 9), *SPREAD_COLUMNS, *LOAD_COLUMNS, *COUNTS, ("violations", 10)]
    report, place = Report(options, columns), network()
    trial = ProxiedTrial(options, place, "flap", node_settings=options.replacing, proxied=True)
    try:
        async with trial:
            for _ in range(options.repeat):
                for leads_system, case in itertools.product((True, False), CASES):
                    report.row(trial, **await one_case(options, trial, f"case-{report.count + 1}", case, leads_system))
                    if report.is_over():
                        break
                if report.is_over():
                    break
            await trial.verify_again()
    except Stuck as stuck:
        trial.add("stuck", str(stuck))
    place.close()
    return conclude(options, report, trial)


async def one_case(options, trial, name, case, leads_system):
    kind, rhythm, allowed = case
    load = await trial.new_load(name)
    trial.watch_hashes()
    load.start()
    await asyncio.sleep(1)
    before = await trial.placement()
    victim = await trial.victim(before, leads_system)
    cells = trial.new_row(without=kind, rhythm=rhythm, node=victim.name, system="leads" if leads_system else "", allowed=allowed)
    cells["left out"] = await leave_out(options, trial, victim, kind, rhythm)
    settled, after = await trial.until_settled()
    # Time for a second thought, which is one too many.
    await asyncio.sleep(2)
    after = await trial.placement()
    plans = after.epoch - before.epoch
    if plans > allowed:
        trial.add("plans", f"{plans} new plans while {victim.name} was without {kind} ({rhythm}), where {allowed} are allowed")
    await load.stop()
    cells |= {"plans": plans, "settled s": settled}
    cells["not ok"] = len(trial.failed(load))
    cells |= trial.spread_cells(after) | trial.load_cells(load)
    return cells | counts(await trial.verify(load))


async def leave_out(options, trial, victim, kind, rhythm):
    """How many messages were left out."""
    proxies, until = trial.proxies, time.monotonic() + options.cut
    before = await proxies.left_out(kind)
    while time.monotonic() < until:
        await proxies.leave_out(kind, victim)
        await asyncio.sleep(options.cut if rhythm == "steady" else OFF_SECONDS)
        await proxies.let_all_pass()
        await asyncio.sleep(0 if rhythm == "steady" else ON_SECONDS)
    left_out = await proxies.left_out(kind) - before
    if not left_out:
        trial.add("harness", f"no message of {kind} was there to be left out, so nothing was tested")
    return left_out


class ProxiedTrial(ElasticTrial):
    """A cluster whose nodes are reached through proxies."""

    async def __aenter__(self):
        self.proxies = await Proxies.start()
        for node in self.cluster.nodes:
            await self.proxies.add(self.cluster.network.proxy_host(node.number), node)
        return await super().__aenter__()

    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        self.proxies.close()

    async def victim(self, placement, leads_system):
        """A node that leads the system shard, or does not."""
        if placement.system is None or placement.system["owner"] is None:
            raise Stuck("nobody owns the system shard")
        leader = self.cluster.node_of(placement.system["owner"])
        return leader if leads_system else self.some_node([node for node in self.cluster.nodes if node is not leader])


class Proxies:
    """The process of `proxy.py`."""

    def __init__(self, child):
        self.child = child

    @classmethod
    async def start(cls):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "proxy.py")
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(sys.executable, program, stdin=pipe, stdout=pipe, preexec_fn=die_with_parent)
        )

    async def tell(self, **command):
        self.child.stdin.write(json.dumps(command).encode() + b"\n")
        answer = await asyncio.wait_for(self.child.stdout.readline(), 10)
        if not answer:
            raise Stuck("the proxies have ended")
        return json.loads(answer)["left_out"]

    async def add(self, host, node):
        await self.tell(listen=[host, PEER_PORT], to=[node.host, PEER_PORT])

    async def leave_out(self, kind, node):
        """All messages of this kind to and from the node."""
        host, _, _ = node.peer.rpartition(":")
        await self.tell(without={kind: [[host], [shown_id(node.identity()["node"])]]})

    async def let_all_pass(self):
        await self.tell(without={})

    async def left_out(self, kind):
        return (await self.tell()).get(kind, 0)

    def close(self):
        if self.child.returncode is None:
            self.child.kill()
