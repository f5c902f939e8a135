#!/usr/bin/env python3
"""Shows that the checks of the scenarios with changing members find what they are for, and that the proxy leaves out what it shall
and nothing else.

    python3 loadtests/chaos/test_elastic.py
"""

import copy
import io
import os
import random
import sys
import unittest

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from chaos import handoffs, logs, proxy  # noqa: E402  pylint: disable=wrong-import-position
from chaos.placement import Placement, suspected  # noqa: E402  pylint: disable=wrong-import-position

NODES = ("a", "b", "c", "d")
REPLICAS = ("abc", "bcd", "cda", "dab")


def settled():
    """The answers of a cluster of four nodes and four shards, of which nothing is missing."""

    def group(replicas):
        planned = {"owner": replicas[0], "replicas": list(replicas)}
        return {"owner": replicas[0], "replicas": sorted(replicas), "learners": [], "joint": False, "planned": planned, "move": None}

    members = [{"id": node, "state": "ready", "planEpoch": 4, "suspectedSince": None} for node in NODES]
    cluster = {"planEpoch": 4, "members": members, "system": group("abc")}
    return cluster, {"shards": [{"shard": number, **group(replicas)} for number, replicas in enumerate(REPLICAS)]}


class Placements(unittest.TestCase):
    def missing(self, change, nodes=NODES):
        cluster, shards = copy.deepcopy(settled())
        change(cluster, shards["shards"])
        return Placement(cluster, shards).missing(nodes, 3)

    def assert_missing(self, what, change, nodes=NODES):
        found = self.missing(change, nodes)
        self.assertTrue(any(what in text for text in found), f"{what!r} is not in {found}")

    def test_nothing_is_missing_of_a_settled_cluster(self):
        self.assertEqual(self.missing(lambda cluster, shards: None), [])

    def test_what_is_not_finished_is_found(self):
        movement = {"step": "catch-up", "target": "d"}
        for what, change in {
            "shard 1 has no owner": {"owner": None},
            "shard 1 is owned by x, which is not one of the nodes": {"owner": "x"},
            "shard 1 has replicas on x": {"replicas": ["b", "c", "x"]},
            "shard 1 has 2 replicas": {"replicas": ["b", "c"]},
            "shard 1 has 4 replicas": {"replicas": list(NODES)},
            "shard 1 has learners: a": {"learners": ["a"]},
            "shard 1 is between two sets of voters": {"joint": True},
            "shard 1 moves: catch-up d": {"move": movement},
            "shard 1 has another owner than planned": {"owner": "c"},
            "shard 1 has other replicas than planned": {"replicas": ["b", "c", "a"]},
        }.items():
            self.assert_missing(what, lambda _, shards, change=change: shards[1].update(change))
        self.assert_missing("the system shard is between", lambda cluster, _: cluster["system"].update(joint=True))

    def test_what_was_not_planned_is_judged_by_what_is_there(self):
        self.assertEqual(self.missing(lambda _, shards: shards[1].update(planned=None)), [])

    def test_nodes_without_their_share_are_found(self):
        self.assert_missing("the nodes have 0–2 owned shards", lambda _, shards: shards[1].update(owner="c", planned=None))
        self.assert_missing("the nodes have 2–4 replicas", lambda _, shards: shards[1].update(replicas=["a", "b", "d"], planned=None))
        self.assert_missing("the nodes have 0–3 replicas", lambda cluster, shards: None, (*NODES, "e"))

    def test_nodes_that_are_not_there_yet_or_still_are_found(self):
        self.assert_missing("node e is no member", lambda cluster, shards: None, (*NODES, "e"))
        self.assert_missing("shard 0 is owned by a", lambda cluster, shards: None, ("b", "c", "d"))
        self.assert_missing("node a is joining", lambda cluster, _: cluster["members"][0].update(state="joining"))
        self.assert_missing("node a has the plan of epoch 3", lambda cluster, _: cluster["members"][0].update(planEpoch=3))
        self.assert_missing("node a is suspected", lambda cluster, _: cluster["members"][0].update(suspectedSince="2026"))

    def test_a_lost_replica_is_not_restored_by_one_that_does_not_live(self):
        self.assertEqual(Placement(*settled()).unrestored(NODES, 3), [])
        self.assertEqual(Placement(*settled()).unrestored(("b", "c", "d"), 3), ["shard 0", "shard 2", "shard 3", "the system shard"])

    def test_who_is_suspected(self):
        cluster, _ = settled()
        cluster["members"][2]["suspectedSince"] = "2026-01-01T00:00:00Z"
        self.assertEqual([suspected(cluster, node) for node in (*NODES, "e")], [False, False, True, False, False])

    def test_shards_that_are_about_to_change_their_owner_the_nearest_first(self):
        cluster, shards = settled()
        for number, step in ((0, None), (2, "add-learner"), (3, "hand-off")):
            shards["shards"][number]["planned"]["owner"] = "x"
            shards["shards"][number]["move"] = step and {"step": step, "target": "x"}
        self.assertEqual(Placement(cluster, shards).in_transit(), [3, 2, 0])


