"""A node is killed with kill -9 at a step of a move, for every kind of step and every part that a node has in it (`steps`). What
remains must be finished or turned back: one owner per shard, nothing lost, no group between two sets of voters, all replicas
there."""

import asyncio
import time

from chaos import wire
from chaos.cluster import Stuck
from chaos.elastic import SPREAD_COLUMNS, conclude, elastic_trial
from chaos.logs import JSON_LINES, Step, Tails
from chaos.trial import COUNTS, Report, counts

# Every move has these, and those are there only after something went wrong.
USUAL = ("add-learner", "catch-up", "promote", "hand-off", "remove-voter")
UNUSUAL = ("finish-change", "remove-learner")
ROLES = ("source", "target", "third")
# A hand-off has several parts, in any of which a kill may fall. Nobody who lives is the target of a copy that is given up.
CASES = [(step, role) for step in (*USUAL, "hand-off", "hand-off", *UNUSUAL) for role in ROLES]
CASES.remove(("remove-learner", "target"))
# What is done before, so that an unusual step is there: a group whose leader dies between two sets of voters, and a copy whose
# node is gone before it votes.
PROVOKED_BY = {"finish-change": ("promote", "source"), "remove-learner": ("catch-up", "target")}
# Whoever leaves is a voter less, and not one for another, where there are as many nodes as replicas.
NODES_LEAST = 2
# The node is back before it is replaced, when it has been replaced, or with an empty disk.
RETURNS = ("soon", "late", "fresh")
SOON_SECONDS, LATE_SECONDS = 1.0, 7.0
LOOK_SECONDS = 0.004
# From the line in the log to the kill, besides what it takes to read it.
DELAYS = (0, 0, 0.005, 0.02, 0.1)
STEP_SECONDS_MAX = 45
CHANGES_MAX = 8  # of members, until a step is seen
NODES_MOST = 5


async def steps(options, network):
    columns = [("try", 3), ("step", 14), ("part", 6), ("killed", 8), ("shard", 6), ("after ms", 8), ("back", 5), ("settled s", 9), *SPREAD_COLUMNS]
    report = Report(options, [*columns, ("not ok", 6), *COUNTS, ("violations", 10)])
    settings = {**JSON_LINES, **options.replacing}
    async with elastic_trial(options, network, "steps", options.dns, node_settings=settings) as trial, trial:
        for number in range(options.repeat):
            step, role = CASES[number % len(CASES)]
            load = await trial.new_load(f"{step}-{role}-{number}")
            trial.watch_hashes()
            load.start()
            await asyncio.sleep(0.5)
            cells = trial.new_row(step=step, part=role, back=trial.chance.choice(returns(step, role)))
            cells |= await Case(trial, step, role, cells["back"]).run()
            begin = time.monotonic()
            _, placement = await trial.until_settled()
            await check_one_owner(trial)
            cells["settled s"] = time.monotonic() - begin
            await load.stop()
            # Two nodes may be gone at once here, so that some requests may find no majority.
            cells["not ok"] = len(trial.failed(load))
            cells |= trial.spread_cells(placement) | counts(await trial.verify(load))
            report.row(trial, **cells)
            if report.is_over():
                break
        await trial.verify_again()
    return conclude(options, report, trial)


def returns(step, role):
    """A group may lose one disk of three, and none of two: a second empty disk would be more than is promised."""
    loses_another = step == "remove-learner" or (step == "remove-voter" and role != "target")
    return [back for back in RETURNS if back != "fresh" or not loses_another]


