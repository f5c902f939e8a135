"""What all scenarios share: a cluster with load on it, the verdict over what the clients saw, and the table that is printed."""

import asyncio
import os
import random
import shutil
import time
from collections import defaultdict

from chaos import clients, histories
from chaos.cluster import Cluster, Stuck
from chaos.histories import OK, REFUSED, REJECTED, MISMATCH, UNKNOWN, UNSENT, Violation

LIST_MAX = 3  # violations of one name that are printed
LAG_SECONDS_MAX = 1
PROBE_SECONDS = 0.1
SUCCESS = (OK, REJECTED, MISMATCH)


class Trial:
    """One cluster from its first start to its end."""

    def __init__(self, options, network, name, **shape):
        self.options, self.network, self.name = options, network, name
        self.place = os.path.join(options.place, name)
        self.cluster = Cluster(options.shape(**shape), network, self.place)
        self.chance = random.Random(f"{options.seed}-{name}")
        self.violations = []
        self.loads, self.earlier, self.reported = [], {}, set()
        self.watcher, self.compared = None, 0
        self.row = {}

    async def __aenter__(self):
        self.cluster.start_all()
        try:
            self.started = await self.until_serving()
        except BaseException:
            self.cluster.kill_all()
            raise
        return self

    async def __aexit__(self, *_):
        await self.stop_watching()
        for load in self.loads:
            if load.pump is not None:
                load.pump.cancel()
            for task in list(load.under_way):
                task.cancel()
            load.close()
        self.cluster.kill_all()
        self.cluster.unmount_all()
        self.check_log_files()

    async def until_serving(self):
        """Seconds until every shard answers through every gateway."""
        begin = time.monotonic()
        await self.cluster.every_shard_owned()
        await self.cluster.answers()
        return time.monotonic() - begin

    def add(self, check, text):
        self.violations.append(Violation(check, text))

    def new_row(self, **cells):
        """Cells to be filled in until the row is printed, with what is known when the scenario cannot go on."""
        self.row = cells
        return cells

    # ---- Load

    async def new_load(self, name, gateways=None, **mix):
        """Entities of its own, made and spread over all shards; the stream of requests is not started yet."""
        given = {"rate": self.options.rate, "strict": self.options.strict, **mix}
        load = clients.Load(self.cluster, clients.Mix(**given), f"{self.name}-{name}", self.options.seed, gateways)
        self.loads.append(load)
        await load.prepare()
        return load

    def failed(self, load, since=0.0, until=float("inf")):
        """Requests that began in this time and were not answered with an outcome within their deadline."""
        late = clients.DEADLINE_SECONDS + 0.5  # for the harness itself, which shares the machine
        return [
            operation
            for operation in load.operations
            if since <= operation.invoked < until
            and (operation.outcome not in SUCCESS or operation.completed - operation.invoked > late)
        ]

    def must_succeed(self, load, since=0.0):
        failed = self.failed(load, since)
        for operation in failed:
            self.add("failed-request", str(operation))
        return len(failed)

    def first_successes(self, load, shards, since):
        """Shard → seconds from `since` to the first acknowledged write that began after it."""
        first = {}
        for operation in load.operations:
            shard = load.shards.get(operation.entity)
            if shard in shards and operation.command and operation.outcome == OK and operation.invoked >= since:
                first[shard] = min(first.get(shard, float("inf")), operation.completed - since)
        return first

    async def until_recovered(self, load, shards, since, seconds=20):
        """Waits until every one of the shards took a write that began after `since`; its violations say which did not. So
        that none of them is idle at the moment when it could, each gets one more write every tenth of a second."""
        first, busy = {}, load.counters_of(shards)
        while time.monotonic() < since + seconds:
            for shard in shards:
                if shard not in first:
                    load.launch(load.write_of(busy[shard], "add"))
            await asyncio.sleep(PROBE_SECONDS)
            first = self.first_successes(load, shards, since)
            if len(first) == len(shards):
                return first
        for shard in sorted(set(shards) - set(first)):
            self.add("no-failover", f"shard {shard} took no write for {seconds} s")
        return first

    # ---- Content hashes

    def watch_hashes(self):
        """Compares replicas every second from now on, under whatever load there is."""
        self.watcher = asyncio.create_task(self.keep_watching())

    async def keep_watching(self):
        while True:
            try:
                found = histories.Hashes(await self.cluster.ask("/v1/cluster/hashes"))
                self.violations += found.violations
                self.compared += len(found.agreed(2, {}))
            except Stuck:
                pass
            await asyncio.sleep(1)

    async def stop_watching(self):
        if self.watcher is not None:
            self.watcher.cancel()
            await asyncio.gather(self.watcher, return_exceptions=True)
            self.watcher = None

    async def until_hashes_agree(self, replicas=None, seconds=60):
        """Seconds until so many replicas of every shard were seen to agree on all that any of them had applied when this
        began. Under load replicas are asked at moments of their own, so shards may be seen one after the other."""
        replicas, begin = replicas or min(self.cluster.shape.copies, len(self.cluster.nodes)), time.monotonic()
        least, missing = None, set(range(self.cluster.shape.shards))

        async def ask():
            nonlocal least
            found = histories.Hashes(await self.cluster.ask("/v1/cluster/hashes"))
            least = least or found.furthest()
            self.violations += found.violations
            missing.difference_update(found.agreed(replicas, least))
            if missing and not found.violations:
                which = {shard: found.shards.get(shard) for shard in sorted(missing)[:5]}
                raise Stuck(f"{len(missing)} shards without {replicas} replicas that agree, such as {which}")
            return True

        await self.cluster.until("the replicas' hashes agree", ask, seconds, pause=0.1)
        return time.monotonic() - begin

    # ---- The verdict

    async def verify(self, load, replicas=None, seconds=60):
        """Ends the load and checks everything that its clients saw. Gives the tally."""
        await load.stop()
        await load.retry_some()
        await load.read_all()
        await self.stop_watching()
        logs = await load.logs()
        found, tally = await asyncio.to_thread(histories.check, load.operations, logs, load.retries)
        self.violations += found + histories.check_clusters(load.operations)
        self.violations += histories.check_growth(self.earlier, logs)
        self.earlier.update(logs)
        await self.until_hashes_agree(replicas, seconds)
        self.check_disks()
        self.cluster.check_alive()
        tally.compared, self.compared = self.compared, 0
        if load.held_back:
            self.add("harness", f"{load.held_back} requests were not begun, because {clients.IN_FLIGHT_MAX} were under way")
        if load.lag > LAG_SECONDS_MAX:
            self.add("harness", f"a request began {load.lag:.1f} s after its turn: the machine is too slow for the rate")
        if not tally.by_outcome[OK]:
            self.add("harness", "nothing was acknowledged, so nothing was tested")
        return tally

    async def verify_again(self):
        """All loads' logs once more, after everything that happened since: what was read of them may not have changed, and
        what clients were told then must still be so."""
        for load in self.loads:
            logs = await load.logs()
            found = histories.check_growth(self.earlier, logs) + histories.check(load.operations, logs, load.retries)[0]
            self.violations += [violation for violation in found if violation not in self.reported]

    def check_disks(self):
        """No data directory belongs to another cluster than the others, whoever lost which."""
        known = {node.name: (node.identity() or {}).get("cluster") for node in self.cluster.nodes}
        if len({cluster for cluster in known.values() if cluster}) > 1:
            self.add("clusters", f"the disks are of several clusters: {known}")

    def check_log_files(self):
        for process in [*self.cluster.processes, *self.cluster.former]:
            with open(process.log_path, encoding="utf-8", errors="replace") as log:
                for line in log:
                    if "panicked at" in line:
                        self.add("panic", f"{process.name}: {line.strip()}")


