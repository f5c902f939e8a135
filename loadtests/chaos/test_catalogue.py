#!/usr/bin/env python3
"""Shows that what judges runs of the catalogue finds what it is for: the second checker of histories, the checks of sessions and of
enough successes, the order in which faults are drawn, the tools that make them, and the report.

    python3 loadtests/chaos/test_catalogue.py
"""

import copy
import errno
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import types
import unittest
import xml.etree.ElementTree

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
from chaos import campaign, catalogue, clients, disks, histories, linear, planted, report, shim, wires  # noqa: E402
from chaos.cluster import Shape  # noqa: E402
from chaos.histories import OK, REJECTED, UNKNOWN, Operation  # noqa: E402
from chaos.scene import ALL, ROWS  # noqa: E402
from chaos.test_histories import ACCOUNT, COUNTER, DOCUMENT, World  # noqa: E402

SEEDS = range(30)


class SecondChecker(unittest.TestCase):
    """Flaws that change what clients were told, or the order of it, leave no order that a correct entity could have had."""

    def plant(self, flaw, name="no-order"):
        planted = 0
        for seed in SEEDS:
            world = World(seed)
            if flaw(world) is False:
                continue
            planted += 1
            found = {violation.check for violation in linear.check(world.operations, world.logs)[0]}
            self.assertIn(name, found, f"seed {seed}")
        self.assertGreater(planted, len(SEEDS) / 4, "the flaw could hardly be planted")

    def test_correct_histories_have_an_order(self):
        for seed in SEEDS:
            world = World(seed, 600)
            violations, ordered = linear.check(world.operations, world.logs)
            self.assertEqual(violations, [], f"seed {seed}")
            self.assertGreater(ordered, 400)

    def test_a_read_of_before(self):
        def flaw(world):
            late = [o for o in world.operations if o.command is None and o.outcome == OK and o.version and o.version > 20]
            read = world.chance.choice(late)
            read.version -= 15
            read.state = histories.fold_all(read.entity[0], world.logs[read.entity])[read.version]
        self.plant(flaw)

    def test_a_state_that_never_was(self):
        def flaw(world):
            read = world.some(lambda o: o.command is None and o.has_state, COUNTER)
            if read is None:
                return False
            read.state = {"value": read.state["value"] + 1}
            return None
        self.plant(flaw)

    def test_a_write_that_was_acknowledged_twice(self):
        def flaw(world):
            world.operations.append(copy.copy(world.acknowledged(DOCUMENT)))
        self.plant(flaw)

    def test_an_acknowledged_write_that_nobody_saw(self):
        def flaw(world):
            write = world.acknowledged(COUNTER)
            later = Operation(COUNTER, "add", 5, invoked=write.completed + 0.001, completed=write.completed + 0.002)
            later.outcome, later.version = OK, write.version
            later.state, later.has_state = {"value": 5}, True
            world.operations.append(later)
        self.plant(flaw)

    def test_a_rejection_without_a_reason(self):
        def flaw(world):
            small = Operation(ACCOUNT, "deposit", 1, invoked=1.0, completed=1.1)
            small.outcome = REJECTED
            world.operations.append(small)
        self.plant(flaw)

    def test_a_write_that_ended_before_what_it_rests_on_began(self):
        def flaw(world):
            writes = [o for o in world.operations if o.command and o.outcome == OK and o.entity == COUNTER]
            last = max(writes, key=lambda o: o.version)
            last.invoked, last.completed = -2.0, -1.9
        self.plant(flaw)

    def test_a_search_that_gives_up_is_not_a_pass(self):
        world = World(1, 600)
        last = max((o for o in world.operations if o.entity == COUNTER and o.version), key=lambda o: o.version)
        last.version += 1  # so that nothing fits behind all the rest
        per_operation, linear.STEPS_PER_OPERATION = linear.STEPS_PER_OPERATION, 0
        try:
            found = {violation.check for violation in linear.check(world.operations, world.logs, steps_least=300)[0]}
        finally:
            linear.STEPS_PER_OPERATION = per_operation
        self.assertIn("gave-up", found)

    def test_many_unknown_writes_are_no_obstacle(self):
        """Forty writes without an answer, all of which took effect in an order of their own, and a read after them."""
        chance, operations, log = random.Random(3), [], []
        for number in range(40):
            operations.append(Operation(COUNTER, "add", number + 1, invoked=number * 0.01, completed=math.inf))
        for version, operation in enumerate(chance.sample(operations, 40), 1):
            log.append({"version": version, "type": "added", "data": {"by": operation.marker}})
        total = {"value": sum(range(1, 41))}
        operations.append(Operation(COUNTER, invoked=9.0, completed=9.1, outcome=OK, version=40, state=total, has_state=True))
        self.assertEqual(linear.check(operations, {COUNTER: log}), ([], 41))
        operations[-1].version = 39
        self.assertTrue(linear.check(operations, {COUNTER: log}, steps_least=1000)[0])


