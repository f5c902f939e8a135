"""Hundreds of faults of the catalogue, one after the other and sometimes two at once, in clusters that live long (`catalogue`).

Every fault has its own segment: entities that nobody used before, load on them, the fault, the time until all is well again, and
then every check over everything that clients were told. So memory is bounded however long it goes on. What an entity's log was
is kept as a hash, and looked at again before the cluster ends.
"""

import asyncio
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import time
import traceback
from dataclasses import asdict, dataclass, field

from chaos import catalogue, clients, disks, histories, limits, linear, planted, shim
from chaos.cluster import ROOT, Stuck
from chaos.elastic import ElasticTrial, elastic_trial
from chaos.scene import ROWS, Scene
from chaos.trial import COUNTS, LAG_SECONDS_MAX, SUCCESS, Report, clean, counts

CALM_SECONDS = 1.2
# Of the requests that begin in calm times, before a fault and when all is well again, so many have an outcome, and there are so many.
CALM_SHARE_LEAST, CALM_REQUESTS_LEAST = 0.95, 20
RECOVERY_SECONDS_MAX = 60
SEGMENT_SECONDS_MAX = 420
# Every so many clusters one has five nodes and five copies, which outlives two faults of nodes at once.
WIDE_EVERY = 3
# Clusters one after the other in which no fault could be made, after which the campaign gives up.
CLUSTERS_IN_VAIN_MAX = 3
# What is said of service, and not of answers; and in how many segments the machine may be too slow to say it.
OF_SERVICE = ("no-failover", "too-few", "stuck")
EXCUSED_MAX, EXCUSED_SHARE_MAX = 5, 0.1
DISK_MIB = 1024
MIX = {"sessions": 8, "in_session": 0.2, "stale": 0.1, "documents": 10, "document_bytes": 200, "entities": 30}


@dataclass
class Result:
    """One fault, as it goes into the file of results: a line of JSON each."""

    row: str
    also: str | None
    seed: int
    cluster: str
    number: int
    moment: str
    outcome: str = "held"  # or "violated"
    idle: list = field(default_factory=list)  # of the rows those that had no occasion to act, so that they were not made
    effects: list = field(default_factory=list)
    fault_seconds: float | None = None
    takeover_seconds: float | None = None  # from its beginning until every shard took a write, where the cluster outlives it
    recovery_seconds: float | None = None  # from its end until every shard took a write
    settled_seconds: float | None = None  # from its end until nothing was missing
    operations: int = 0  # that were checked
    ordered: int = 0  # of these, how many the second checker put in an order
    acknowledged: int = 0
    planted: str | None = None  # the flaw that both checkers were then shown, and found
    calm_share: float | None = None
    fault_share: float | None = None
    lag_seconds: float = 0.0
    waiting_share: float | None = None  # of the time, in which somebody on this machine waited for a processor
    violations: list = field(default_factory=list)
    excused: list = field(default_factory=list)  # what nobody can be blamed for, because the harness had no processor


class Results:
    """The file, and what counts towards the end."""

    def __init__(self, path, head):
        self.path, self.segments, self.excused, self.faults, self.operations = path, 0, 0, 0, 0
        self.write({"run": head})

    def write(self, record):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def add(self, result):
        self.segments += 1
        self.excused += bool(result.excused)
        self.faults += (2 if result.also else 1) - len(result.idle)
        self.operations += result.operations
        self.write(asdict(result))