class Report:
    """A table that is printed row by row, and how it all ended."""

    def __init__(self, options, columns):
        self.options, self.columns, self.count, self.violations = options, columns, 0, []
        self.samples, self.seen, self.place = defaultdict(list), set(), options.place
        print("  ".join(f"{name:>{max(len(name), width)}}" for name, width in columns), flush=True)

    def row(self, trial, **cells):
        """One repetition; its violations are counted since the last row of the same trial."""
        self.count += 1
        fresh, trial.violations = trial.violations, []
        trial.reported.update(fresh)
        trial.row = {}
        self.violations += [(trial, violation) for violation in fresh]
        cells = {"try": self.count, "violations": len(fresh), **cells}
        texts = []
        for name, width in self.columns:
            value = cells.get(name, "")
            texts.append(f"{value:.2f}" if isinstance(value, float) else str(value))
            texts[-1] = texts[-1].rjust(max(len(name), width))
        print("  ".join(texts), flush=True)
        for violation in fresh[:3]:
            print(f"    {violation.check}: {violation.text[:600]}", flush=True)

    def sample(self, name, values, unit="s"):
        self.samples[name, unit] += values

    def summary(self):
        """Prints the distributions and the verdict; gives the exit status."""
        print()
        for (name, unit), values in self.samples.items():
            if values:
                parts = [f"p50 {percentile(values, 50):.2f}", f"p99 {percentile(values, 99):.2f}", f"max {max(values):.2f}"]
                print(f"{name}: {', '.join(parts)} {unit} (of {len(values)})")
        if not self.violations:
            print(f"{self.options.scenario}: everything held in {self.count} of {self.count}; seed {self.options.seed}")
            return 0
        kinds = defaultdict(int)
        for _, violation in self.violations:
            kinds[violation.check] += 1
        print(f"{self.options.scenario}: {len(self.violations)} violations, seed {self.options.seed}: {dict(kinds)}")
        listed = defaultdict(int)
        for trial, violation in self.violations:
            listed[violation.check] += 1
            if listed[violation.check] > LIST_MAX:
                continue
            print(f"- {violation.check}: {violation.text[:1000]} (data and logs: {trial.place})")
        return 1

    def is_over(self):
        return bool(self.violations) and not self.options.keep_going


def clean(options, trial):
    """Data of a trial in which all held is of no more use."""
    if not options.keep:
        shutil.rmtree(trial.place, ignore_errors=True)


def finish(options, report, trial):
    """Takes in what was found after the last row, and ends the trial."""
    trial.network.close()
    if trial.violations:
        report.row(trial)
    if not report.violations:
        clean(options, trial)
    return report.summary()


def percentile(values, percent):
    """The smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def counts(tally):
    """The columns that every table has."""
    by = tally.by_outcome
    return {
        "acked": by[OK],
        "rejected": by[REJECTED] + by[MISMATCH],
        "refused": by[REFUSED] + by[UNSENT],
        "unknown": by[UNKNOWN],
        "applied": tally.unknown_applied,
        "reads": tally.reads,
        "replayed": tally.replayed,
        "compared": tally.compared,
    }


COUNTS = [(name, 7) for name in ("acked", "rejected", "refused", "unknown", "applied", "reads", "replayed", "compared")]
