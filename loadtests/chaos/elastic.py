"""Scenarios in which members come and go as planned: more nodes and fewer (`scale`), and all of them replaced the way a Kubernetes
Deployment does it (`rolling`). Nothing fails, so no client may notice. What other scenarios with changing members need is here."""

import asyncio
import contextlib
import time

from chaos.cluster import Stuck, shown_id
from chaos.names import Names
from chaos.network import PEER_PORT
from chaos.placement import Placement
from chaos.trial import COUNTS, Report, Trial, clean, counts

PAUSE_SECONDS = 0.1
RATE_LEAST = 500  # requests per second that the promises are about
# Of the load before the first change and after the last one.
CALM_SECONDS = 1.5


class ElasticTrial(Trial):
    """A cluster whose nodes come and go."""

    def __init__(self, options, network, name, names=None, **shape):
        super().__init__(options, network, name, **shape)
        self.names = names
        if names:
            names.listed.update(node.host for node in self.cluster.nodes)

    # ---- Nodes

    def join(self):
        """Starts one more node, with an empty disk."""
        node = self.cluster.add_node()
        node.start()
        if self.names:
            self.names.listed.add(node.host)
        return node

    async def until_ready(self, node):
        """Seconds until the node says that it is ready."""
        begin = time.monotonic()
        await self.cluster.until(
            f"{node.name} is ready", lambda: self.cluster.is_ready(node), self.options.patience, PAUSE_SECONDS
        )
        return time.monotonic() - begin

    async def leave(self, node):
        """SIGTERM, and seconds until the process has ended by itself; whoever takes longer than the grace is killed, as Kubernetes
        does it."""
        begin = time.monotonic()
        node.leave()
        while node.is_running():
            if time.monotonic() > begin + self.options.grace:
                self.add("grace", f"{node.name} has not left {self.options.grace:g} s after SIGTERM: {node.log_tail(2)}")
                node.kill()
                break
            await asyncio.sleep(PAUSE_SECONDS)
        self.cluster.check_alive()
        if self.names:
            self.names.listed.discard(node.host)
        seconds = time.monotonic() - begin
        self.cluster.forget(node)
        return seconds

    def some_node(self, among=None):
        return self.chance.choice([node for node in among or self.cluster.nodes if node.is_running() and not node.is_leaving])

    # ---- What they hold

    def ids(self):
        """The ids of all nodes that run and stay."""
        staying = [node for node in self.cluster.nodes if node.is_running() and not node.is_leaving]
        return {shown_id(identity["node"]) for node in staying if (identity := node.identity()) is not None}

    async def placement(self):
        return Placement(await self.cluster.ask("/v1/cluster"), await self.cluster.ask("/v1/cluster/shards"))

    async def until_settled(self):
        """Seconds until every shard is where it belongs, on exactly the nodes that run, and what was seen then."""
        begin = time.monotonic()

        async def ask():
            nodes = self.ids()
            placement = await self.placement()
            if missing := placement.missing(nodes, min(self.cluster.shape.replicas, len(nodes))):
                raise Stuck(f"{len(missing)} things are missing, such as: {'; '.join(missing[:3])}")
            return placement

        placement = await self.cluster.until("the cluster has settled", ask, self.options.patience, PAUSE_SECONDS)
        return time.monotonic() - begin, placement

    def spread_cells(self, placement):
        nodes = self.ids()
        return {"nodes": len(nodes), "owned": str(placement.owners(nodes)), "replicas": str(placement.replicas(nodes))}

    # ---- Load

    def load_cells(self, load):
        """The columns about a load that has ended. A promise about a rate was not tested at a lower one."""
        rate = load.rate()
        if self.options.rate >= RATE_LEAST > rate:
            self.add("harness", f"{rate:.0f} requests per second are fewer than {RATE_LEAST}: the machine is too slow")
        slowest = [o.completed - o.invoked for o in load.operations if o.invoked > load.started and o.completed < float("inf")]
        return {"req/s": round(rate), "slowest s": max(slowest, default="")}


LOAD_COLUMNS = [("req/s", 5), ("slowest s", 9), ("not ok", 6)]
SPREAD_COLUMNS = [("nodes", 5), ("owned", 6), ("replicas", 8)]


@contextlib.asynccontextmanager
async def elastic_trial(options, network, name, dns=False, kind=ElasticTrial, **shape):
    """A trial of which what went wrong, and that the cluster got stuck, is among its violations afterwards. With `dns` nodes and
    gateways know one name, of which the harness lists the nodes."""
    place = network()
    names = Names(place.harness_host()) if dns else None
    if names:
        nodes, gateways = names.settings(PEER_PORT)
        shape["node_settings"] = {**nodes, **shape.get("node_settings", {})}
        shape["gateway_settings"] = {**gateways, **shape.get("gateway_settings", {})}
    trial = kind(options, place, name, names, **shape)
    try:
        async with names or contextlib.nullcontext():
            yield trial
        if names and not names.questions:
            trial.add("harness", "nobody asked for the name, so it was of no use")
    except Stuck as stuck:
        trial.add("stuck", str(stuck))
    finally:
        place.close()