class Planting(unittest.TestCase):
    def test_whatever_is_planted_is_found_in_every_history(self):
        names = set()
        for seed in range(80):
            world = World(seed)
            entity = world.chance.choice((COUNTER, ACCOUNT))
            ours = [operation for operation in world.operations if operation.entity == entity]
            name, missed = planted.find_planted(entity, ours, world.logs[entity], world.chance)
            names.add(name)
            self.assertEqual(missed, [], f"seed {seed}")
            self.assertEqual(histories.check(ours, {entity: world.logs[entity]})[0], [], "what was given stays as it was")
        self.assertEqual(names, {name for name, _, _ in planted.FLAWS})

    def test_checkers_that_pass_everything_are_told(self):
        world = World(1)
        ours = [operation for operation in world.operations if operation.entity == COUNTER]
        check, second = histories.EntityCheck.run, linear.check
        histories.EntityCheck.run, linear.check = lambda _: [], lambda *_: ([], 0)
        try:
            told = [planted.find_planted(COUNTER, ours, world.logs[COUNTER], random.Random(seed)) for seed in range(20)]
        finally:
            histories.EntityCheck.run, linear.check = check, second
        self.assertTrue(all(missed for _, missed in told))
        self.assertTrue(any(len(missed) == 2 for _, missed in told))

    def test_nothing_is_planted_where_nothing_happened(self):
        self.assertIsNone(planted.find_planted(COUNTER, [], [], random.Random(1)))


class Sessions(unittest.TestCase):
    def log(self, count):
        return [{"version": n, "type": "added", "time": f"2026-01-01T00:00:{n:02d}Z", "data": {"by": n}} for n in range(1, count + 1)]

    def read(self, version, seen, consistency="session"):
        value = version * (version + 1) // 2
        return Operation(
            COUNTER, consistency=consistency, invoked=100.0, completed=100.1, outcome=OK, version=version, seen=seen,
            state={"value": value}, has_state=version > 0,
        )

    def checks(self, *operations):
        writes = [Operation(COUNTER, "add", n, invoked=n, completed=n + 0.5, outcome=OK, version=n) for n in range(1, 6)]
        return {violation.check for violation in histories.check([*writes, *operations], {COUNTER: self.log(5)})[0]}

    def test_a_replica_may_be_behind_others_and_not_behind_the_session(self):
        self.assertEqual(self.checks(self.read(3, 3)), set())
        self.assertEqual(self.checks(self.read(2, 3)), {"session"})
        self.assertEqual(self.checks(self.read(1, 0, "stale")), set())

    def test_what_is_behind_is_found_where_it_may_not_be(self):
        self.assertEqual(self.checks(self.read(3, 0, "linearizable")), {"stale"})

    def test_a_replica_answers_no_state_that_never_was(self):
        read = self.read(3, 0, "stale")
        read.state = {"value": 7}
        self.assertEqual(self.checks(read), {"state"})
        self.assertEqual(self.checks(self.read(6, 0, "stale")), {"ahead"})

    def test_what_a_session_has_seen_goes_with_the_token_that_has_seen_it(self):
        session = clients.Session()
        one, other = self.read(3, 0), Operation(("counter", "x"), version=7, outcome=OK)
        session.note(one, {}, "first")
        seen_by_first = session.seen
        session.note(other, {}, "second")
        self.assertEqual((session.token, session.seen), ("second", {("counter", "x"): 7}))
        session.note(self.read(2, 0), seen_by_first, "third")
        self.assertEqual(session.seen, {COUNTER: 3})


