#!/usr/bin/env python3
"""Shows that the checkers check: histories that keep every promise pass, and each planted flaw is found under its name.

    python3 loadtests/chaos/test_histories.py
"""

import copy
import math
import os
import random
import sys
import unittest

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from chaos import histories  # noqa: E402  pylint: disable=wrong-import-position
from chaos.histories import (  # noqa: E402  pylint: disable=wrong-import-position
    FAILED, MISMATCH, OK, REFUSED, REJECTED, UNKNOWN, UNSENT, Hashes, Operation,
)

COUNTER, ACCOUNT, DOCUMENT = ("counter", "c"), ("account", "a"), ("document", "d")
SEEDS = range(40)
EVENT_OF = {"add": "added", "deposit": "deposited", "withdraw": "withdrawn", "open": "opened", "put": "put"}


class World:
    """A correct server and its clients: operations overlap at random, and each takes effect at one moment within it."""

    def __init__(self, seed, operations=300):
        self.chance = random.Random(seed)
        self.logs = {COUNTER: [], ACCOUNT: [], DOCUMENT: []}
        self.states = {entity: histories.initial(entity[0]) for entity in self.logs}
        self.keys = {}
        self.operations = sorted((self.operation(number) for number in range(operations)), key=lambda pair: pair[0])
        for number, (moment, operation) in enumerate(self.operations):
            self.take_effect(number, moment, operation)
        self.operations = [operation for _, operation in self.operations]
        self.chance.shuffle(self.operations)
        self.retries = [self.again(first) for first in self.operations if first.key and self.chance.random() < 0.5]
        self.retries = [pair for pair in self.retries if pair]

    def operation(self, number):
        chance = self.chance
        begin = number * 0.01 + chance.random() * 0.02
        moment = begin + chance.uniform(0.001, 0.1)
        entity = chance.choice(list(self.logs))
        operation = Operation(entity, invoked=begin, completed=moment + chance.uniform(0.001, 0.1))
        if number == 0:
            # Before all else, and always acknowledged, because a closed account rejects everything.
            opening = Operation(ACCOUNT, "open", "opened", "key-0", invoked=-0.9, completed=-0.7)
            return -0.8, opening
        if chance.random() < 0.6:
            command = {"counter": "add", "document": "put"}.get(entity[0]) or chance.choice(("deposit", "withdraw"))
            operation.command, operation.marker = command, 1000 * chance.randrange(1, 9 if command == "withdraw" else 5) + number
            operation.key = f"key-{number}"
        return moment, operation

    def take_effect(self, number, moment, operation):
        entity, log = operation.entity, self.logs[operation.entity]
        fate = self.chance.random() if number else 1
        operation.outcome, operation.version = OK, len(log)
        if operation.command and fate < 0.08:
            operation.outcome, operation.version = self.chance.choice((REFUSED, UNSENT)), None
            return
        if operation.command and fate < 0.14:
            self.lose_answer(operation)
            return
        if operation.command and fate < 0.3:
            operation.expected = max(0, len(log) - self.chance.randrange(2))
            if operation.expected != len(log):
                operation.outcome = MISMATCH
                return
        if operation.command:
            if entity == ACCOUNT and histories.rejects(operation, self.states[ACCOUNT]):
                operation.outcome, operation.version = REJECTED, None
                return
            self.append(number, moment, operation)
            operation.version = len(log)
        operation.state, operation.has_state = copy.deepcopy(self.states[entity]), len(log) > 0
        if operation.command and number and self.chance.random() < 0.08:
            self.lose_answer(operation)

    @staticmethod
    def lose_answer(operation):
        operation.outcome, operation.version, operation.has_state, operation.completed = UNKNOWN, None, False, math.inf

    def append(self, number, moment, operation):
        log = self.logs[operation.entity]
        field = "by" if operation.command == "add" else "amountCents"
        data = {field: operation.marker} if operation.command != "put" else {"value": {"marker": operation.marker}}
        data = {} if operation.command == "open" else data
        time = f"2026-01-01T00:00:{moment + 1:09.6f}Z"
        event = {"version": len(log) + 1, "type": EVENT_OF[operation.command], "time": time, "data": data}
        log.append(event)
        self.states[operation.entity] = histories.evolve(operation.entity[0], self.states[operation.entity], event)
        self.keys[number] = len(log)

    def again(self, first):
        """What a retry is told: the first outcome, and of an unknown one what the log has."""
        again = copy.copy(first)
        if first.outcome in (OK, REJECTED, MISMATCH):
            again.replayed = True
            return first, again
        if first.outcome == UNKNOWN:
            versions = [e["version"] for e in self.logs[first.entity] if histories.marker_of(e) == first.marker]
            if versions:
                again.outcome, again.version, again.replayed = OK, versions[0], True
                return first, again
        return None

    def check(self):
        return histories.check(self.operations, self.logs, self.retries)

    # ---- For planting

    def some(self, condition, entity=None):
        found = [o for o in self.operations if condition(o) and entity in (None, o.entity)]
        return self.chance.choice(found) if found else None

    def acknowledged(self, entity=None):
        return self.some(lambda o: o.command and o.outcome == OK and o.expected is None, entity)

    def renumber(self, entity):
        for number, event in enumerate(self.logs[entity], 1):
            event["version"] = number

    def retry_of(self, *outcomes):
        found = [pair for pair in self.retries if pair[0].outcome in outcomes]
        return self.chance.choice(found) if found else (None, None)


