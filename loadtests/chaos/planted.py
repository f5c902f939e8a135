"""One wrong answer in a history that a running cluster has just made: whoever checks it must find it, in this very history and not
only in those of the tests. Pure; what it is given stays as it is."""

import copy

from chaos import histories, linear
from chaos.histories import AT_REPLICAS, OK


def find_planted(entity, operations, log, chance):
    """Plants one flaw and has both checkers look. Gives its name, and what is wrong with the checkers: nothing, in the end.
    None when there is nothing in the history that could be made wrong."""
    for name, plant, is_for_both in chance.sample(FLAWS, len(FLAWS)):
        planted = plant([copy.copy(operation) for operation in operations], list(log), chance)
        if planted is None:
            continue
        found = {violation.check for violation in histories.EntityCheck(entity, *planted).run()}
        missed = [] if name in found else [f"{name} was planted and not found; found: {sorted(found)}"]
        if is_for_both and not linear.check(planted[0], {entity: planted[1]})[0]:
            missed.append(f"{name} was planted and an order was found")
        return name, missed
    return None


def acknowledged(operations):
    return [operation for operation in operations if operation.command and operation.outcome == OK]


def lost(operations, log, chance):
    """An acknowledged event is not in the log."""
    writes = acknowledged(operations)
    if not writes:
        return None
    gone = chance.choice(writes).version
    kept = [event for event in log if event["version"] != gone]
    return operations, [{**event, "version": number} for number, event in enumerate(kept, 1)]


def twice(operations, log, chance):
    """A write took effect a second time."""
    writes = acknowledged(operations)
    if not writes:
        return None
    event = log[chance.choice(writes).version - 1]
    return operations, [*log, {**event, "version": len(log) + 1, "time": None}]


def stale(operations, log, chance):
    """A read does not see a write that had ended before it began."""
    writes = acknowledged(operations)
    first = min((write.completed for write in writes), default=float("inf"))
    reads = [read for read in operations if read.command is None and read.outcome == OK and read.consistency not in AT_REPLICAS]
    late = [read for read in reads if read.invoked > first]
    if not late:
        return None
    read = chance.choice(late)
    seen = max(write.version for write in writes if write.completed < read.invoked)
    read.version = seen - 1
    read.state = histories.fold_all(read.entity[0], log)[seen - 1]
    read.has_state = read.version > 0
    return operations, log


def state(operations, log, chance):
    """A read shows what never was."""
    reads = [read for read in operations if read.command is None and read.has_state and read.consistency not in AT_REPLICAS]
    if not reads or reads[0].entity[0] != "counter":
        return None
    read = chance.choice(reads)
    read.state = {"value": read.state["value"] + 1}
    return operations, log


# Under which name the first checker finds it, how it is planted, and whether the second one must find it too: it does not look for
# what is only in the log.
FLAWS = [("lost", lost, False), ("twice", twice, False), ("stale", stale, True), ("state", state, True)]
