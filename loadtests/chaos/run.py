#!/usr/bin/env python3
"""Real processes, real failures, checked histories: one command per scenario. README.md beside this file says what each
proves and what the columns mean.

    cargo build --release --workspace
    loadtests/chaos/run.py owner-wipe --repeat 50
    loadtests/chaos/run.py partition                 # as root, in network namespaces
    loadtests/chaos/run.py all-kill --repeat 10 --keep
    loadtests/chaos/run.py bootstrap --dns --nodes 5
    loadtests/chaos/run.py rolling --rounds 5
    loadtests/chaos/run.py hand-offs --count 300

Ends with 0 when everything held, with 1 when something was violated. Needs nothing but Python's standard library.
"""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile

# The modules are one package beside the other load tests; this file's own folder must not hide the standard library.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from chaos import bootstraps, campaign, elastic, failover, flap, handoffs, isolation, live, recover, restarts, steps, wipes  # noqa: E402  pylint: disable=wrong-import-position
from chaos.cluster import ROOT, Shape  # noqa: E402  pylint: disable=wrong-import-position
from chaos.network import Loopback, Namespaces  # noqa: E402  pylint: disable=wrong-import-position

# Name → (what runs it, how often unless said otherwise, whether it needs links that can be cut).
SCENARIOS = {
    "owner-wipe": (failover.owner_wipe, 5, False),
    "owner-kill": (failover.owner_kill, 5, False),
    "all-kill": (restarts.all_kill, 5, False),
    "catch-up": (restarts.catch_up, 1, False),
    "pause": (isolation.pause, 3, False),
    "lost-quorum": (restarts.lost_quorum, 3, False),
    "recover": (recover.recover, 2, False),
    "bootstrap": (bootstraps.bootstrap, 200, False),
    "partition": (isolation.partition, 2, True),
    "scale": (elastic.scale, 1, False),
    "rolling": (elastic.rolling, 5, False),
    "wipe": (wipes.wipe, 20, False),
    "hand-offs": (handoffs.hand_offs, 300, False),
    "steps": (steps.steps, len(steps.CASES), False),
    "flap": (flap.flap, 1, False),
    "live": (live.live, 1, False),
    "catalogue": (campaign.run, 1, True),
}
# What these have in place of the defaults of all.
RATE, RATE_OF = 300, dict.fromkeys(("scale", "rolling", "wipe", "hand-offs", "steps", "flap"), 550)
NODES, NODES_OF = 3, {"flap": 4}
GATEWAYS, GATEWAYS_OF = 2, {"catalogue": 3}
SHARDS, SHARDS_OF = 64, {"catalogue": 16}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--repeat", "--rounds", "--count", type=int, help="tries, rounds, or hand-offs")
    parser.add_argument("--programs", default=os.path.join(ROOT, "target", "release"), help="where the programs lie")
    parser.add_argument("--nodes", type=int, help=f"that the cluster begins with; {NODES}, and 4 in flap")
    parser.add_argument("--gateways", type=int, help=f"{GATEWAYS}, and 3 in catalogue")
    parser.add_argument("--shards", type=int, help=f"{SHARDS}, and 16 in catalogue")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--rate", type=float, help=f"requests per second, over all clients; {RATE}, and 550 where members change")
    parser.add_argument("--strict", type=float, default=0.3, help="the share of reads that are strict")
    parser.add_argument("--seconds", type=float, default=4, help="of load before the failure, at most")
    parser.add_argument("--away", type=float, default=10, help="seconds that a node misses in catch-up")
    parser.add_argument("--pause", type=float, default=10, help="seconds that an owner is stopped or cut off")
    parser.add_argument("--back", type=float, default=2, help="seconds after which a killed node is started again; below 0: never")
    parser.add_argument("--parallel", type=int, default=2, help="bootstraps at once")
    parser.add_argument("--dns", action="store_true", help="the seeds are one name, of which DNS lists nodes: bootstrap, scale, wipe")
    parser.add_argument("--p50", type=float, default=1.0, help="bound of seconds from kill to first write")
    parser.add_argument("--p99", type=float, default=2.0, help="bound of seconds from kill to first write")
    parser.add_argument("--step", type=int, default=2, help="nodes that come and go at once in scale")
    parser.add_argument("--replace-after", default="3s", help="of nodes in wipe, steps and flap; empty: their default")
    parser.add_argument("--grace", type=float, default=600, help="seconds from SIGTERM to kill -9")
    parser.add_argument("--patience", type=float, default=180, help="seconds that a change of members may take")
    parser.add_argument("--probers", type=int, default=4, help="hand-offs: clients that write every 5 ms, at once")
    parser.add_argument("--pause-p99", type=float, default=50, help="bound of milliseconds without a success in a hand-off")
    parser.add_argument("--pause-max", type=float, default=250, help="bound of milliseconds without a success in a hand-off")
    parser.add_argument("--streams", type=int, default=2000, help="live histories on one gateway in live")
    parser.add_argument("--cut", type=float, default=30, help="seconds that messages are left out in flap")
    parser.add_argument("--faults", type=int, help="catalogue: how many, at least; 500, or one of each given row")
    parser.add_argument("--operations", type=int, default=0, help="catalogue: how many are to be checked, at least")
    parser.add_argument("--per-cluster", type=int, default=40, help="catalogue: faults in one cluster, before the next one")
    parser.add_argument("--pairs", type=float, default=0.25, help="catalogue: the share of faults during which a second one begins")
    parser.add_argument("--row", action="append", default=[], help="catalogue: only this one; may be given again")
    parser.add_argument("--results", help="catalogue: the file that gets a line for each fault; catalogue-SEED.jsonl when not given")
    parser.add_argument("--table", action="store_true", help="catalogue: write FAULTS.md, and nothing else")
    parser.add_argument("--node-env", action="append", default=[], metavar="NAME=VALUE", help="set for every node")
    parser.add_argument("--gateway-env", action="append", default=[], metavar="NAME=VALUE", help="set for every gateway")
    parser.add_argument("--namespaces", action="store_true", help="network namespaces also where nothing is cut")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of load, choices and moments")
    parser.add_argument("--place", help="where data and logs go; a new folder when not given")
    parser.add_argument("--keep", action="store_true", help="keep data and logs also when everything held")
    parser.add_argument("--keep-going", action="store_true", help="go on after a violation")
    return parser.parse_args()