class Case:
    """Waits for a step and kills a node that has a part in it."""

    def __init__(self, trial, step, role, back):
        self.trial, self.step, self.role, self.back = trial, step, role, back
        self.changes, self.returns = [], []

    async def run(self):
        """The columns about the kill. In the end every node that was killed is back, and whoever was told to leave has left."""
        cells, tails = {}, Tails(self.trial.cluster)
        try:
            for change in range(CHANGES_MAX):
                self.changes.append(asyncio.create_task(self.change_members(change)))
                if self.step in PROVOKED_BY:
                    back = "fresh" if self.step == "remove-learner" else "soon"
                    await self.kill_at(tails, *PROVOKED_BY[self.step], back)
                cells = await self.kill_at(tails, self.step, self.role, self.back)
                await self.everybody_back()
                if cells:
                    return cells
            self.trial.add("harness", f"there was no {self.step} with a living {self.role} in {CHANGES_MAX} changes of members")
            return cells
        finally:
            tails.close()
            for task in (*self.changes, *self.returns):
                task.cancel()
            await asyncio.gather(*self.changes, *self.returns, return_exceptions=True)

    async def change_members(self, change):
        """One node more or less, until all is settled."""
        trial = self.trial
        nodes = [node for node in trial.cluster.nodes if node.is_running() and not node.is_leaving]
        if self.step == "remove-voter":
            grows = len(nodes) <= NODES_LEAST
        else:
            grows = len(nodes) <= trial.options.nodes or len(nodes) < NODES_MOST and change % 2 == 0
        if grows:
            await trial.until_ready(trial.join())
        else:
            await self.leave(trial.some_node())
        await trial.until_settled()

    async def leave(self, node):
        """Waits until the node has left, unless it is killed meanwhile: then it is a member again when it is back."""
        node.leave()
        until = time.monotonic() + self.trial.options.grace
        while node.is_leaving and node.is_running():
            if time.monotonic() > until:
                raise Stuck(f"{node.name} has not left {self.trial.options.grace:g} s after SIGTERM: {node.log_tail(2)}")
            await asyncio.sleep(LOOK_SECONDS)
        if node.is_leaving:
            self.trial.cluster.check_alive()
            self.trial.cluster.forget(node)

    async def kill_at(self, tails, step, role, back):
        """Nothing when the step does not come, or when nobody who lives has that part in it."""
        deadline = time.monotonic() + STEP_SECONDS_MAX
        while time.monotonic() < deadline:
            for event in tails.look():
                victim = self.victim(event, step, role)
                if victim is not None:
                    delay = self.trial.chance.choice(DELAYS)
                    await asyncio.sleep(delay)
                    victim.kill()
                    victim.is_leaving = False
                    self.returns.append(asyncio.create_task(self.come_back(victim, back)))
                    return {"killed": victim.name, "shard": event.shard, "after ms": round(1000 * (time.monotonic() - event.at))}
            if all(task.done() for task in self.changes):
                return {}
            await asyncio.sleep(LOOK_SECONDS)
        return {}

    def victim(self, event, step, role):
        if not isinstance(event, Step) or event.step != step:
            return None
        target = self.trial.cluster.node_of(event.target)
        if role == "third":
            others = [node for node in self.trial.cluster.nodes if node not in (event.by, target) and node.is_running()]
            return self.trial.chance.choice(others) if others else None
        node = event.by if role == "source" else target
        return node if node is not None and node.is_running() else None

    async def come_back(self, node, back):
        await asyncio.sleep({"soon": SOON_SECONDS, "late": LATE_SECONDS}.get(back, LATE_SECONDS))
        if back == "fresh":
            await asyncio.to_thread(node.wipe)
            self.trial.cluster.start_empty(node)
        else:
            node.start()

    async def everybody_back(self):
        """Waits until whoever was killed is back, and the changes of members are over."""
        await asyncio.gather(*self.returns, *self.changes)


OWNED = "berth_node_owned_shards"


async def check_one_owner(trial):
    """By the nodes' own words, each shard is owned once: who gathers them would show one owner of two."""

    async def ask():
        owned = {}
        for node in trial.cluster.nodes:
            answer = await wire.get(node.admin, "/metrics")
            lines = answer[1].splitlines() if answer and answer[0] == 200 else []
            values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(OWNED)]
            if len(values) != 1:
                raise Stuck(f"{node.name} does not say in /metrics how many shards it owns")
            owned[node.name] = round(values[0])
        if sum(owned.values()) != trial.cluster.shape.shards:
            raise Stuck(f"{owned}, in all {sum(owned.values())}")
        return True

    await trial.cluster.until(f"{trial.cluster.shape.shards} shards have one owner each", ask, 10, 0.1)
