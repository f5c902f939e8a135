#!/usr/bin/env python3
"""A small model of Berth's HTTP contract, with flaws on demand, to prove that the load tests notice them.

It is no part of the product. A checker counts as working only after it has caught a planted bug:

    loadtests/flawed.py --gateway-port 18080 --flaw double-effect     # then run smoke.js or kill9.py against it

`loadtests/kill9.py --prove` and `loadtests/k6/prove.sh` do that for every flaw.
"""

import argparse
import base64
import datetime
import json
import os
import random
import re
import sys
import threading
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FLAWS = {
    "none": "keeps the contract",
    "lost-write": "acknowledges one write in 200 that is not kept over a restart",
    "double-effect": "executes a retry again",
    "forgets-keys": "remembers idempotency keys only until a restart",
    "unknown-twice": "applies one write in 100 twice",
    "stale-read": "answers one read in 50 with the version before",
    "gap": "leaves out one version in 300",
    "ignores-if-match": "executes in spite of If-Match",
    "plain-errors": "answers errors as text",
    "server-error": "answers one request in 200 with 500",
    "slow": "takes two seconds for one request in 15",
}
# The names of events where they are not those of commands.
EVENTS = {
    "add": "added", "open": "opened", "deposit": "deposited", "withdraw": "withdrawn", "close": "closed",
    "add-item": "item-added", "remove-item": "item-removed", "checkout": "checked-out", "merge": "merged", "patch": "patched",
}


# Of the layout that tokens have: version, checksum, cluster, flags, and one entry of a shard, incarnation and index.
TOKEN = base64.urlsafe_b64encode(bytes([1, *[0] * 4, *[0] * 16, 0, 1, *[0] * 14])).decode().rstrip("=")


class Refused(Exception):
    def __init__(self, status, code, **more):
        self.status, self.code, self.more = status, code, more


def reject(reason):
    raise Refused(422, "rejected", reason=reason)


def merge(target, patch):
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def patch_document(state, ops):
    state = json.loads(json.dumps(state))
    for op in ops:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in op["path"].split("/")[1:]]
        place = state
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            if op["op"] == "add":
                place.insert(len(place) if last == "-" else int(last), op["value"])
            else:
                place[int(last)] = op["value"]
        else:
            place[last] = op["value"]
    return state


def decide(kind, state, command, body):
    """The event type of a command, or a refusal."""
    if kind == "counter":
        if command == "add" and not isinstance(body.get("by", 1), int):
            raise Refused(400, "invalid-request")
        if command not in ("add", "reset"):
            raise Refused(404, "unknown-command")
    elif kind == "cart":
        if command not in ("add-item", "remove-item", "checkout"):
            raise Refused(404, "unknown-command")
        if state["status"] != "open":
            reject("checked-out")
    elif kind == "account":
        if command not in ("open", "deposit", "withdraw", "close"):
            raise Refused(404, "unknown-command")
        if (command == "open") == state["open"]:
            reject("not-open")
        if command == "withdraw" and body["amountCents"] > state["balanceCents"]:
            reject("insufficient-funds")
    elif kind == "document" and command not in ("put", "merge", "patch"):
        raise Refused(404, "unknown-command")
    return {"type": command, "data": body}


def initial(kind):
    return {
        "counter": {"value": 0},
        "cart": {"items": {}, "status": "open", "totalCents": 0},
        "account": {"balanceCents": 0, "open": False},
        "document": None,
    }[kind]