class EnoughSuccesses(unittest.TestCase):
    def test_a_dead_cluster_does_not_pass(self):
        dead = [Operation(COUNTER, outcome=UNKNOWN) for _ in range(100)]
        self.assertEqual(campaign.share(dead), 0.0)
        self.assertTrue(list(campaign.shares_missing(100, 0.0, None, 0.0)))
        self.assertTrue(list(campaign.shares_missing(3, 1.0, None, 0.0)))
        self.assertTrue(list(campaign.shares_missing(100, 1.0, 0.2, 0.5)))
        self.assertEqual(list(campaign.shares_missing(100, 0.99, 0.6, 0.5)), [])
        self.assertEqual(list(campaign.shares_missing(100, 0.99, None, 0.5)), [])

    def test_a_log_that_changed_later_has_another_hash(self):
        log = [{"version": 1, "data": {"by": 1}}, {"version": 2, "data": {"by": 2}}]
        before = campaign.digest(log)
        self.assertEqual(campaign.digest(copy.deepcopy(log)), before)
        log[0]["data"]["by"] = 3
        self.assertNotEqual(campaign.digest(log), before)


class Excuses(unittest.TestCase):
    def segment(self, lag, *checks):
        trial = types.SimpleNamespace(violations=[histories.Violation(check, "") for check in checks])
        result = campaign.Result("owner-kill", None, 7, "cluster-1", 1, "2026-01-01T00:00:01Z")
        return types.SimpleNamespace(trial=trial, result=result, load=types.SimpleNamespace(lag=lag), rows=[ROWS["owner-kill"]])

    def left(self, segment):
        campaign.excuse(segment)
        return [violation.check for violation in segment.trial.violations], segment.result.idle

    def test_a_late_harness_is_no_judge_of_service_and_one_of_answers(self):
        self.assertEqual(self.left(self.segment(9.0, "too-few", "stale", "stuck")), (["stale"], ["owner-kill"]))
        self.assertEqual(self.left(self.segment(9.0, "stale")), (["stale"], []))
        self.assertEqual(self.left(self.segment(0.1, "too-few", "stale")), (["too-few", "stale"], []))

    def test_too_many_excuses_are_none(self):
        for excused, segments, verdict in ((5, 20, False), (6, 20, True), (10, 100, False), (11, 100, True)):
            self.assertEqual(campaign.is_too_slow(types.SimpleNamespace(excused=excused, segments=segments)), verdict)


class TheCatalogue(unittest.TestCase):
    small, wide = Shape("", nodes=3, gateways=3), Shape("", nodes=5, replicas=5, gateways=3)

    def test_the_written_table_is_that_of_the_program(self):
        with open(catalogue.TABLE, encoding="utf-8") as file:
            self.assertEqual(file.read(), catalogue.table(), "run.py catalogue --table writes it")

    def test_it_is_large_enough(self):
        self.assertGreaterEqual(len(ROWS), catalogue.ROWS_LEAST)
        self.assertGreaterEqual(len([row for row in ROWS.values() if not row.needs]), catalogue.ROWS_LEAST)

    def test_every_row_comes_once_before_any_comes_again(self):
        deck = catalogue.Deck(list(ROWS.values()), random.Random(1))
        drawn = []
        while len(drawn) < 3 * len(ROWS):
            drawn += deck.draw(self.wide, may_pair=len(drawn) % 3 == 0)
        for row in ROWS.values():
            self.assertGreaterEqual(drawn.count(row), 2, row.name)

    def test_the_same_seed_draws_the_same(self):
        def names(seed):
            deck = catalogue.Deck(list(ROWS.values()), random.Random(seed))
            return [[row.name for row in deck.draw(self.wide, True)] for _ in range(50)]

        self.assertEqual(names(5), names(5))
        self.assertNotEqual(names(5), names(6))

    def test_two_at_once_leave_a_majority(self):
        for shape, nodes in ((self.small, 1), (self.wide, 2)):
            deck, pairs = catalogue.Deck(list(ROWS.values()), random.Random(2)), 0
            for _ in range(300):
                rows = deck.draw(shape, may_pair=True)
                pairs += len(rows) == 2
                if len(rows) == 2:
                    self.assertLessEqual(sum(row.nodes for row in rows), nodes)
                    self.assertLess(sum(row.gateways for row in rows), shape.gateways)
                    self.assertTrue(all(row.mixes and not row.spoils for row in rows))
            self.assertGreater(pairs, 30)

    def test_what_takes_a_majority_is_not_outlived(self):
        self.assertTrue(ROWS["owner-kill"].outlives(self.small))
        self.assertFalse(ROWS["majority-kill"].outlives(self.wide))
        self.assertFalse(ROWS["all-gateways-kill"].outlives(self.wide))
        for row in ROWS.values():
            self.assertFalse(row.mixes and ALL in (row.nodes, row.gateways), row.name)
            self.assertFalse(row.mixes and row.spoils, row.name)
            self.assertTrue(set(row.needs) <= set(catalogue.NEEDS), row.name)


