"""What must hold between what clients were told and what the entities' logs say. Pure: works on recorded operations and
logs, asks nobody, and can therefore be tested against planted flaws (test_histories.py).

An operation is one request. Times are of one monotonic clock, taken before the request was written and after the answer was
read, so that real intervals lie within the recorded ones: what looks like a violation of order is one.
"""

import bisect
import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

# How a request ended.
OK = "ok"
REJECTED = "rejected"  # 422: the entity said no
MISMATCH = "mismatch"  # 412: another version
REFUSED = "refused"  # 429, 503, 409: not applied, says the contract
UNSENT = "unsent"  # no connection, so that it cannot have been applied
UNKNOWN = "unknown"  # 504, or sent and never answered
FAILED = "failed"  # an answer that the contract does not have
NEVER_APPLIED = (REJECTED, MISMATCH, REFUSED, UNSENT)
# Reads that a replica answers: of a state that was, and not before what the session has seen.
AT_REPLICAS = ("session", "stale")
# Command → the event that it makes.
EVENTS = {"add": "added", "deposit": "deposited", "withdraw": "withdrawn", "open": "opened", "put": "put"}


class Violation(NamedTuple):
    check: str
    text: str


@dataclass(slots=True)
class Operation:
    """One request. A write has a `marker` that no other write of its entity has, so that its event is known by it."""

    entity: tuple
    command: str | None = None  # None: a read
    marker: int | str | None = None
    key: str | None = None  # the idempotency key that the client gave
    expected: int | None = None  # the version of If-Match
    consistency: str = "linearizable"
    gateway: int = 0
    invoked: float = 0.0
    completed: float = math.inf
    outcome: str = UNKNOWN
    status: int = 0
    detail: str = ""
    version: int | None = None
    state: object = None
    has_state: bool = False
    replayed: bool = False
    shard: int | None = None
    cluster: str | None = None
    session: object = None  # the client's session that it is part of, if any
    seen: int = 0  # the version of this entity that the session token it was sent with has seen

    def __str__(self):
        what = f"{self.command} {self.marker}" if self.command else f"{self.consistency} read"
        condition = "" if self.expected is None else f" if at {self.expected}"
        time = f"{self.invoked:.3f}–{self.completed:.3f}"
        return (
            f"{what} of {'/'.join(self.entity)}{condition} through gateway {self.gateway} at {time}: {self.outcome} {self.status}"
            f"{'' if self.version is None else f' version {self.version}'}{f' ({self.detail})' if self.detail else ''}"
        )


@dataclass
class Tally:
    """Counts of one check; the columns of the tables."""

    by_outcome: dict = field(default_factory=lambda: defaultdict(int))
    reads: int = 0
    events: int = 0
    entities: int = 0
    unknown_applied: int = 0
    replayed: int = 0
    compared: int = 0  # shards whose replicas were seen to agree under load


def check(operations, logs, retries=()):
    """All violations, and the tally. `logs`: entity → its events, complete, fetched after all operations had ended.
    `retries`: pairs (first, again) of operations, the second sent later with the key of the first."""
    violations, tally = [], Tally()
    grouped = defaultdict(list)
    for operation in operations:
        grouped[operation.entity].append(operation)
        if operation.command:
            tally.by_outcome[operation.outcome] += 1
        elif operation.outcome in (OK, FAILED):
            tally.reads += 1
    again = defaultdict(list)
    for pair in retries:
        again[pair[0].entity].append(pair)
    for entity in sorted({*grouped, *logs}):
        one = EntityCheck(entity, grouped[entity], logs.get(entity, []), again[entity])
        violations += one.run()
        tally.entities += 1
        tally.events += len(one.log)
        tally.unknown_applied += one.unknown_applied
        tally.replayed += one.replayed
    return violations, tally