class Planted(unittest.TestCase):
    """Each flaw is planted in histories of many seeds; wherever it could be planted it must be found."""

    def plant(self, name, flaw):
        planted = 0
        for seed in SEEDS:
            world = World(seed)
            if flaw(world) is False:
                continue
            planted += 1
            found = {violation.check for violation in world.check()[0]}
            self.assertIn(name, found, f"seed {seed}")
        self.assertGreater(planted, len(SEEDS) / 4, "the flaw could hardly be planted")

    def test_a_history_that_keeps_every_promise_passes(self):
        for seed in SEEDS:
            world = World(seed)
            violations, tally = world.check()
            self.assertEqual(violations, [], f"seed {seed}")
            outcomes = tally.by_outcome
            self.assertTrue(all(outcomes[name] for name in (OK, REJECTED, MISMATCH, REFUSED, UNSENT, UNKNOWN)), outcomes)
            self.assertTrue(tally.reads and tally.replayed and tally.unknown_applied)

    def test_an_acknowledged_write_that_is_lost(self):
        def flaw(world):
            write = world.acknowledged(COUNTER)
            del world.logs[COUNTER][write.version - 1]
            world.renumber(COUNTER)
        self.plant("lost", flaw)

    def test_the_newest_acknowledged_write_that_is_lost(self):
        def flaw(world):
            last = world.logs[COUNTER][-1]
            if not world.some(lambda o: o.outcome == OK and o.command and o.version == last["version"], COUNTER):
                return False
            world.logs[COUNTER].pop()
        self.plant("lost", flaw)

    def test_a_log_that_vanished(self):
        self.plant("lost", lambda world: world.logs.pop(COUNTER) and None)

    def test_an_acknowledged_write_at_another_version(self):
        def flaw(world):
            world.acknowledged(DOCUMENT).version += 1
        self.plant("moved", flaw)

    def test_an_acknowledged_write_that_took_effect_twice(self):
        def flaw(world):
            event = world.chance.choice(world.logs[COUNTER])
            world.logs[COUNTER].append({**event, "version": len(world.logs[COUNTER]) + 1, "time": "2026-01-01T01:00:00Z"})
        self.plant("twice", flaw)

    def test_an_unknown_write_that_took_effect_twice(self):
        def flaw(world):
            markers = {o.marker for o in world.operations if o.outcome == UNKNOWN and o.entity == DOCUMENT}
            for event in world.logs[DOCUMENT]:
                if histories.marker_of(event) in markers:
                    world.logs[DOCUMENT].append({**event, "version": len(world.logs[DOCUMENT]) + 1, "time": "2026-01-01T01:00:00Z"})
                    return None
            return False
        self.plant("twice", flaw)

    def test_writes_that_were_called_not_applied_but_were(self):
        for outcome in (REFUSED, UNSENT, REJECTED, MISMATCH):
            def flaw(world, outcome=outcome):
                write = world.acknowledged(ACCOUNT)
                write.outcome = outcome
                write.expected = write.version + 3 if outcome == MISMATCH else None
            self.plant("refused", flaw)

    def test_a_gap(self):
        def flaw(world):
            for event in world.logs[COUNTER][len(world.logs[COUNTER]) // 2 :]:
                event["version"] += 1
        self.plant("gap", flaw)

    def test_a_version_that_is_there_twice(self):
        def flaw(world):
            world.logs[COUNTER].insert(3, copy.copy(world.logs[COUNTER][2]))
        self.plant("gap", flaw)

    def test_time_that_stands_still(self):
        def flaw(world):
            world.logs[COUNTER][3]["time"] = world.logs[COUNTER][2]["time"]
        self.plant("time", flaw)

    def test_an_event_that_nobody_asked_for(self):
        def flaw(world):
            world.logs[COUNTER].append({"version": len(world.logs[COUNTER]) + 1, "type": "added", "data": {"by": 999_999}})
        self.plant("nobody", flaw)

    def test_an_event_of_another_entity(self):
        def flaw(world):
            world.logs[DOCUMENT].append({**world.logs[COUNTER][-1], "version": len(world.logs[DOCUMENT]) + 1, "time": "2026-01-01T01:00:00Z"})
        self.plant("nobody", flaw)

    def test_an_event_that_is_not_what_was_asked_for(self):
        def flaw(world):
            deposits = [event for event in world.logs[ACCOUNT] if event["type"] == "deposited"]
            world.chance.choice(deposits)["type"] = "withdrawn"
        self.plant("altered", flaw)

    def test_a_state_that_the_events_do_not_give(self):
        def flaw(world):
            operation = world.some(lambda o: o.has_state, COUNTER)
            operation.state = {"value": operation.state["value"] + 1}
        self.plant("state", flaw)

    def test_a_stale_read(self):
        def flaw(world):
            return old_answer(world, lambda o: o.command is None and o.outcome == OK)
        self.plant("stale", flaw)

    def test_a_stale_read_of_an_entity_that_seems_to_be_absent(self):
        def flaw(world):
            read = world.some(lambda o: o.command is None and o.outcome == OK and o.invoked > 1, COUNTER)
            read.version, read.has_state = 0, False
        self.plant("stale", flaw)

    def test_a_read_that_is_older_than_an_earlier_read(self):
        def flaw(world):
            # Of a write without an answer, so that only the earlier read shows that the later one is stale.
            unknown = {o.marker for o in world.operations if o.outcome == UNKNOWN}
            log = world.logs[COUNTER]
            at = [e["version"] for e in log if histories.marker_of(e) in unknown]
            if not at:
                return False
            version, states = at[0], histories.fold_all("counter", log)
            world.operations = [o for o in world.operations if o.entity != COUNTER or (o.marker and o.version is not None and o.version < version)]
            for begin, seen in ((90, version), (91, version - 1)):
                read = Operation(COUNTER, outcome=OK, version=seen, state=states[seen], has_state=True, invoked=begin, completed=begin + 0.5)
                world.operations.append(read)
            return None
        self.plant("stale", flaw)

    def test_a_stale_refusal_of_a_condition(self):
        def flaw(world):
            return old_answer(world, lambda o: o.outcome == MISMATCH)
        self.plant("stale", flaw)

    def test_a_read_of_the_future(self):
        def flaw(world):
            write = world.acknowledged(COUNTER)
            states = histories.fold_all("counter", world.logs[COUNTER])
            begin = write.invoked - 0.005
            world.operations.append(
                Operation(
                    COUNTER, outcome=OK, version=write.version, state=states[write.version], has_state=True,
                    invoked=begin, completed=begin + 0.001,
                )
            )
        self.plant("order", flaw)

    def test_a_write_that_was_put_before_an_earlier_one(self):
        def flaw(world):
            writes = [o for o in world.operations if o.entity == COUNTER and o.command and o.outcome == OK and o.expected is None]
            for first in writes:
                for second in writes:
                    if first.completed < second.invoked:
                        log = world.logs[COUNTER]
                        one, other = log[first.version - 1], log[second.version - 1]
                        one["data"], other["data"] = other["data"], one["data"]
                        first.version, second.version = second.version, first.version
                        return None
            return False
        self.plant("order", flaw)

    def test_a_late_unknown_write_that_is_put_before_what_came_earlier(self):
        def flaw(world):
            write = world.acknowledged(COUNTER)
            version = write.version
            write.outcome, write.version, write.completed, write.invoked = UNKNOWN, None, math.inf, 100.0
            seen = world.some(lambda o: o.outcome == OK and o.version >= version, COUNTER)
            return None if seen else False
        self.plant("order", flaw)

    def test_a_read_beyond_the_end_of_the_log(self):
        def flaw(world):
            read = world.some(lambda o: o.command is None and o.outcome == OK, COUNTER)
            read.version = len(world.logs[COUNTER]) + 1
        self.plant("ahead", flaw)

    def test_a_condition_that_was_ignored(self):
        def flaw(world):
            write = world.acknowledged()
            write.expected = write.version
        self.plant("condition", flaw)

    def test_a_condition_that_was_refused_though_it_held(self):
        def flaw(world):
            refused = world.some(lambda o: o.outcome == MISMATCH)
            refused.expected = refused.version
        self.plant("condition", flaw)

    def test_a_rejection_by_a_state_of_long_ago(self):
        def flaw(world):
            balances = [state["balanceCents"] for state in histories.fold_all("account", world.logs[ACCOUNT])]
            rejected = Operation(ACCOUNT, "withdraw", 1, "late", outcome=REJECTED, invoked=100.0, completed=100.1)
            world.operations.append(rejected)
            return None if balances[-1] >= 1 else False
        self.plant("rejection", flaw)

    def test_a_second_opening_that_was_rejected_before_the_first(self):
        def flaw(world):
            world.operations.append(Operation(ACCOUNT, "open", "never", outcome=REJECTED, invoked=-2.0, completed=-1.0))
        self.plant("rejection", flaw)

    def test_an_answer_that_the_contract_does_not_have(self):
        def flaw(world):
            world.acknowledged().outcome = FAILED
        self.plant("answer", flaw)

    def test_an_answer_to_a_retry_that_the_contract_does_not_have(self):
        def flaw(world):
            world.retry_of(OK, UNKNOWN)[1].outcome = FAILED
        self.plant("answer", flaw)

    def test_a_retry_that_was_executed_again(self):
        def flaw(world):
            _, again = world.retry_of(OK, REJECTED, MISMATCH)
            again.replayed = False
        self.plant("executed-again", flaw)

    def test_a_retry_that_was_told_something_else(self):
        def flaw(world):
            _, again = world.retry_of(OK)
            again.version += 1
        self.plant("changed-outcome", flaw)

    def test_a_refusal_that_was_executed_when_it_was_retried(self):
        def flaw(world):
            _, again = world.retry_of(MISMATCH, REJECTED)
            if again is None:
                return False
            again.outcome, again.version = OK, 5
            return None
        self.plant("changed-outcome", flaw)

    def test_a_retry_that_was_acknowledged_and_is_lost(self):
        def flaw(world):
            first = world.acknowledged(COUNTER)
            again = copy.copy(first)
            world.retries.append((first, again))
            first.outcome, first.version = UNKNOWN, None
            del world.logs[COUNTER][again.version - 1]
            world.renumber(COUNTER)
        self.plant("retried-lost", flaw)

    def test_a_retry_that_was_refused_and_is_there(self):
        def flaw(world):
            first = world.acknowledged(ACCOUNT)
            first.outcome = UNKNOWN
            again = copy.copy(first)
            again.outcome = REJECTED
            world.retries.append((first, again))
        self.plant("retried-refused", flaw)


def old_answer(world, which):
    """Makes one answer that of a version which was overwritten, and acknowledged so, before the question."""
    states = {entity: histories.fold_all(entity[0], log) for entity, log in world.logs.items()}
    for operation in world.operations:
        if not which(operation):
            continue
        before = [
            o.version for o in world.operations
            if o.entity == operation.entity and o.command and o.outcome == OK and o.completed < operation.invoked
        ]
        if before and max(before) > 1:
            operation.version = max(before) - 1
            operation.state = states[operation.entity][operation.version]
            if operation.outcome == MISMATCH:
                operation.expected = operation.version + 1
            return None
    return False


class Across(unittest.TestCase):
    """Checks over several logs, clusters and replicas."""

    def test_a_log_that_grew_passes_and_one_that_was_rewritten_does_not(self):
        world = World(1)
        later = copy.deepcopy(world.logs)
        later[COUNTER].append({"version": len(later[COUNTER]) + 1})
        self.assertEqual(histories.check_growth(world.logs, later), [])
        later[COUNTER][4]["data"] = {"by": 1}
        self.assertEqual([v.check for v in histories.check_growth(world.logs, later)], ["rewritten"])
        self.assertEqual([v.check for v in histories.check_growth(world.logs, {COUNTER: []})], ["rewritten"])

    def test_answers_of_two_clusters_and_of_two_shards(self):
        first, second = Operation(COUNTER, cluster="1", shard=3), Operation(COUNTER, cluster="1", shard=3)
        self.assertEqual(histories.check_clusters([first, second]), [])
        second.cluster = "2"
        self.assertEqual([v.check for v in histories.check_clusters([first, second])], ["clusters"])
        second.cluster, second.shard = "1", 4
        self.assertEqual([v.check for v in histories.check_clusters([first, second])], ["shards"])

    @staticmethod
    def hashes(*shards):
        def shard(number, agree, compared, pairs):
            replicas = [{"node": str(n), "appliedIndex": i, "contentHash": text} for n, (i, text) in enumerate(pairs)]
            return {"shard": number, "agree": agree, "comparedIndex": compared, "replicas": replicas}
        return Hashes({"shards": [shard(number, *of) for number, of in enumerate(shards)]})

    def test_replicas_that_agree(self):
        found = self.hashes((True, 5, [(5, "a"), (5, "a")]), (True, 6, [(7, "b"), (9, "c")]))
        self.assertEqual((found.violations, found.furthest()), ([], {0: 5, 1: 9}))
        self.assertEqual(found.agreed(2, {}), {0, 1})
        self.assertEqual(found.agreed(3, {}), set(), "a replica is missing")
        self.assertEqual(found.agreed(2, {0: 5, 1: 7}), {0}, "what agrees is older than what was to be compared")

    def test_replicas_that_could_not_be_compared(self):
        found = self.hashes((True, 5, [(5, "a"), (5, "a")]), (None, None, [(7, "b"), (9, "c")]), (None, None, []))
        self.assertEqual((found.violations, found.agreed(2, {})), ([], {0}))

    def test_replicas_that_differ_by_what_they_say_themselves(self):
        found = self.hashes((False, 4, [(5, "a"), (6, "b")]))
        self.assertEqual(([v.check for v in found.violations], found.agreed(1, {})), (["hashes"], set()))

    def test_replicas_that_differ_though_they_are_said_to_agree(self):
        self.assertEqual([v.check for v in self.hashes((True, 5, [(5, "a"), (5, "b")])).violations], ["hashes"])


if __name__ == "__main__":
    unittest.main()
