#!/usr/bin/env python3
"""Shows that the scenario `live` finds what it is for: each flaw is planted in what a reader gets.

    python3 loadtests/chaos/test_live.py
"""

import json
import os
import sys
import unittest

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from chaos.live import Follower, Messages  # noqa: E402  pylint: disable=wrong-import-position

ENTITY = ("counter", "alice")


def event(version, by=1):
    return {"version": version, "type": "added", "time": f"2026-01-01T00:00:{version:02d}Z", "data": {"by": by}}


def message(version, by=1, named=None):
    page = event(version, by)
    data = {"specversion": "1.0", "id": str(named or version), "type": page["type"], "time": page["time"], "data": page["data"]}
    return f"id: {version}\ndata: {json.dumps(data)}"


def found(messages, log):
    follower = Follower(ENTITY)
    for each in messages:
        follower.take(each)
    return [check for check, _ in follower.check(log)]


class Followed(unittest.TestCase):
    LOG = [event(version) for version in (1, 2, 3)]

    def test_all_once_and_in_order_is_right(self):
        self.assertEqual(found([": ping", "retry: 700", *map(message, (1, 2)), ": ping", message(3)], self.LOG), [])

    def test_what_is_left_out_is_found(self):
        self.assertEqual(found(map(message, (1, 3)), self.LOG), ["gap"])
        self.assertEqual(found(map(message, (1, 2)), self.LOG), ["missing"])
        self.assertEqual(found([], self.LOG), ["missing"])

    def test_what_comes_twice_or_late_is_found(self):
        self.assertEqual(found(map(message, (1, 2, 2, 3)), self.LOG), ["twice"])
        self.assertIn("twice", found(map(message, (1, 3, 2, 3)), self.LOG))

    def test_what_is_not_in_the_log_is_found(self):
        self.assertEqual(found([message(1), message(2, by=7), message(3)], self.LOG), ["altered"])
        self.assertEqual(found(map(message, (1, 2, 3, 4)), self.LOG), ["altered"])
        self.assertEqual(found([message(1), message(2, named=9), message(3)], self.LOG), ["answer"])


class Parsed(unittest.TestCase):
    HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    def test_messages_are_the_same_however_they_arrive(self):
        body = self.HEAD + b"8\r\n: ping\n\n\r\n" + b"5\r\nid: 1\r\n" + b"b\r\n\ndata: {}\n\n\r\n" + b"0\r\n\r\n"
        for size in (1, 2, 3, 7, len(body)):
            messages, whole = Messages(), []
            for start in range(0, len(body), size):
                whole += messages.feed(body[start : start + size])
            self.assertEqual((messages.status, whole, messages.is_over), (200, [": ping", "id: 1\ndata: {}"], True))

    def test_a_refusal_has_no_messages(self):
        messages = Messages()
        self.assertEqual(messages.feed(b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}\n\n"), [])
        self.assertEqual(messages.status, 429)


if __name__ == "__main__":
    unittest.main()