class Logs(unittest.TestCase):
    class Node:
        name = "node-1"

    def event(self, line):
        return logs.event_of(self.Node, logs.parse(line))

    def test_steps_and_hand_offs_are_read(self):
        time = '"timestamp":"2026-01-01T00:00:00.500000Z","level":"INFO"'
        step = self.event(f'{{{time},"message":"a move goes on","shard":"7","step":"promote","target":"ab","target":"berth_node::x"}}')
        self.assertEqual((step.by, step.shard, step.step, step.target), (self.Node, 7, "promote", "ab"))
        later = self.event(f'{{{time.replace(".5", ".6")},"message":"a shard was handed off","shard":7,"to":"ab","pause_millis":12}}')
        self.assertEqual((later.shard, later.to, later.pause_ms), (7, "ab", 12))
        self.assertAlmostEqual(later.at - step.at, 0.1, places=2)
        self.assertIsNone(self.event(f'{{{time},"message":"a shard is fine","shard":7}}'))

    def test_what_makes_no_sense_ends_the_run(self):
        with self.assertRaises(SystemExit):
            self.event('{"timestamp":"2026-01-01T00:00:00Z","message":"a move goes on","shard":7}')

    def test_lines_that_are_not_whole_wait(self):
        tail = logs.Tail.__new__(logs.Tail)
        tail.rest, tail.file = b"", io.BytesIO()

        def written(data):
            tail.file = io.BytesIO(data)
            return tail.fresh()

        self.assertEqual(written(b'---- a shard is started\n{"shard":1}\n{"sha'), [{"shard": 1}])
        self.assertEqual(written(b'rd":2}'), [])
        self.assertEqual(written(b"\n"), [{"shard": 2}])


class Gaps(unittest.TestCase):
    def gap(self, times, begin, end):
        prober = handoffs.Prober.__new__(handoffs.Prober)
        prober.successes = times
        return prober.longest_gap(begin, end)

    def test_the_longest_time_that_touches_the_hand_off_counts_wholly(self):
        times = [0, 5, 6, 9, 10, 11, 19]
        self.assertEqual(self.gap(times, 6.5, 10.5), 3)
        self.assertEqual(self.gap(times, 8, 12), 8)
        self.assertEqual(self.gap(times, 5, 10), 3, "what ended as it began does not touch it")

    def test_what_was_not_observed_wholly_is_not_measured(self):
        for times in ([], [5, 6], [1, 2], [1]):
            self.assertIsNone(self.gap(times, 1.5, 5.5))


def request(payload):
    body = b"\x01" + bytes(8) + bytes(4) + payload
    return len(body).to_bytes(4, "little") + body


def greeting(node):
    identity = b"\x00\x00" if node is None else b"\x01\x01" + varint(node)
    body = identity + b"\x00more"
    return b"BRTH\x03\x00\x00" + len(body).to_bytes(2, "little") + body


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes((value,))


RAFT, REPORT, GOSSIP = request(b"\x00" + b"r" * 300), request(b"\x02"), request(b"\x03" + b"g" * 40)
PING, EMPTY = b"\x01\x00\x00\x00\x06", request(b"")


class Proxy(unittest.TestCase):
    NODE = 0xF123_4567_89AB_CDEF

    def passed(self, rules, frames, node=NODE, host="h", step=None):
        """What comes through, with the input cut into pieces of `step` bytes, or at random."""
        chance, data = random.Random(1), greeting(node) + b"".join(frames)
        filtered, out = proxy.Filter(rules.of(host)), b""
        while data:
            size = step or chance.randrange(1, 60)
            out += filtered.feed(data[:size])
            data = data[size:]
        self.assertTrue(out.startswith(greeting(node)))
        return out[len(greeting(node)) :]

    def rules(self, **without):
        rules = proxy.Rules()
        rules.without = without
        return rules

    def test_messages_of_one_kind_are_left_out_and_nothing_else(self):
        frames, shown = [PING, GOSSIP, RAFT, REPORT, EMPTY, GOSSIP, PING, RAFT], f"{self.NODE:016x}"
        for step in (None, 1, 2, 7, 1000, 10**6):
            rules = self.rules(gossip=[[], [shown]])
            self.assertEqual(self.passed(rules, frames, step=step), PING + RAFT + REPORT + EMPTY + PING + RAFT)
            self.assertEqual(rules.left_out, {"gossip": 2})
            rules = self.rules(raft=[["h"], []])
            self.assertEqual(self.passed(rules, frames, step=step), PING + GOSSIP + REPORT + EMPTY + GOSSIP + PING)
            self.assertEqual(rules.left_out, {"raft": 2})

    def test_other_nodes_and_gateways_are_let_alone(self):
        frames, rules = [GOSSIP, RAFT], self.rules(gossip=[["other"], ["0" * 16]], raft=[["other"], []])
        self.assertEqual(self.passed(rules, frames), GOSSIP + RAFT)
        cut = self.rules(gossip=[["h"], []], raft=[["h"], []])
        self.assertEqual(self.passed(cut, frames, node=None), GOSSIP + RAFT, "what a gateway asks has other kinds")
        self.assertEqual(self.passed(cut, frames), b"")

    def test_what_is_healed_in_the_middle_of_a_message_begins_with_the_next_one(self):
        rules = self.rules(raft=[["h"], []])
        filtered = proxy.Filter(rules.of("h"))
        out = filtered.feed(greeting(5) + RAFT[:100])
        rules.without = {}
        self.assertEqual(out + filtered.feed(RAFT[100:] + RAFT), greeting(5) + RAFT)

    def test_what_does_not_speak_the_protocol_is_refused(self):
        with self.assertRaises(ValueError):
            proxy.Filter(self.rules().of("h")).feed(b"GET / HTTP/1.1\r\n")


if __name__ == "__main__":
    unittest.main()
