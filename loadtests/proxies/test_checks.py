#!/usr/bin/env python3
"""Shows that the checks hold where nothing is in the way, and that each notices a proxy that does what it looks for. The gateway
is the model of `loadtests/flawed.py` with deletion and live history, the proxy a flawed one of this file.

    python3 loadtests/proxies/test_checks.py
"""

import asyncio
import contextlib
import http.client
import json
import os
import sys
import threading
import time
import unittest
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import flawed  # noqa: E402  pylint: disable=wrong-import-position
from proxies.checks import CHECKS, Site, Wrong  # noqa: E402  pylint: disable=wrong-import-position
from proxies.programs import GATEWAY_PORTS, LISTEN_PORT, PROXIES, SETTINGS, free_port  # noqa: E402  pylint: disable=wrong-import-position
from proxies.relay import Losses, Relay  # noqa: E402  pylint: disable=wrong-import-position

PING_SECONDS, LOOK_SECONDS = 0.2, 0.005
HOLD_SECONDS = 1.5
TOKEN = "t" * 2420

# What a flawed proxy does, and which check must notice it.
FLAWS = {
    "leaves out tags": "ETag",
    "compresses and leaves out tags": "ETag gzip",
    "decodes paths": "ids",
    "leaves out long headers": "token",
    "takes small bodies only": "1 MiB",
    "gathers what it passes on": "SSE",
    "ends what takes long": "SSE held",
    "gives up what takes long": "wait=",
    "sends again what has no answer": "lost answers",
    "sends everything twice": "kill -9",
}