class Tools(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)

    def path(self, name):
        return os.path.join(self.place.name, name)

    def test_damage_is_what_it_says(self):
        path, content = self.path("journal.redb"), random.Random(1).randbytes(5000)
        with open(path, "wb") as file:
            file.write(content)
        disks.flip_bit(path, random.Random(4))
        with open(path, "rb") as file:
            damaged = file.read()
        self.assertEqual(sum((a ^ b).bit_count() for a, b in zip(content, damaged)), 1)
        self.assertEqual(disks.cut_tail(path, 0.1), 4500)
        self.assertEqual(os.path.getsize(path), 4500)

    def test_the_one_unguarded_byte_is_left_alone(self):
        path = self.path("journal.redb")
        with open(path, "wb") as file:
            file.write(bytes(disks.UNGUARDED_BYTE + 2))
        for seed in range(60):
            disks.flip_bit(path, random.Random(seed))
            with open(path, "rb") as file:
                self.assertEqual(file.read()[disks.UNGUARDED_BYTE], 0)

    @unittest.skipUnless(shim.compiler(), "there is no C compiler")
    def test_files_fail_and_clocks_jump_in_the_process_that_is_told_to(self):
        control = shim.Control(self.path("control"))
        rule = control.add(shim.FAIL, shim.SYNC, shim.JOURNAL, errno.EIO, passes=1)
        control.jump(-3600)
        program = (
            "import os, sys, time\n"
            "for name in ('journal.redb', 'store.redb'):\n"
            "    file = os.open(os.path.join(sys.argv[1], name), os.O_RDWR | os.O_CREAT)\n"
            "    for _ in range(2):\n"
            "        try:\n"
            "            os.fsync(file)\n"
            "            print('synced')\n"
            "        except OSError as error:\n"
            "            print(error.errno)\n"
            "print(int(time.time()))\n"
        )
        library = shim.build(self.place.name)
        done = subprocess.run(
            [sys.executable, "-c", program, self.place.name],
            env={**os.environ, **control.settings(library)}, capture_output=True, text=True, check=True,
        )
        *told, now = done.stdout.split()
        self.assertEqual(told, ["synced", str(errno.EIO), "synced", "synced"])
        self.assertAlmostEqual(int(now), time.time() - 3600, delta=30)
        self.assertEqual(control.remove(rule), 1)
        self.assertEqual(control.add(shim.HOLD, shim.SYNC), rule, "its place is free again")

    def test_a_clock_is_not_sent_out_of_all_time(self):
        with self.assertRaises(ValueError):
            shim.Control(self.path("control")).jump(10**9)


class Cables(unittest.TestCase):
    def carried(self, **settings):
        cable = wires.Cable(seed=1, **settings)
        for number in range(1000):
            cable.take(number * 0.001, number, "there")
        return [frame for frame, _ in cable.due(1000.0)]

    def test_a_good_cable_carries_everything_in_order(self):
        self.assertEqual(self.carried(delay=0.05), list(range(1000)))

    def test_a_bad_one_loses_repeats_and_swaps(self):
        self.assertTrue(850 < len(self.carried(loss=0.1)) < 950)
        self.assertTrue(1050 < len(self.carried(twice=0.1)) < 1150)
        swapped = self.carried(delay=0.05, jitter=0.02)
        self.assertEqual(sorted(swapped), list(range(1000)))
        self.assertNotEqual(swapped, list(range(1000)))

    def test_nothing_comes_before_its_time_and_no_queue_grows_without_end(self):
        cable = wires.Cable(delay=1.0)
        cable.take(0.0, "early", "there")
        self.assertEqual(list(cable.due(0.9)), [])
        self.assertEqual(list(cable.due(1.0)), [("early", "there")])
        for number in range(wires.UNDER_WAY_MAX + 10):
            cable.take(0.0, number, "there")
        self.assertEqual((len(cable.under_way), cable.lost), (wires.UNDER_WAY_MAX, 10))


