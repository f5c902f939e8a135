"""One fault as it is made: whom it hits, when it began and when nothing of it was left, and what could be seen of it. What rows of
the catalogue share is here; what they do is in `faults_*.py`."""

import asyncio
import signal
import time
from dataclasses import dataclass

from chaos.cluster import Stuck

LOOK_SECONDS = 0.05
# A node that shall refuse its disk says so before it does anything else.
REFUSAL_SECONDS_MAX = 20
# A node that comes back checks its files as a whole.
START_SECONDS_MAX = 60


@dataclass(frozen=True)
class Row:
    """One row of the catalogue. `nodes` and `gateways` are how many it takes away at most; with more than the cluster outlives
    nobody has to be served while it lasts. `least` is the share of requests that must have an outcome meanwhile."""

    name: str
    kind: str
    fault: str
    made: str
    outcome: str
    run: object
    nodes: int = 0
    gateways: int = 0
    least: float = 0.5
    needs: tuple = ()
    mixes: bool = True  # whether it may overlap with another one
    spoils: bool = False  # whether the cluster is of no use afterwards, so that nothing but safety is asked of it

    def outlives(self, shape):
        """Whether such a cluster must serve while this lasts."""
        return self.nodes <= (shape.copies - 1) // 2 and self.gateways < shape.gateways


ALL = 99
ROWS = {}


def row(name, kind, **facts):
    """Puts a coroutine function into the catalogue; its docstring is the fault."""

    def register(run):
        assert name not in ROWS, name
        ROWS[name] = Row(name, kind, " ".join(run.__doc__.split()).rstrip("."), run=run, **facts)
        return run

    return register


class Scene:
    def __init__(self, trial, load, busy, when_begun=lambda: None):
        """`busy` are processes that another fault of the same time has hit; `when_begun` is called once."""
        self.trial, self.cluster, self.load, self.chance = trial, trial.cluster, load, trial.chance
        self.busy, self.when_begun = busy, when_begun
        self.began = self.ended = None
        self.effects, self.has_acted = [], True

    # ---- When

    def begin(self):
        """The fault is about to be there."""
        if self.began is None:
            self.began = time.monotonic()
            self.when_begun()

    def end(self):
        """Nothing of the fault is there any more."""
        self.ended = time.monotonic()

    async def hold(self, least, most):
        await asyncio.sleep(self.chance.uniform(least, most))

    async def until(self, condition, seconds):
        """Whether the condition came to hold within this time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    # ---- Whom

    def claim(self, process):
        self.busy.add(process)
        self.effects.append(process.name)
        return process

    def free_nodes(self):
        return [node for node in self.cluster.nodes if node.is_running() and not node.is_leaving and node not in self.busy]

    def some_node(self):
        return self.claim(self.chance.choice(self.free_nodes()))

    def some_nodes(self, count):
        return [self.some_node() for _ in range(count)]

    async def owner(self):
        """The owner of a busy shard; another node where that one has a fault already."""
        owners = await self.cluster.every_shard_owned()
        victim = owners[self.load.shards[self.chance.choice(self.load.hot)]]
        return self.claim(victim) if victim in self.free_nodes() else self.some_node()

    async def follower(self):
        """A node that does not own the busy shards, where there is one."""
        owners = await self.cluster.every_shard_owned()
        busy = {owners[self.load.shards[entity]] for entity in self.load.hot}
        others = [node for node in self.free_nodes() if node not in busy]
        return self.claim(self.chance.choice(others or self.free_nodes()))

    async def system_leader(self):
        placement = await self.trial.placement()
        leader = self.cluster.node_of((placement.system or {}).get("owner"))
        return self.claim(leader) if leader in self.free_nodes() else self.some_node()

    def gateway(self):
        free = [gateway for gateway in self.cluster.gateways if gateway.is_running() and gateway not in self.busy]
        return self.claim(self.chance.choice(free))

    def others(self, node):
        return [other for other in self.cluster.nodes if other is not node]

    # ---- What came of it

    def found(self, text):
        """Something that the fault did, as it could be seen."""
        self.effects.append(text)

    def acted(self, hits, what):
        """How often the fault has acted. One that never has is not counted as made."""
        self.has_acted = hits > 0
        self.found(f"{hits} {what}")

    def wrong(self, check, text):
        self.trial.add(check, text)

    def must_live(self, node):
        if not node.is_running():
            self.wrong("ended", f"{node.name} has ended by itself; its last lines: {node.log_tail()}")

    async def until_ended(self, node, seconds):
        """Whether the process ended by itself in time; what it said is noted."""
        node.doom()
        if not await self.until(lambda: not node.is_running(), seconds):
            return False
        status = node.ended_by_itself()
        self.found("ended by SIGKILL" if status == -signal.SIGKILL else f"ended with {status}: {last_word(node)}")
        return True

    async def must_refuse(self, node):
        """The process ends by itself, not well, and with a line that is no panic."""
        if not await self.until_ended(node, REFUSAL_SECONDS_MAX):
            self.wrong("not-refused", f"{node.name} still runs {REFUSAL_SECONDS_MAX} s after its start: {node.log_tail()}")
            node.kill()
        elif node.ended_by_itself() == 0:
            self.wrong("not-refused", f"{node.name} has ended as if all were well: {node.log_tail()}")

    async def come_back(self, node, may_refuse=False):
        """Starts a node on the disk that it has. Where that is damaged it may refuse it; then it gets an empty one, as its
        operator would do it."""
        node.start()
        node.is_doomed = may_refuse
        deadline = time.monotonic() + START_SECONDS_MAX
        while not await self.cluster.is_ready(node):
            if not node.is_running():
                if not may_refuse or node.ended_by_itself() == 0:
                    raise Stuck(f"{node.name} has ended with {node.ended_by_itself()} after its start: {node.log_tail()}")
                self.found(f"refused its disk: {last_word(node)}")
                await self.come_back_empty(node)
                return
            if time.monotonic() > deadline:
                raise Stuck(f"{node.name} is not ready {START_SECONDS_MAX} s after its start: {node.log_tail()}")
            await asyncio.sleep(LOOK_SECONDS)
        node.is_doomed = False
        if may_refuse:
            self.found("took its disk")

    async def come_back_empty(self, node):
        await asyncio.to_thread(node.wipe)
        self.cluster.start_empty(node)


def last_word(node, most=160):
    """The last line of its log."""
    lines = node.log_tail(1).splitlines()
    text = lines[-1] if lines else ""
    return text if len(text) <= most else f"…{text[-most:]}"