class EntityCheck:
    """The checks of one entity. Together they say that its history is linearizable: versions give the order, and the
    order contradicts neither real time nor any answer."""

    def __init__(self, entity, operations, log, retries=()):
        self.entity, self.operations, self.log, self.retries = entity, operations, log, retries
        self.unknown_applied = self.replayed = 0
        self.violations = []

    def wrong(self, name, text):
        self.violations.append(Violation(name, text))

    def run(self):
        if not self.check_log():
            return self.violations  # Versions are the ground that all else stands on.
        self.states = fold_all(self.entity[0], self.log)
        self.check_effects()
        self.check_answers()
        self.check_order()
        for first, again in self.retries:
            self.check_retry(first, again)
        return self.violations

    def check_log(self):
        versions = [event["version"] for event in self.log]
        for number, version in enumerate(versions, 1):
            if number != version:
                self.wrong("gap", f"{'/'.join(self.entity)}: version {number} of the log is called {version}")
                return False
        times = [event.get("time") for event in self.log]
        if all(times):
            for earlier, later in zip(self.log, self.log[1:]):
                if datetime.fromisoformat(earlier["time"]) >= datetime.fromisoformat(later["time"]):
                    self.wrong("time", f"{'/'.join(self.entity)}: the time of {later} is not after that of {earlier}")
        return True

    def check_effects(self):
        """Acknowledged ones are in the log once, at their version; unknown ones at most once; all others not at all."""
        places = defaultdict(list)
        for event in self.log:
            places[marker_of(event)].append(event)
        self.applied = {}  # number of the operation → version, by what the log says
        for number, operation in enumerate(self.operations):
            if operation.command is None:
                continue
            found = places.pop(operation.marker, [])
            versions = [event["version"] for event in found]
            if len(found) > 1:
                self.wrong("twice", f"{operation}: is in the log {len(found)} times, as versions {versions}")
            elif operation.outcome == OK and versions != [operation.version]:
                self.wrong("lost" if not found else "moved", f"{operation}: is in the log as {versions or 'nothing'}")
            elif operation.outcome in NEVER_APPLIED and found:
                self.wrong("refused", f"{operation}: is in the log as version {versions[0]}")
            if found:
                self.applied[number] = versions[0]
                self.unknown_applied += operation.outcome == UNKNOWN
                if not says(operation, found[0]):
                    self.wrong("altered", f"{operation}: became {found[0]}")
        for events in places.values():
            self.wrong("nobody", f"{'/'.join(self.entity)}: nobody asked for {events[0]}")

    def check_answers(self):
        """Every state that was answered is what the log says it was at that version."""
        for operation in self.operations:
            if operation.outcome == FAILED:
                self.wrong("answer", str(operation))
            if operation.outcome == OK and operation.version is not None:
                if operation.version < operation.seen:
                    self.wrong("session", f"{operation}: its session had seen version {operation.seen} before")
                if operation.version > len(self.log):
                    # For a write, that it is lost says the same.
                    if operation.command is None:
                        self.wrong("ahead", f"{operation}: the log ends at {len(self.log)}")
                elif operation.has_state and operation.state != self.states[operation.version]:
                    told, real = operation.state, self.states[operation.version]
                    self.wrong("state", f"{operation}: answered {brief(told)}, but the log gives {brief(real)}")
                if operation.command and operation.expected is not None and operation.version != operation.expected + 1:
                    self.wrong("condition", f"{operation}: was executed at another version than it was meant for")
            if operation.outcome == MISMATCH and operation.version == operation.expected:
                self.wrong("condition", f"{operation}: was refused at the very version it was meant for")

    def check_order(self):
        """If one operation ended before another began, then the other saw it, and it did not see the other."""
        points = []  # (invoked, completed, version, is an effect, operation)
        for number, operation in enumerate(self.operations):
            if number in self.applied:
                # One that was never answered may have taken effect at any time after its beginning.
                completed = operation.completed if operation.outcome == OK else math.inf
                points.append((operation.invoked, completed, self.applied[number], True, operation))
            elif operation.command is None and operation.outcome == OK or operation.outcome == MISMATCH:
                points.append((operation.invoked, operation.completed, operation.version, False, operation))
        points.sort(key=lambda point: point[0])
        self.floors = Floors(points)
        for invoked, _, version, is_effect, operation in points:
            floor, by = self.floors.before(invoked)
            if operation.consistency in AT_REPLICAS:
                continue
            if is_effect and version <= floor:
                self.wrong("order", f"{operation}: is version {version}, but {floor} was seen before it began, by {by}")
            elif not is_effect and version < floor:
                self.wrong("stale", f"{operation}: saw version {version}, but {floor} was seen before it began, by {by}")
        self.check_rejections(points)

    def check_rejections(self, points):
        """A rejection is of a state that the entity had at some moment between question and answer."""
        effects = sorted((point for point in points if point[3]), key=lambda point: point[0])
        begins = [point[0] for point in effects]
        least_after = [math.inf] * (len(effects) + 1)  # least version of what began at or after the i-th
        for place in range(len(effects) - 1, -1, -1):
            least_after[place] = min(effects[place][2], least_after[place + 1])
        for operation in self.operations:
            if operation.outcome != REJECTED:
                continue
            least, _ = self.floors.before(operation.invoked)
            most = min(len(self.log), least_after[bisect.bisect_right(begins, operation.completed)] - 1)
            if not any(rejects(operation, self.states[version]) for version in range(least, int(most) + 1)):
                self.wrong("rejection", f"{operation}: no state of versions {least} to {most} says no to it")

    def check_retry(self, first, again):
        """The outcome of a key is its first one, for ever."""
        if again.outcome in (UNKNOWN, REFUSED, UNSENT):
            return  # Nothing was said, so nothing can be wrong.
        self.replayed += again.replayed
        told = f"{first}; again: {again}"
        if again.outcome == FAILED:
            self.wrong("answer", told)
        elif first.outcome in (OK, REJECTED, MISMATCH):
            if not again.replayed:
                self.wrong("executed-again", told)
            if (first.outcome, first.version) != (again.outcome, again.version):
                self.wrong("changed-outcome", told)
        elif again.outcome == OK:
            versions = [event["version"] for event in self.log if marker_of(event) == first.marker]
            if versions != [again.version]:
                self.wrong("retried-lost", f"{told}; the log has it as {versions or 'nothing'}")
        elif any(marker_of(event) == first.marker for event in self.log):
            self.wrong("retried-refused", f"{told}; but it is in the log")