class TheReport(unittest.TestCase):
    head = {"began": "2026-01-01T00:00:00Z", "seed": 7, "commit": "0123456789ab", "programs": {"berth-node": "cafe"}, "machine": "m", "processors": 2, "system": "s",
            "rows": ["owner-kill", "node-alone", "all-kill"]}

    def fault(self, row, also=None, operations=100, recovery=0.5, violations=()):
        result = campaign.Result(row, also, 7, "cluster-1", 1, "2026-01-01T00:00:01Z")
        result.operations = result.ordered = operations
        result.recovery_seconds = result.settled_seconds = recovery
        result.fault_share, result.violations = 0.9, [{"check": check, "text": "<&>"} for check in violations]
        return vars(result)

    def figures(self, *records):
        lines = [json.dumps(record) for record in ({"run": self.head}, *records)]
        return report.Figures(report.runs_of(lines))

    def test_figures_are_the_sums_of_what_was_written(self):
        pair = self.fault("owner-kill", "node-alone", 250, 2.0, ["stale"])
        figures = self.figures(self.fault("owner-kill"), pair, {"end": {"seconds": 5}})
        self.assertEqual((figures.made, figures.pairs, figures.total("operations")), (3, 1, 350))
        self.assertEqual(figures.never_made(), ["all-kill"])
        text = report.document(figures)
        for part in ("350 operations checked", "**1 violations**: 1 stale", "never made: all-kill", "0.50 / 2.00 / 2.00", "| yes |"):
            self.assertIn(part, text)

    def test_a_fault_that_never_acted_was_not_made(self):
        idle = self.fault("owner-kill", "node-alone")
        idle["idle"] = ["node-alone"]
        figures = self.figures(idle)
        self.assertEqual((figures.made, figures.pairs, figures.never_made()), (1, 0, ["all-kill", "node-alone"]))
        self.assertIn("100 operations checked", report.document(figures), "what clients were told was checked all the same")
        with tempfile.TemporaryDirectory() as place:
            results = campaign.Results(os.path.join(place, "results"), self.head)
            results.add(campaign.Result(**idle))
            self.assertEqual((results.faults, results.operations), (1, 100))

    def test_violations_after_the_last_fault_count_too(self):
        figures = self.figures(self.fault("owner-kill"), {"cluster": "cluster-1", "violations": [{"check": "panic", "text": "x"}]})
        self.assertEqual(len(figures.violations), 1)
        self.assertIn("**no**", report.document(figures), "it has not ended")

    def test_a_file_of_something_else_is_refused(self):
        for lines in ([], ["{}"], ['{"row": "x"}'], ["no JSON"]):
            with self.assertRaises(report.Malformed):
                report.runs_of(lines)

    def test_the_plot_has_a_dot_for_each_fault(self):
        figures = self.figures(*(self.fault("owner-kill", recovery=seconds) for seconds in (0.0, 0.5, 5000.0)))
        root = xml.etree.ElementTree.fromstring(report.plot(figures))
        dots = [element for element in root.iter("{http://www.w3.org/2000/svg}circle") if element.get("fill-opacity")]
        self.assertEqual(len(dots), 3)
        self.assertTrue(all(report.LEFT <= float(dot.get("cx")) <= report.WIDTH - report.RIGHT for dot in dots))

    def test_planted_bugs_of_the_simulation_are_a_table_of_what_noticed_them(self):
        row = {"bug": "skip-fsync", "seeds": "2", "promise": "durable", "plan": "as drawn"}
        text = report.document(self.figures(self.fault("owner-kill")), [("planted.json", {"planted": [row]})])
        self.assertIn("| skip-fsync | 2 | durable | as drawn |", text)

    def test_a_summary_of_the_simulation_is_shown_as_it_is(self):
        text = report.document(self.figures(self.fault("owner-kill")), [("seeds.json", {"seeds": 2000, "faults": {"crash": 71}})])
        self.assertIn("| seeds | 2000 |", text)
        self.assertIn("| faults.crash | 71 |", text)


if __name__ == "__main__":
    unittest.main()