def body_of(handler):
    """The body of a request, however its length is told."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    parts = []
    while size := int(handler.rfile.readline(), 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


def send_chunk(handler, data):
    handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    handler.wfile.flush()


class Gateway(flawed.Handler):
    """The model, with what it does not have."""

    def serve(self, method):
        raw = body_of(self)
        try:
            if len(raw) > 1 << 20:
                raise flawed.Refused(413, "too-large")
            self.route(method, raw)
        except flawed.Refused as refused:
            self.answer(refused.status, flawed.problem(refused))

    def do_DELETE(self):
        self.serve("DELETE")

    def answer(self, status, document, headers=()):
        told = self.headers.get("Berth-Session")
        super().answer(status, document, [*headers, *([("Berth-Session", told)] if told else [])])

    def route(self, method, raw):
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.split("/")[1:]]
        query = dict(urllib.parse.parse_qsl(url.query))
        if method == "DELETE":
            return self.delete(*parts[2:4])
        if parts[4:] == ["events"] and self.headers.get("Accept") == "text/event-stream":
            return self.stream(*parts[2:4])
        if parts[4:] == ["events"] and "wait" in query:
            deadline = time.monotonic() + float(query["wait"])
            while not self.model.events(*parts[2:4], int(query["after"]), 1)["events"] and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
        return super().route(method, raw)

    def delete(self, kind, entity_id):
        with self.model.lock:
            events = self.model.entities[kind, entity_id]["events"]
            if events[-1]["type"] != "berth-deleted":
                events.append({**events[-1], "type": "berth-deleted", "version": len(events) + 1})
        self.answer(204, None)

    def stream(self, kind, entity_id):
        last, said = int(self.headers.get("Last-Event-ID") or 0), time.monotonic()
        self.send_response(200)
        for name, value in (("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("Transfer-Encoding", "chunked")):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            while True:
                for event in self.model.events(kind, entity_id, last, 100)["events"]:
                    last = event["version"]
                    send_chunk(self, f"id: {last}\ndata: {json.dumps({'id': str(last)})}\n\n".encode())
                if time.monotonic() - said > PING_SECONDS:
                    said = time.monotonic()
                    send_chunk(self, b": ping\n\n")
                time.sleep(LOOK_SECONDS)


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    flaw, ports, turn = "none", (), 0

    def log_message(self, *_):
        pass

    def serve(self):
        raw = body_of(self)
        if self.flaw == "takes small bodies only" and len(raw) > 1 << 19:
            return self.refuse(413)
        path = self.path
        if self.flaw == "decodes paths":
            path = urllib.parse.quote(urllib.parse.unquote(path), safe="/?&=%")
        limit = 1000 if self.flaw == "leaves out long headers" else 1 << 20
        headers = {name: value for name, value in self.headers.items() if len(value) < limit and name not in ("Host", "Transfer-Encoding")}
        headers["Content-Length"] = str(len(raw))
        tries = 2 if self.flaw == "sends again what has no answer" else 1
        if self.flaw == "sends everything twice" and self.command == "POST":
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask(path, raw, headers)[1].read()
        for _ in range(tries):
            try:
                return self.pass_back(*self.ask(path, raw, headers))
            except (OSError, http.client.HTTPException):
                continue
        self.refuse(502)

    do_GET = do_POST = do_DELETE = serve

    def ask(self, path, raw, headers):
        Proxy.turn += 1
        patience = HOLD_SECONDS / 3 if self.flaw == "gives up what takes long" else 30
        upstream = http.client.HTTPConnection("127.0.0.1", self.ports[Proxy.turn % len(self.ports)], timeout=patience)
        upstream.request(self.command, path, raw, headers)
        return upstream, upstream.getresponse()

    def pass_back(self, upstream, answer):
        is_stream = answer.headers.get("Content-Type") == "text/event-stream"
        raw = b"" if is_stream else answer.read()
        leaves_out = {"content-length", "transfer-encoding", "connection", "date", "server"}
        takes_gzip = self.headers.get("Accept-Encoding") == "gzip"
        if self.flaw == "leaves out tags" or self.flaw == "compresses and leaves out tags" and takes_gzip:
            leaves_out.add("etag")
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in leaves_out:
                self.send_header(name, value)
        if is_stream:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
        if is_stream:
            self.pass_stream(answer)
        upstream.close()

    def pass_stream(self, answer):
        self.close_connection = True
        held, end = b"", time.monotonic() + (HOLD_SECONDS / 3 if self.flaw == "ends what takes long" else 60)
        while time.monotonic() < end and (piece := answer.read1(1 << 16)):
            held += piece
            if self.flaw != "gathers what it passes on" or len(held) > 1 << 14:
                send_chunk(self, held)
                held = b""

    def refuse(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        """Connections that break off are what is tested."""


class Checks(unittest.TestCase):
    def run_checks(self, flaw, names):
        """Check → what it raised, or None."""
        Gateway.model = flawed.Model("none", None)
        Proxy.flaw, losses = flaw, Losses()
        ports = [free_port(), free_port()]
        Proxy.ports = ports
        servers = [Server(("127.0.0.1", 0), handler) for handler in (Gateway, Gateway, Proxy)]
        for server in servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        *gateways, proxy = [server.server_address for server in servers]

        async def run():
            relays = [Relay(port, gateway, losses) for port, gateway in zip(ports, gateways)]
            for relay in relays:
                await relay.up()
            site = Site(proxy, gateways[0], relays, losses, TOKEN, relays[1].down, relays[1].up, HOLD_SECONDS, load_seconds=1)
            found = {}
            try:
                for name in names:
                    try:
                        await CHECKS[name](site)
                        found[name] = None
                    except Wrong as wrong:
                        found[name] = wrong
            finally:
                site.close()
                for relay in relays:
                    await relay.down()
            return found

        try:
            return asyncio.run(run())
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()

    def test_nothing_is_wrong_where_nothing_is_in_the_way(self):
        self.assertEqual(self.run_checks("none", CHECKS), dict.fromkeys(CHECKS))

    def test_every_flaw_is_noticed_by_its_check(self):
        self.assertEqual(sorted(FLAWS.values()), sorted(CHECKS))
        for flaw, check in FLAWS.items():
            with self.subTest(flaw):
                self.assertIsNotNone(self.run_checks(flaw, [check])[check])


class Configurations(unittest.TestCase):
    def test_each_names_the_ports_that_are_replaced(self):
        for settings, folder in SETTINGS.items():
            self.assertEqual(sorted(os.listdir(folder)), sorted(name for proxy in PROXIES for name in proxy.files))
            for proxy in PROXIES:
                texts = []
                for name in proxy.files:
                    with open(os.path.join(folder, name), encoding="utf-8") as file:
                        texts.append(file.read())
                for port in (LISTEN_PORT, *GATEWAY_PORTS):
                    self.assertIn(str(port), "".join(texts), f"{settings} {proxy.name}")


if __name__ == "__main__":
    unittest.main(warnings="ignore")