class Floors:
    """The highest version that was seen by something that had ended before a given moment."""

    def __init__(self, points):
        self.moments, self.highest, self.by = [], [], []
        most, who = 0, None
        for _, completed, version, _, operation in sorted(points, key=lambda point: point[1]):
            if completed == math.inf:
                break
            if version > most:
                most, who = version, operation
            self.moments.append(completed)
            self.highest.append(most)
            self.by.append(who)

    def before(self, moment):
        """0 and None when nothing had ended. What ended in the same instant counts as at the same time."""
        place = bisect.bisect_left(self.moments, moment)
        return (self.highest[place - 1], self.by[place - 1]) if place else (0, None)


def check_growth(earlier, later):
    """A log only grows: what was read of it once stays. Both: entity → events."""
    violations = []
    for entity, before in earlier.items():
        after = later.get(entity)
        if after is not None and after[: len(before)] != before:
            place = next((i for i, event in enumerate(before) if i >= len(after) or after[i] != event), 0)
            is_now = after[place] if place < len(after) else "nothing"
            violations.append(Violation("rewritten", f"{'/'.join(entity)}: was {before[place]} and now is {is_now}"))
    return violations


def check_clusters(operations):
    """All answers come from one cluster, and an entity's shard never changes."""
    violations, shards = [], {}
    clusters = sorted({operation.cluster for operation in operations if operation.cluster})
    if len(clusters) > 1:
        violations.append(Violation("clusters", f"answers came from {len(clusters)} clusters: {', '.join(clusters)}"))
    for operation in operations:
        if operation.shard is not None and shards.setdefault(operation.entity, operation.shard) != operation.shard:
            violations.append(Violation("shards", f"{operation}: of shard {operation.shard}, before {shards[operation.entity]}"))
    return violations


class Hashes:
    """What `/v1/cluster/hashes` says: which shards' replicas agree up to where, and what contradicts."""

    def __init__(self, document):
        self.violations, self.shards = [], {}
        for shard in document["shards"]:
            number, replicas = shard["shard"], [r for r in shard.get("replicas") or [] if r.get("contentHash") is not None]
            by_index = defaultdict(set)
            for replica in replicas:
                # The entries of one incarnation may be others in another one.
                by_index[replica.get("incarnation", 0), replica["appliedIndex"]].add(replica["contentHash"])
            # Looked at here too, because what compares could itself be what is wrong.
            apart = [index for (_, index), hashes in by_index.items() if len(hashes) > 1]
            if shard.get("agree") is False or apart:
                at = f" at index {apart[0]}" if apart else ""
                self.violations.append(Violation("hashes", f"replicas of shard {number} differ{at}: {replicas}"))
            agreed = next(iter(by_index))[1] if len(by_index) == 1 else shard.get("comparedIndex")
            self.shards[number] = (len(replicas), agreed if shard.get("agree") is True else None, max((index for _, index in by_index), default=0))

    def furthest(self):
        """Shard → the highest index that any replica has applied."""
        return {shard: applied for shard, (_, _, applied) in self.shards.items()}

    def agreed(self, replicas, least):
        """The shards of which so many replicas agree at an index that is not below `least` of that shard."""
        return {
            shard
            for shard, (answered, agreed, _) in self.shards.items()
            if answered >= replicas and agreed is not None and agreed >= least.get(shard, 0)
        }


# ---- The kinds that are used as load


def initial(kind):
    return {"counter": {"value": 0}, "account": {"balanceCents": 0, "open": False}, "document": None}[kind]


def fold_all(kind, log):
    """The state after 0, 1, 2 … events."""
    states = [initial(kind)]
    for event in log:
        states.append(evolve(kind, states[-1], event))
    return states


def evolve(kind, state, event):
    data = event.get("data") or {}
    if kind == "counter":
        return {"value": state["value"] + data.get("by", 0)}
    if kind == "document":
        return data.get("value")
    change = {"deposited": 1, "withdrawn": -1}.get(event["type"], 0)
    return {"balanceCents": state["balanceCents"] + change * data.get("amountCents", 0), "open": True}


def marker_of(event):
    data = event.get("data") or {}
    if isinstance(data.get("value"), dict):
        return data["value"].get("marker")
    return data.get("by", data.get("amountCents", event["type"]))


def says(operation, event):
    """Whether the event is what the command asks for."""
    return event["type"] == EVENTS[operation.command]


def rejects(operation, state):
    """Whether an entity in this state says no to the command."""
    if operation.command == "withdraw":
        return not state["open"] or state["balanceCents"] < operation.marker
    if operation.command == "deposit":
        return not state["open"]
    return operation.command == "open" and state["open"]


def brief(value, most=160):
    text = repr(value)
    return text if len(text) <= most else text[:most] + "…"