def conclude(options, report, trial):
    """Takes in what was found after the last row, and ends the trial."""
    if trial.violations:
        report.row(trial, **trial.row)
    if not report.violations:
        clean(options, trial)
    return report.summary()


# ---- scale


async def scale(options, network):
    """As many nodes as given, two more, and as many as before; those that leave are any of them."""
    columns = [("try", 3), ("change", 6), *SPREAD_COLUMNS, ("ready s", 7), ("left s", 6), ("settled s", 9)]
    report = Report(options, [*columns, *LOAD_COLUMNS, *COUNTS, ("violations", 10)])
    async with elastic_trial(options, network, "scale", options.dns) as trial, trial:
        for number in range(1, options.repeat + 1):
            for change in (options.step, -options.step):
                await one_change(report, trial, f"{number}", change)
                if report.is_over():
                    break
            if report.is_over():
                break
        await trial.verify_again()
    return conclude(options, report, trial)


async def one_change(report, trial, name, change):
    load = await trial.new_load(f"change-{name}-{change:+d}")
    trial.watch_hashes()
    load.start()
    await asyncio.sleep(CALM_SECONDS)
    begin, cells = time.monotonic(), trial.new_row(change=f"{change:+d}")
    if change > 0:
        joined = [trial.join() for _ in range(change)]
        cells["ready s"] = max(await asyncio.gather(*(trial.until_ready(node) for node in joined)))
        report.sample("start of a node to ready", [cells["ready s"]])
    else:
        leaving = trial.chance.sample(trial.cluster.nodes, -change)
        cells["left s"] = max(await asyncio.gather(*(trial.leave(node) for node in leaving)))
        report.sample("SIGTERM to the end of the process", [cells["left s"]])
    _, placement = await trial.until_settled()
    cells["settled s"] = time.monotonic() - begin
    await asyncio.sleep(CALM_SECONDS)
    cells["not ok"] = await end_of_load(trial, load)
    cells |= trial.spread_cells(placement) | trial.load_cells(load) | counts(await trial.verify(load))
    report.row(trial, **cells)


async def end_of_load(trial, load):
    """How many requests failed; none may."""
    await load.stop()
    return trial.must_succeed(load)


# ---- rolling


async def rolling(options, network):
    """Round after round every node is replaced by one with an empty disk, as a Deployment with maxSurge 1 and maxUnavailable 0
    does it."""
    columns = [("try", 3), *SPREAD_COLUMNS, ("ready s", 7), ("left s", 6), ("round s", 7), ("settled s", 9)]
    report = Report(options, [*columns, *LOAD_COLUMNS, *COUNTS, ("violations", 10)])
    async with elastic_trial(options, network, "rolling", dns=True) as trial, trial:
        for number in range(1, options.repeat + 1):
            load = await trial.new_load(f"round-{number}")
            trial.watch_hashes()
            load.start()
            await asyncio.sleep(CALM_SECONDS)
            cells = trial.new_row()
            cells |= await replace_all(report, trial)
            settled, placement = await trial.until_settled()
            cells["settled s"] = settled
            await asyncio.sleep(CALM_SECONDS)
            cells["not ok"] = await end_of_load(trial, load)
            cells |= trial.spread_cells(placement) | trial.load_cells(load) | counts(await trial.verify(load))
            report.row(trial, **cells)
            if report.is_over():
                break
        await trial.verify_again()
    return conclude(options, report, trial)


async def replace_all(report, trial):
    """A new node; when it says ready, SIGTERM to an old one, and at once the next new one, because the controller does not count
    pods that terminate. So there are times with one node more than there should be, and times with two."""
    begin, old, leaving, ready = time.monotonic(), list(trial.cluster.nodes), [], []
    fresh = trial.join()
    while old:
        started = time.monotonic()
        await trial.until_ready(fresh)
        ready.append(time.monotonic() - started)
        victim = trial.chance.choice(old)
        old.remove(victim)
        leaving.append(asyncio.create_task(trial.leave(victim)))
        # The task is given its turn, so that the signal goes out before the next one starts.
        await asyncio.sleep(0)
        if old:
            fresh = trial.join()
    left = await asyncio.gather(*leaving)
    report.sample("start of a node to ready", ready)
    report.sample("SIGTERM to the end of the process", left)
    return {"ready s": max(ready), "left s": max(left), "round s": time.monotonic() - begin}