def head_of(options, rows, missing):
    describe = ["git", "-C", ROOT, "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    programs = {}
    for name in ("berth-node", "berth-gateway"):
        with open(os.path.join(options.programs, name), "rb") as file:
            programs[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {
        "began": moment(), "seed": options.seed, "commit": commit, "programs": programs, "machine": platform.node(), "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}", "rate": options.rate, "shards": options.shards,
        "rows": [row.name for row in rows], "missing": missing,
    }


def moment():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# ---- A cluster that lives long


class Campaign(ElasticTrial):
    """What rows need of a cluster, and the hashes of what entities' logs were."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.remembered = {}  # entity → (number of events, hash of them)

    async def killed(self, processes):
        """kill -9 of all of them, the later ones without waiting for the earlier ones."""
        for process in processes:
            process.signal(signal.SIGKILL)
        for process in processes:
            process.kill()

    async def come(self):
        """Starts one more node, with an empty disk."""
        node = await self.new_node()
        node.start()
        return node

    async def new_node(self):
        """One more node that is not started yet. Making its disk takes time that the clients would lack."""
        if self.cluster.shape.disk_mib:
            await asyncio.to_thread(self.cluster.disk, self.cluster.last_number + 1)
        return self.cluster.add_node()

    async def gone(self, node):
        """A node that will not come back."""
        node.kill()
        self.cluster.forget(node)

    async def leave_gateway(self, gateway):
        gateway.leave()
        begin = time.monotonic()
        while gateway.is_running():
            if time.monotonic() > begin + 60:
                raise Stuck(f"{gateway.name} has not ended 60 s after SIGTERM")
            await asyncio.sleep(0.05)
        self.cluster.check_alive()

    def remember(self, logs):
        self.remembered |= {entity: (len(events), digest(events)) for entity, events in logs.items()}

    async def check_remembered(self):
        """Reads everything again that was ever read of this cluster: a log only grows, whatever happened since."""
        load = clients.Load(self.cluster, clients.Mix(), "again", self.options.seed)
        entities = list(self.remembered)

        async def look(entity):
            count, before = self.remembered[entity]
            events = await clients.fetch_log(load.pools[load.some_gateway()], entity)
            if digest(events[:count]) != before or len(events) < count:
                self.add("rewritten", f"{'/'.join(entity)}: its first {count} events are not what they were; there are {len(events)}")

        try:
            await load.in_parallel([lambda e=entity: look(e) for entity in entities])
        finally:
            load.close()
        return len(entities)


def digest(events):
    return hashlib.sha256(json.dumps(events, sort_keys=True).encode()).digest()


# ---- One fault


class Segment:
    def __init__(self, trial, rows, number):
        self.trial, self.rows, self.number, self.load = trial, rows, number, None
        self.takeover, self.scenes, self.tally = None, [], None
        first, second = [*rows, None][:2]
        self.result = Result(
            first.name, second.name if second else None, trial.options.seed, trial.name, number, moment()
        )

    @property
    def outlives(self):
        shape = self.trial.cluster.shape
        if len(self.rows) == 2 and not catalogue.fit_together(*self.rows, shape):
            return False
        return all(row.outlives(shape) for row in self.rows)

    async def run(self):
        """Fault, recovery and checks. What goes wrong is a violation of the trial's; Stuck when the cluster is of no use any more."""
        trial = self.trial
        self.load = await trial.new_load(f"{self.number}", **MIX)
        trial.watch_hashes()
        self.load.start()
        try:
            await asyncio.sleep(CALM_SECONDS)
            await self.make_faults()
            well = await self.until_well() if not self.spoils else None
            if well is not None:
                await asyncio.sleep(CALM_SECONDS)
            await self.load.stop()
            self.check_shares(well)
            await self.verify()
        finally:
            if self.takeover is not None:
                self.takeover.cancel()
                await asyncio.gather(self.takeover, return_exceptions=True)
            trial.loads.remove(self.load)
            if self.load.pump is not None:
                await self.load.stop()
            self.load.close()
        return self.result

    @property
    def spoils(self):
        return any(row.spoils for row in self.rows)

    @property
    def shards(self):
        return set(range(self.trial.cluster.shape.shards))

    async def make_faults(self):
        busy = set()
        self.scenes = [Scene(self.trial, self.load, busy, self.begun) for _ in self.rows]
        tasks = []
        for row, scene in zip(self.rows, self.scenes):
            if tasks:
                await asyncio.sleep(self.trial.chance.uniform(0, 1.5))
            tasks.append(asyncio.create_task(row.run(scene)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.result.effects = [effect for scene in self.scenes for effect in scene.effects]
            self.result.idle = [row.name for row, scene in zip(self.rows, self.scenes) if not scene.has_acted]
        self.result.fault_seconds = round(self.ended - self.began, 3)

    @property
    def began(self):
        return min(scene.began for scene in self.scenes)

    @property
    def ended(self):
        return max(scene.ended for scene in self.scenes)

    def begun(self):
        """Where the cluster outlives the fault, every shard must take writes soon, whether the fault is over or not."""
        if self.takeover is None and self.outlives and not self.spoils:
            begin = time.monotonic()
            self.takeover = asyncio.create_task(self.trial.until_recovered(self.load, self.shards, begin))

    async def until_well(self):
        """When every shard took a write again and nothing was missing any more."""
        trial, ended = self.trial, self.ended
        if self.takeover is not None:
            first = await self.takeover
            self.result.takeover_seconds = round(max(first.values(), default=0.0), 3)
        first = await trial.until_recovered(self.load, self.shards, ended, RECOVERY_SECONDS_MAX)
        self.result.recovery_seconds = round(max(first.values(), default=0.0), 3)
        await trial.until_settled()
        for gateway in trial.cluster.gateways:
            await trial.cluster.until(f"{gateway.name} is ready", lambda g=gateway: trial.cluster.is_ready(g))
        well = time.monotonic()
        self.result.settled_seconds = round(well - ended, 3)
        return well

    # ---- The verdict

    def check_shares(self, well):
        """A cluster that answers nothing contradicts nothing, so enough must have been answered."""
        result, load = self.result, self.load
        calm = [o for o in load.operations if load.started <= o.invoked < self.began]
        if well is not None:
            calm += [o for o in load.operations if o.invoked >= well]
        meanwhile = [o for o in load.operations if self.began <= o.invoked < self.ended]
        result.calm_share, result.fault_share = share(calm), share(meanwhile)
        for flaw in shares_missing(len(calm), result.calm_share, result.fault_share, self.least()):
            self.trial.add("too-few", flaw)

    def least(self):
        return min(row.least for row in self.rows) * (0.5 if len(self.rows) > 1 else 1) if self.outlives else 0.0

    async def verify(self):
        """Everything that clients were told, by both checkers."""
        trial, load, result = self.trial, self.load, self.result
        await load.retry_some(200)
        await load.read_all()
        await trial.stop_watching()
        logs = await load.logs()
        found, tally = await asyncio.to_thread(histories.check, load.operations, logs, load.retries)
        second, result.ordered = await asyncio.to_thread(linear.check, load.operations, logs)
        trial.violations += found + second + histories.check_clusters(load.operations)
        if not self.spoils:
            await trial.until_hashes_agree()
        trial.check_disks()
        trial.cluster.check_alive()
        trial.remember(logs)
        result.operations = len(load.operations) + len(load.retries)
        result.acknowledged = tally.by_outcome[histories.OK]
        tally.compared, trial.compared = trial.compared, 0
        self.tally = tally
        await asyncio.to_thread(self.prove_checkers, logs)

    def prove_checkers(self, logs):
        """Both checkers must find a wrong answer that is planted in what they have just passed."""
        entity = self.trial.chance.choice(self.load.hot)
        ours = [operation for operation in self.load.operations if operation.entity == entity]
        found = planted.find_planted(entity, ours, logs.get(entity, []), self.trial.chance)
        if found is None:
            self.trial.add("harness", f"nothing could be planted in {len(ours)} operations of {'/'.join(entity)}")
            return
        self.result.planted, missed = found
        for text in missed:
            self.trial.add("harness", text)


def share(operations):
    return round(sum(o.outcome in SUCCESS for o in operations) / len(operations), 3) if operations else None


def shares_missing(calm_requests, calm_share, fault_share, least):
    """What says that too little was served for the checks to mean something. Pure."""
    if calm_requests < CALM_REQUESTS_LEAST:
        yield f"{calm_requests} requests in calm times are fewer than {CALM_REQUESTS_LEAST}"
    elif calm_share < CALM_SHARE_LEAST:
        yield f"{calm_share:.0%} of the requests in calm times had an outcome, fewer than {CALM_SHARE_LEAST:.0%}"
    if fault_share is not None and fault_share < least:
        yield f"{fault_share:.0%} of the requests during the fault had an outcome, fewer than {least:.0%}"


# ---- All of them


def write_table():
    with open(catalogue.TABLE, "w", encoding="utf-8") as file:
        file.write(catalogue.table())


async def run(options, network):
    rows, missing = catalogue.available()
    rows = chosen(options, rows, missing)
    deck = catalogue.Deck(rows, random.Random(f"{options.seed}-deck"))
    columns = [("fault", 5), ("row", 22), ("also", 22), ("cluster", 10), ("fault s", 7), ("taken s", 7), ("again s", 7)]
    report = Report(options, [*columns, ("settled s", 9), ("served", 6), *COUNTS, ("violations", 10)])
    results = Results(options.results or f"catalogue-{options.seed}.jsonl", head_of(options, rows, missing))
    library, number = (shim.build(options.place) if shim.compiler() else ""), 0
    begin, in_vain = time.monotonic(), 0
    while is_wanted(options, results):
        before, number = results.segments, number + 1
        if not await one_cluster(options, network, library, number, deck, report, results):
            break
        in_vain = in_vain + 1 if results.segments == before else 0
        if in_vain == CLUSTERS_IN_VAIN_MAX or is_too_slow(results):
            break
    if is_too_slow(results):
        text = f"in {results.excused} of {results.segments} segments the harness was too late to judge service"
        report.violations.append((report, histories.Violation("harness", text)))
    note_never_made(options, rows, report)
    seconds, violations = round(time.monotonic() - begin), len(report.violations)
    counted = {"faults": results.faults, "operations": results.operations, "violations": violations}
    results.write({"end": {"ended": moment(), "seconds": seconds, **counted}})
    print(f"\n{results.faults} faults, {results.operations} operations checked; results are in {results.path}")
    return report.summary()


def note_never_made(options, rows, report):
    """A run that is long enough makes every row."""
    for row in rows:
        if options.faults >= 2 * len(rows) and row.name not in report.seen:
            report.violations.append((report, histories.Violation("harness", f"{row.name} was never made")))


def chosen(options, rows, missing):
    for name in options.row:
        if name not in ROWS:
            raise SystemExit(f"there is no row {name!r}: {', '.join(ROWS)}")
        if name in missing:
            raise SystemExit(f"{name} cannot be made here: {', '.join(missing[name])} is missing")
    if missing and not options.row:
        print(f"    cannot be made here: {'; '.join(f'{name} ({reason[0]})' for name, reason in missing.items())}", flush=True)
    if not options.row and len(rows) < catalogue.ROWS_LEAST:
        raise SystemExit(f"only {len(rows)} rows can be made here, fewer than {catalogue.ROWS_LEAST}")
    return [row for row in rows if not options.row or row.name in options.row]


def is_too_slow(results):
    return results.excused > max(EXCUSED_MAX, EXCUSED_SHARE_MAX * results.segments)


def is_wanted(options, results):
    return results.faults < options.faults or results.operations < options.operations


async def one_cluster(options, network, library, number, deck, report, results):
    """Faults in one cluster, until it has had enough or is of no use any more. False when the campaign is to end."""
    shape = {"lists_anew": True, "shim": library, "disk_mib": DISK_MIB if disks.can_mount() else 0}
    if number % WIDE_EVERY == 0 and not options.row:
        shape |= {"nodes": 5, "replicas": 5}
    settings = options.replacing
    async with elastic_trial(options, network, f"cluster-{number}", kind=Campaign, node_settings=settings, **shape) as trial, trial:
        for _ in range(options.per_cluster):
            may_pair = deck.chance.random() < options.pairs and not options.row
            segment = Segment(trial, deck.draw(trial.cluster.shape, may_pair), results.faults + 1)
            is_of_use = await conclude(segment, report, results)
            if not is_of_use or segment.spoils or not is_wanted(options, results):
                break
        if not trial.cluster.keeps_disks:
            await trial.check_remembered()
    if trial.violations:
        note_leftovers(trial, report, results)
    if not trial.cluster.keeps_disks:
        clean(options, trial)
    return options.keep_going or not trial.cluster.keeps_disks


async def conclude(segment, report, results):
    """Runs one segment and writes what came of it. False when the cluster is of no use any more."""
    trial, result, is_of_use = segment.trial, segment.result, True
    begin, waited = time.monotonic(), limits.seconds_waited()
    try:
        async with asyncio.timeout(SEGMENT_SECONDS_MAX):
            await segment.run()
    except (Stuck, TimeoutError) as error:
        trial.add("stuck", str(error) or f"{SEGMENT_SECONDS_MAX} s were not enough")
        is_of_use = False
    except (Exception, SystemExit) as error:  # pylint: disable=broad-exception-caught
        # What the harness cannot do must not take hours of results along.
        trial.add("harness", f"{error!r}: {traceback.format_exc()[-1500:]}")
        is_of_use = False
    excuse(segment)
    if waited is not None:
        result.waiting_share = round((limits.seconds_waited() - waited) / (time.monotonic() - begin), 3)
    result.violations = texts_of(trial.violations)
    result.outcome = "violated" if trial.violations else "held"
    trial.cluster.keeps_disks = trial.cluster.keeps_disks or bool(trial.violations)
    results.add(result)
    report.seen.update(row.name for row in segment.rows if row.name not in result.idle)
    report.row(trial, **cells_of(result, results), **(counts(segment.tally) if segment.tally else {}))
    print(f"    {'; '.join(result.effects)}", flush=True)
    return is_of_use and not (trial.cluster.keeps_disks and not trial.options.keep_going)


def excuse(segment):
    """A harness that is late by seconds measures its machine. What it says of service then counts for nothing, and neither does
    the fault; what it says of answers counts as ever."""
    trial, result, lag = segment.trial, segment.result, segment.load.lag if segment.load else 0.0
    result.lag_seconds = round(lag, 3)
    if lag <= LAG_SECONDS_MAX:
        return
    excused = [violation for violation in trial.violations if violation.check in OF_SERVICE]
    if excused:
        trial.violations = [violation for violation in trial.violations if violation.check not in OF_SERVICE]
        result.excused, result.idle = texts_of(excused), [row.name for row in segment.rows]
        result.effects.append(f"not counted: the harness was {lag:.1f} s late ({excused[0].check})")


def cells_of(result, results):
    cells = {"fault": results.faults, "row": result.row, "also": result.also, "cluster": result.cluster}
    cells |= {"fault s": result.fault_seconds, "taken s": result.takeover_seconds, "again s": result.recovery_seconds, "settled s": result.settled_seconds}
    return {name: value for name, value in (cells | {"served": result.fault_share}).items() if value is not None}


def texts_of(violations):
    return [{"check": violation.check, "text": violation.text[:2000]} for violation in violations]


def note_leftovers(trial, report, results):
    """What was found after the last fault of a cluster, such as a panic in a log, belongs to the cluster."""
    trial.cluster.keeps_disks = True
    results.write({"cluster": trial.name, "violations": texts_of(trial.violations)})
    report.row(trial)