def main():
    options = arguments()
    run, repeat, needs_cuts = SCENARIOS[options.scenario]
    if options.table:
        return campaign.write_table()
    options.repeat = options.repeat or repeat
    options.rate = options.rate or RATE_OF.get(options.scenario, RATE)
    options.nodes = options.nodes or NODES_OF.get(options.scenario, NODES)
    options.gateways = options.gateways or GATEWAYS_OF.get(options.scenario, GATEWAYS)
    options.shards = options.shards or SHARDS_OF.get(options.scenario, SHARDS)
    options.faults = options.faults or max(len(options.row), 1) if options.row else options.faults or 500
    if options.results:
        options.results = os.path.abspath(options.results)
    options.replacing = {"BERTH_CLUSTER__REPLACE_AFTER": options.replace_after} if options.replace_after else {}
    network = Loopback
    if needs_cuts or options.namespaces:
        Namespaces.enter()
        network = Namespaces
        options.parallel = 1
    for program in ("berth-node", "berth-gateway", *(["berth"] if options.scenario == "recover" else [])):
        if not os.access(os.path.join(options.programs, program), os.X_OK):
            sys.exit(f"there is no program {program} in {options.programs}: build it, or name the folder with --programs")
    made = options.place is None
    options.place = options.place or tempfile.mkdtemp(prefix=f"berth-{options.scenario}-")
    settings = {"node": pairs(options.node_env), "gateway": pairs(options.gateway_env)}

    def shape(nodes=None, gateways=None, shards=None, replicas=None, node_settings=None, gateway_settings=None, **more):
        return Shape(
            programs=os.path.abspath(options.programs),
            nodes=nodes or options.nodes,
            gateways=gateways or options.gateways,
            shards=shards or options.shards,
            replicas=replicas or options.replicas,
            node_settings={**(node_settings or {}), **settings["node"]},
            gateway_settings={**(gateway_settings or {}), **settings["gateway"]},
            **more,
        )

    options.shape = shape
    print(f"{options.scenario} ×{options.repeat}, {options.nodes} nodes, {options.gateways} gateways, seed {options.seed}", flush=True)
    result = asyncio.run(run(options, network))
    if made and not result and not options.keep:
        shutil.rmtree(options.place, ignore_errors=True)
    return result


def pairs(texts):
    for text in texts:
        if "=" not in text:
            sys.exit(f"{text!r} is not NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


if __name__ == "__main__":
    sys.exit(main())
