"""A second opinion on histories, by another way than `histories.py`: for every entity it searches an order of all operations that
a correct entity could have executed one after the other, and that contradicts neither real time nor any answer. The search is
that of Wing and Gong (1993) with the memory of Lowe (2017), as in porcupine. It takes nothing from the sweep over versions.
Pure, and bounded: a search that takes too many steps gives up, and that is a violation too, because nothing was shown.

Reads at replicas take no part: by the contract they may be of before, and `histories.py` checks them.

The log of the entity is used for two things. A write of which the outcome is unknown, and whose marker is not in the log, never
took effect and is left out; of those that are in it the log says which to try first, which makes the search of a correct history
a straight line and can make no wrong one pass.
"""

from chaos import histories
from chaos.histories import AT_REPLICAS, MISMATCH, OK, REJECTED, UNKNOWN, Violation

STEPS_PER_OPERATION, STEPS_LEAST = 200, 200_000


class GaveUp(Exception):
    """Neither an order was found nor that there is none."""


def check(operations, logs, steps_least=STEPS_LEAST):
    """All violations, and how many operations took part in an order that was found."""
    violations, ordered = [], 0
    grouped = {}
    for operation in operations:
        grouped.setdefault(operation.entity, []).append(operation)
    for entity, ours in grouped.items():
        search = Search(entity, ours, logs.get(entity, []), steps_least)
        name = "/".join(entity)
        try:
            if search.finds_an_order():
                ordered += len(search.calls)
            else:
                violations.append(Violation("no-order", f"{name}: {search.farthest()}"))
        except GaveUp:
            violations.append(Violation("gave-up", f"{name}: no order of {len(search.calls)} operations in {search.steps_max} steps"))
    return violations, ordered


class Call:
    """An operation that takes part: when it may take effect, and what it would be by the log."""

    __slots__ = ("operation", "begin", "end", "number", "is_effect", "hint")

    def __init__(self, operation, number, hint):
        self.operation, self.number, self.hint = operation, number, hint
        self.begin, self.end = operation.invoked, operation.completed
        self.is_effect = operation.command is not None and operation.outcome in (OK, UNKNOWN)
        if operation.outcome == UNKNOWN:
            self.end = float("inf")


class Search:
    def __init__(self, entity, operations, log, steps_least=STEPS_LEAST):
        self.entity = entity
        versions = {histories.marker_of(event): event["version"] for event in log}
        taking_part = [operation for operation in operations if takes_part(operation, versions)]
        taking_part.sort(key=lambda operation: operation.invoked)
        self.calls = [Call(operation, number, versions.get(operation.marker)) for number, operation in enumerate(taking_part)]
        self.steps, self.steps_max = 0, steps_least + STEPS_PER_OPERATION * len(self.calls)
        self.most, self.stuck_at = -1, None

    def farthest(self):
        done, state, waiting = self.stuck_at or (0, None, [])
        shown = "; ".join(str(call.operation) for call in waiting[:3])
        return f"after {done} of {len(self.calls)} operations the entity is {state}, and none of {len(waiting)} fits: {shown}"

    def finds_an_order(self):
        """Depth first: what fits next is taken, and given back when nothing fits behind it."""
        pending, seen = Pending(self.calls), set()
        stack = [self.level(pending, (0, histories.initial(self.entity[0])), [])]
        while pending.waiting:
            state, choices, taken = stack[-1]
            call = next(choices, None)
            if call is None:
                self.note_end(pending, state)
                stack.pop()
                pending.give_back(taken)
                if not stack:
                    return False
                continue
            after = self.step(call.operation, state)
            if after is None:
                continue
            level = self.level(pending, after, [call])
            key = (pending.mask, after[0], repr(after[1]))
            if key in seen:
                pending.give_back(level[2])
            else:
                seen.add(key)
                stack.append(level)
        return True

    def level(self, pending, state, taken):
        """Where the search is after `taken`: the state, what may come next, and all that was taken to get here."""
        for call in taken:
            pending.take(call)
        taken += self.quiet(pending, state)
        return state, self.choices(pending, state), taken

    def quiet(self, pending, state):
        """Takes everything that may come now, fits, and changes nothing: whatever order there is, there is one with these here."""
        taken, more = [], True
        while more:
            more = False
            for call in pending.window():
                if not call.is_effect and self.step(call.operation, state) is not None:
                    pending.take(call)
                    taken.append(call)
                    more = True
        return taken

    def choices(self, pending, state):
        """What may take effect next: first what the log has next."""
        window = [call for call in pending.window() if call.is_effect]
        window.sort(key=lambda call: (call.hint != state[0] + 1, call.begin))
        return iter(window)

    def note_end(self, pending, state):
        done = len(self.calls) - len(pending.waiting)
        if done > self.most:
            self.most, self.stuck_at = done, (done, state, pending.window())

    def step(self, operation, state):
        """What the entity is after the operation; None when it would have answered something else."""
        self.steps += 1
        if self.steps > self.steps_max:
            raise GaveUp
        version, content = state
        if operation.command is None:
            return state if operation.version == version and shows(self.entity[0], operation, content) else None
        if operation.outcome == MISMATCH:
            return state if operation.expected != version == operation.version else None
        if operation.outcome == REJECTED:
            return state if histories.rejects(operation, content) else None
        if operation.expected not in (None, version) or histories.rejects(operation, content):
            return None
        after = histories.evolve(self.entity[0], content, event_of(operation))
        if operation.outcome == OK and (operation.version != version + 1 or not shows(self.entity[0], operation, after)):
            return None
        return version + 1, after


class Pending:
    """Calls that are not in the order yet, and which of them may be next: those that began before any of them had ended."""

    def __init__(self, calls):
        self.waiting = dict.fromkeys(calls)
        self.calls, self.first = calls, 0
        self.mask = 0  # a bit for each that is taken
        self.is_taken = [False] * len(calls)

    def window(self):
        while self.first < len(self.calls) and self.is_taken[self.first]:
            self.first += 1
        found, end = [], float("inf")
        for number in range(self.first, len(self.calls)):
            call = self.calls[number]
            if call.begin > end:
                break
            if not self.is_taken[number]:
                found.append(call)
                end = min(end, call.end)
        return [call for call in found if call.begin <= end]

    def take(self, call):
        self.is_taken[call.number] = True
        self.mask |= 1 << call.number
        del self.waiting[call]

    def give_back(self, calls):
        for call in calls:
            self.is_taken[call.number] = False
            self.mask ^= 1 << call.number
            self.waiting[call] = None
            self.first = min(self.first, call.number)


def takes_part(operation, versions):
    if operation.command is None:
        return operation.outcome == OK and operation.consistency not in AT_REPLICAS
    if operation.outcome == UNKNOWN:
        return operation.marker in versions
    return operation.outcome in (OK, REJECTED, MISMATCH)


def shows(kind, operation, content):
    """Whether what was answered could have been of this content. Documents are compared by their marker: that is all that a
    command is known by."""
    if not operation.has_state:
        return True
    if kind != "document":
        return operation.state == content
    return content is not None and isinstance(operation.state, dict) and operation.state.get("marker") == content.get("marker")


def event_of(operation):
    """The event that a correct entity makes of a command."""
    field = {"add": "by", "deposit": "amountCents", "withdraw": "amountCents"}.get(operation.command)
    if operation.command == "put":
        data = {"value": {"marker": operation.marker}}
    else:
        data = {} if field is None else {field: operation.marker}
    return {"type": histories.EVENTS[operation.command], "data": data}