def evolve(kind, state, event):
    command, body = event["type"], event["data"]
    if kind == "counter":
        return {"value": state["value"] + body.get("by", 1) if command == "add" else 0}
    if kind == "cart":
        items = {sku: dict(item) for sku, item in state["items"].items()}
        if command == "add-item":
            item = items.setdefault(body["sku"], {"quantity": 0, "unitPriceCents": body["unitPriceCents"]})
            item["quantity"] += body["quantity"]
        elif command == "remove-item":
            items[body["sku"]]["quantity"] -= body.get("quantity", items[body["sku"]]["quantity"])
            if items[body["sku"]]["quantity"] <= 0:
                del items[body["sku"]]
        status = "checkedOut" if command == "checkout" else state["status"]
        total = sum(item["quantity"] * item["unitPriceCents"] for item in items.values())
        return {"items": items, "status": status, "totalCents": total}
    if kind == "account":
        change = {"deposit": 1, "withdraw": -1}.get(command, 0) * body.get("amountCents", 0)
        return {"balanceCents": state["balanceCents"] + change, "open": {"open": True, "close": False}.get(command, state["open"])}
    if command == "put":
        return body["value"]
    return merge(state, body["patch"]) if command == "merge" else patch_document(state, body["ops"])


class Model:
    def __init__(self, flaw, data):
        self.flaw, self.lock, self.entities, self.outcomes = flaw, threading.Lock(), {}, {}
        self.log = None
        if data:
            os.makedirs(data, exist_ok=True)
            path = os.path.join(data, "log")
            if os.path.exists(path):
                with open(path, encoding="utf-8") as log:
                    for line in log:
                        self.replay(line)
            self.log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def replay(self, line):
        if not line.endswith("\n"):
            return
        record = json.loads(line)
        self.apply(record)
        if record["key"] and self.flaw != "forgets-keys":
            self.outcomes[tuple(record["key"])] = tuple(record["outcome"])

    def apply(self, record):
        entity = self.entities.setdefault((record["kind"], record["id"]), {"events": [], "state": initial(record["kind"])})
        for event in record["events"]:
            entity["state"] = evolve(record["kind"], entity["state"], event)
            entity["events"].append(event)

    def write(self, record):
        if self.log is not None and not (self.flaw == "lost-write" and random.random() < 1 / 200):
            os.write(self.log, (json.dumps(record) + "\n").encode())
        self.apply(record)

    def execute(self, kind, entity_id, command, raw, headers):
        body = json.loads(raw or b"{}")
        key = headers.get("Idempotency-Key")
        scope = (kind, entity_id, key)
        fingerprint = json.dumps([command, raw.decode(), headers.get("If-Match"), headers.get("If-None-Match")])
        with self.lock:
            if key and scope in self.outcomes and self.flaw != "double-effect":
                known, status, answer = self.outcomes[scope]
                if known != fingerprint:
                    raise Refused(422, "key-reused")
                return status, answer, True
            entity = self.entities.get((kind, entity_id), {"events": [], "state": initial(kind)})
            version = entity["events"][-1]["version"] if entity["events"] else 0
            events = []
            try:
                if self.flaw != "ignores-if-match":
                    self.check(headers, version)
                event = decide(kind, entity["state"], command, body)
                times = 2 if self.flaw == "unknown-twice" and random.random() < 1 / 100 else 1
                state = entity["state"]
                for _ in range(times):
                    version += 2 if self.flaw == "gap" and random.random() < 1 / 300 else 1
                    now = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
                    events.append({**event, "version": version, "time": now})
                    state = evolve(kind, state, event)
                status, answer = 200, {"kind": kind, "id": entity_id, "version": version, "reply": None, "state": state}
            except Refused as refused:
                if refused.status != 422 and refused.status != 412:
                    raise
                status, answer = refused.status, problem(refused)
            self.outcomes[scope] = (fingerprint, status, answer)
            if events or key:
                outcome = [fingerprint, status, answer]
                self.write({"kind": kind, "id": entity_id, "events": events, "key": key and scope, "outcome": outcome})
            return status, answer, False

    @staticmethod
    def check(headers, version):
        match = headers.get("If-Match")
        if match and not re.search(rf'"{version}(-gzip)?"', match):
            raise Refused(412, "version-mismatch", currentVersion=version)
        if headers.get("If-None-Match") == "*" and version:
            raise Refused(412, "version-mismatch", currentVersion=version)

    def read(self, kind, entity_id):
        with self.lock:
            entity = self.entities.get((kind, entity_id))
            if not entity or not entity["events"]:
                raise Refused(404, "not-found")
            version, state = entity["events"][-1]["version"], entity["state"]
            if self.flaw == "stale-read" and len(entity["events"]) > 1 and random.random() < 1 / 50:
                version = entity["events"][-2]["version"]
            return {"kind": kind, "id": entity_id, "version": version, "state": state}

    def events(self, kind, entity_id, after, limit):
        with self.lock:
            entity = self.entities.get((kind, entity_id))
            if not entity:
                raise Refused(404, "not-found")
            events = [event for event in entity["events"] if event["version"] > after]
            following = events[limit - 1]["version"] if len(events) > limit else None
            events = [{**event, "type": EVENTS.get(event["type"], event["type"])} for event in events[:limit]]
            return {"kind": kind, "id": entity_id, "events": events, "next": following}


