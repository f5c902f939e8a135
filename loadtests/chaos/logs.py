"""What processes write to their logs, as JSON, while they write it."""

import json
import time
from datetime import datetime
from typing import NamedTuple

JSON_LINES = {"BERTH_TELEMETRY__FORMAT": "json"}
STEP, HANDED_OFF = "a move goes on", "a shard was handed off"


class Step(NamedTuple):
    """A step of a move, as the node that took it says."""

    at: float  # on the clock of time.monotonic
    by: object
    shard: int
    step: str
    target: str


class HandOff(NamedTuple):
    at: float
    by: object
    shard: int
    to: str
    pause_ms: float


class Tail:
    """The log of one process."""

    def __init__(self, process, from_now):
        self.rest, self.file = b"", open(process.log_path, "rb")  # pylint: disable=consider-using-with
        if from_now:
            self.file.seek(0, 2)

    def fresh(self):
        """The records that were written since it was last asked."""
        *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
        # Most lines are about something else, and some are not JSON.
        return [record for line in lines if b"shard" in line and (record := parse(line)) is not None]

    def close(self):
        self.file.close()


class Tails:
    """The logs of all nodes from now on, those of nodes that come later included."""

    def __init__(self, cluster):
        self.cluster, self.tails = cluster, {node: Tail(node, from_now=True) for node in cluster.nodes}

    def look(self):
        """All steps and hand-offs that were written since it was last asked, in the order of the logs."""
        found = []
        for node in self.cluster.nodes:
            if node not in self.tails and node.child is not None:
                self.tails[node] = Tail(node, from_now=False)
        for node, tail in self.tails.items():
            found += [event for record in tail.fresh() if (event := event_of(node, record)) is not None]
        return found

    def close(self):
        for tail in self.tails.values():
            tail.close()


def event_of(node, record):
    message = record.get("message")
    try:
        if message == STEP:
            return Step(moment(record), node, int(record["shard"]), record["step"], str(record["target"]))
        if message == HANDED_OFF:
            pause = float(record["pause_millis"])
            return HandOff(moment(record), node, int(record["shard"]), str(record["to"]), pause)
    except (KeyError, ValueError, TypeError) as error:
        raise SystemExit(f"{node.name} writes {record}, of which the harness makes no sense: {error!r}") from error
    return None


def moment(record):
    """When a record was written, on the clock of time.monotonic."""
    written = datetime.fromisoformat(record["timestamp"]).timestamp()
    return written - time.time() + time.monotonic()


def parse(line):
    try:
        record = json.loads(line, object_pairs_hook=first_wins)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def first_wins(pairs):
    """A field of an event that is called `target` comes before the name of the module, which is called the same."""
    return dict(reversed(pairs))
