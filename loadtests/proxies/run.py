#!/usr/bin/env python3
"""Berth behind nginx, HAProxy, Traefik, Caddy and Envoy, each in its default settings and in those of deploy/proxies: what
passes, what does not, and whether that is what deploy/PROXIES.md says. One table in the end.

    cargo build --release --workspace
    loadtests/proxies/run.py
    loadtests/proxies/run.py --only nginx,Envoy --settings default --checks SSE,'lost answers'

The proxies are programs of others, in the versions of requirements.txt; they are installed into a folder of their own
(BERTH_PROXIES_TOOLS, .venv beside this file unless set), HAProxy from Debian's packages unless it is there. Between a proxy and
each gateway stands a relay of this program that can lose answers. Everything is on this machine.

Ends with 0 when everything is as deploy/PROXIES.md says, with 1 when something is not.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time

# This folder's modules and those of chaos are packages beside each other; this file's own folder must not hide the library.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from chaos import wire  # noqa: E402  pylint: disable=wrong-import-position
from chaos.cluster import ROOT, Cluster, Shape, Stuck  # noqa: E402  pylint: disable=wrong-import-position
from chaos.network import Loopback  # noqa: E402  pylint: disable=wrong-import-position
from proxies.checks import CHECKS, Site, Wrong  # noqa: E402  pylint: disable=wrong-import-position
from proxies.programs import HERE, PROXIES, SETTINGS, Running, Tools, free_port  # noqa: E402  pylint: disable=wrong-import-position
from proxies.relay import Losses, Relay  # noqa: E402  pylint: disable=wrong-import-position

# What default settings are known not to hold, and deploy/PROXIES.md says so. Whatever else does not hold, or holds in spite of
# this, makes the run fail.
KNOWN = {
    ("nginx", "default", "1 MiB"): "its own 413",
    ("Envoy", "default", "SSE held"): "cut after",
    ("Envoy", "default", "wait="): "504 after",
}
# As many as a session token lists at most, so that the token is as long as it can be.
SHARDS = 128
START_SECONDS_MAX = 120
# These only wait, so that they wait at once.
TOGETHER = ("SSE held", "wait=")
NONE = "none"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [proxy.name for proxy in PROXIES]
    parser.add_argument("--programs", default=os.path.join(ROOT, "target", "release"), help="where the programs of Berth lie")
    parser.add_argument("--tools", default=os.environ.get("BERTH_PROXIES_TOOLS", os.path.join(HERE, ".venv")), help="where the proxies lie")
    parser.add_argument("--haproxy", help="the program, when it is not to come from the PATH or from Debian's packages")
    parser.add_argument("--only", default=",".join(names), help="names of proxies, separated by commas; 'none' stands for no proxy at all")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="'default', 'deploy' or both")
    parser.add_argument("--checks", default=",".join(CHECKS), help="columns of the table, separated by commas")
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--hold", type=float, default=20, help="seconds that a stream is silent and a long poll waits, at most 30")
    parser.add_argument("--load", type=float, default=3, help="seconds of load around a kill")
    parser.add_argument("--place", help="where data and logs go; a new folder when not given")
    parser.add_argument("--keep", action="store_true", help="keep data and logs also when everything held")
    options = parser.parse_args()
    for what, known in (("only", [NONE, *names]), ("settings", SETTINGS), ("checks", CHECKS)):
        chosen = getattr(options, what).split(",")
        if not set(chosen) <= set(known):
            parser.error(f"--{what} knows {', '.join(known)}")
        setattr(options, what, chosen)
    return options


class Bench:
    """A cluster with two gateways, and the relays before them."""

    def __init__(self, options):
        self.options = options
        shape = Shape(programs=os.path.abspath(options.programs), nodes=1, gateways=2, shards=options.shards)
        self.network = Loopback()
        self.cluster = Cluster(shape, self.network, os.path.join(options.place, "cluster"))
        self.losses = Losses()
        self.relays = [Relay(free_port(), gateway.public, self.losses) for gateway in self.cluster.gateways]
        self.token, self.rows = "", 0

    async def start(self):
        self.cluster.start_all()
        await self.cluster.every_shard_owned(seconds=START_SECONDS_MAX)
        await self.cluster.answers(START_SECONDS_MAX)
        for relay in self.relays:
            await relay.up()
        self.token = await self.longest_token()

    async def longest_token(self):
        """A token that has seen every shard, or nearly."""
        pool, token = wire.Pool(*self.cluster.gateways[0].public), ""
        try:
            for number in range(6 * self.options.shards):
                headers = [("Berth-Session", token)] if token else []
                answer = await pool.request("POST", wire.entity_path(("counter", f"seen-{number}")) + "/add", {"by": 1}, headers)
                token = answer.headers.get("berth-session", token)
        finally:
            pool.close()
        return token

    async def kill(self):
        self.cluster.gateways[1].kill()
        await self.relays[1].down()

    async def revive(self):
        gateway = self.cluster.gateways[1]
        gateway.start()
        await self.cluster.until(f"{gateway.name} is ready", lambda: self.cluster.is_ready(gateway))
        await self.relays[1].up()

    def site(self, proxy):
        return Site(
            proxy=proxy,
            gateway=self.cluster.gateways[0].public,
            relays=self.relays,
            losses=self.losses,
            token=self.token,
            kill=self.kill,
            revive=self.revive,
            hold_seconds=self.options.hold,
            load_seconds=self.options.load,
        )

    async def row(self, proxy, settings, tools):
        """Check → what is to be shown, and notes."""
        self.rows += 1
        ports = [relay.port for relay in self.relays]
        running = Running(proxy, settings, tools, os.path.join(self.options.place, f"{self.rows}-{proxy.name}"), ports) if proxy else None
        try:
            if running:
                await running.start()
            site = self.site(("127.0.0.1", running.port if running else ports[1]))
            try:
                return await self.cells(site), site.notes
            finally:
                site.close()
        finally:
            if running:
                running.stop()

    async def cells(self, site):
        found = {}

        async def run(name):
            try:
                found[name] = f"ok {await CHECKS[name](site) or ''}".strip()
            except Wrong as wrong:
                found[name] = wrong.label
                site.notes.append(f"{name}: {wrong}")
            except (OSError, ValueError, KeyError) as error:
                found[name] = "failed"
                site.notes.append(f"{name}: {error!r}")
            self.losses.disarm()
            print(f"    {name}: {found[name]}", flush=True)

        chosen = [name for name in CHECKS if name in self.options.checks]
        for name in chosen:
            if name not in TOGETHER:
                await run(name)
        await asyncio.gather(*(run(name) for name in chosen if name in TOGETHER))
        return {name: found[name] for name in chosen}

    async def stop(self):
        for relay in self.relays:
            await relay.down()
        self.cluster.kill_all()
        self.network.close()


def surprises(name, settings, cells):
    """What is not as deploy/PROXIES.md says."""
    for check, cell in cells.items():
        expected = KNOWN.get((name, settings, check), "ok")
        if not cell.startswith(expected):
            yield f"{name}, {settings}: {check} is {cell!r} and not {expected!r}"


def table(rows, checks):
    lines = [["proxy", "version", "settings", *checks], *rows]
    lines.insert(1, ["-" * 3] * len(lines[0]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("| " + " | ".join(cell.ljust(width, "-" if cell == "---" else " ") for cell, width in zip(line, widths)) + " |")


async def run_all(options):
    tools = Tools(options.tools, options.haproxy)
    proxies = [proxy for proxy in PROXIES if proxy.name in options.only]
    tools.install(proxies)
    bench = Bench(options)
    rows, wrong, notes = [], [], []
    try:
        await bench.start()
        # Without a proxy everything must hold, or the table says nothing of proxies.
        for proxy, settings in [(None, "")] + [(proxy, settings) for proxy in proxies for settings in options.settings]:
            name, version = (proxy.name, tools.version(proxy)) if proxy else (NONE, "")
            print(f"{name} {version} {settings}", flush=True)
            cells, said = await bench.row(proxy, settings, tools)
            rows.append([name, version, settings, *cells.values()])
            notes += [f"{name}{', ' if settings else ''}{settings}: {note}" for note in said]
            wrong += surprises(name, settings, cells)
    finally:
        await bench.stop()
    print()
    table(rows, [name for name in CHECKS if name in options.checks])
    print("\n" + "\n".join(f"- {note}" for note in notes))
    if wrong:
        print("\nnot as deploy/PROXIES.md says:\n" + "\n".join(f"- {line}" for line in wrong))
    return 1 if wrong else 0


def main():
    options = arguments()
    made = options.place is None
    options.place = options.place or tempfile.mkdtemp(prefix="berth-proxies-")
    begin = time.monotonic()
    try:
        result = asyncio.run(run_all(options))
    except Stuck as stuck:
        sys.exit(f"{stuck}\ndata and logs are in {options.place}")
    if result == 0:
        print(f"\neverything is as deploy/PROXIES.md says, after {time.monotonic() - begin:.0f} s")
    if made and not result and not options.keep:
        shutil.rmtree(options.place, ignore_errors=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