def problem(refused):
    document = {"type": f"/problems/{refused.code}", "title": refused.code, "status": refused.status, "code": refused.code}
    return {**document, "detail": "", "traceId": uuid.uuid4().hex, **refused.more}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    model = None

    def log_message(self, *_):
        pass

    def answer(self, status, document, headers=()):
        text = b"" if document is None else json.dumps(document).encode()
        plain = self.model.flaw == "plain-errors" and status >= 400
        media = "text/plain" if plain else "application/problem+json" if status >= 400 else "application/json"
        self.send_response(status)
        for name, value in [("Content-Type", media), ("Content-Length", str(len(text))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def serve(self, method):
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        try:
            if self.model.flaw == "server-error" and random.random() < 1 / 200:
                return self.answer(500, {"error": "flaw"})
            if self.model.flaw == "slow" and random.random() < 1 / 15:
                threading.Event().wait(2)
            if length > 1 << 20:
                raise Refused(413, "too-large")
            self.route(method, raw)
        except Refused as refused:
            self.answer(refused.status, problem(refused))
        except (ValueError, KeyError, RecursionError):
            self.answer(400, problem(Refused(400, "invalid-request")))

    def route(self, method, raw):
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.split("/")[1:]]
        query = dict(urllib.parse.parse_qsl(url.query))
        if parts == ["v1", "kinds"]:
            return self.answer(200, {"kinds": []})
        if len(parts) < 4 or parts[:2] != ["v1", "entities"]:
            raise Refused(404, "not-found")
        kind, entity_id = parts[2:4]
        if kind not in ("counter", "cart", "account", "document"):
            raise Refused(404, "unknown-kind")
        if any(ord(character) < 32 for character in entity_id) or raw.count(b"[") > 64:
            raise Refused(400, "invalid-request")
        if method == "POST":
            status, answer, replayed = self.model.execute(kind, entity_id, parts[4], raw, self.headers)
            more = [("Idempotency-Replayed", "true")] if replayed else []
            tag = [("ETag", f'"{answer["version"]}"')] if status == 200 else []
            return self.answer(status, answer, [*tag, ("Berth-Session", TOKEN), *more])
        if parts[4:] == ["events"]:
            answer = self.model.events(kind, entity_id, int(query.get("after", 0)), int(query.get("limit", 100)))
            return self.answer(200, answer)
        answer = self.model.read(kind, entity_id)
        if self.headers.get("If-None-Match") == f'"{answer["version"]}"':
            return self.answer(304, None)
        return self.answer(200, answer, [("ETag", f'"{answer["version"]}"'), ("Berth-Session", TOKEN)])

    def do_GET(self):
        self.serve("GET")

    def do_POST(self):
        self.serve("POST")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway-port", type=int, default=18080)
    parser.add_argument("--data", help="keeps what was written in this directory")
    parser.add_argument("--flaw", choices=FLAWS, default="none")
    parser.add_argument("--list", action="store_true", help="print the flaws")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name}: {what}" for name, what in FLAWS.items()))
        return
    Handler.model = Model(options.flaw, options.data)
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 256
    ThreadingHTTPServer(("127.0.0.1", options.gateway_port), Handler).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
