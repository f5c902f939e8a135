"""A cluster of real processes: nodes and gateways, each with an address, a log and, for nodes, a data directory of its own.
Starts, kills, pauses, wipes, cuts and asks them; knows nothing of load or histories. Ends only what it started."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field

from chaos import disks, shim, wire
from chaos.network import ADMIN_PORT, PEER_PORT, PUBLIC_PORT, die_with_parent

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
START_SECONDS_MAX = 60
START_MARK = "---- "  # begins the line before what a start of a process writes to its log


class Stuck(Exception):
    """The cluster did not come to where a scenario needs it: the scenario cannot go on."""


@dataclass
class Shape:
    """What a cluster consists of and how it is configured."""

    programs: str
    nodes: int = 3
    gateways: int = 2
    shards: int = 64
    replicas: int = 3  # the factor; a smaller cluster has as many copies as it has nodes
    proxied: bool = False  # whether nodes are reached through proxies of the harness, which can leave out messages
    disk_mib: int = 0  # gives every node a file system of its own, of this size; 0: a folder
    lists_anew: bool = False  # whether a gateway is started with the nodes of that time, not with those of the beginning
    shim: str = ""  # the library that makes files fail and clocks jump (shim.py); every process loads it
    node_settings: dict = field(default_factory=dict)
    gateway_settings: dict = field(default_factory=dict)

    @property
    def copies(self):
        return min(self.replicas, self.nodes)


def cluster_settings(shape, peers):
    """What tells a node of the cluster; `peers` are the addresses of all nodes that it begins with."""
    return {
        "BERTH_CLUSTER__SEEDS": ",".join(peers),
        "BERTH_CLUSTER__EXPECT": str(len(peers)),
        "BERTH_CLUSTER__REPLICAS": str(shape.replicas),
        "BERTH_CLUSTER__SHARDS": str(shape.shards),
    }


# In network namespaces the addresses are not of loopback, and no credentials are needed there: nobody else is in them.
OPEN_NODE = {"BERTH_ADMIN_AUTH__ALLOW_ANONYMOUS": "true", "BERTH_PEER__ALLOW_INSECURE": "true"}
OPEN_GATEWAY = {**OPEN_NODE, "BERTH_AUTH__ALLOW_ANONYMOUS": "true"}


class Process:
    """One program of the cluster."""

    def __init__(self, name, words, settings, log_path):
        self.name, self.words, self.settings, self.log_path = name, words, settings, log_path
        self.child, self.is_leaving, self.is_doomed = None, False, False
        self.control = None

    def settings_now(self):
        """What it is started with."""
        return self.settings

    def start(self):
        assert not self.is_running(), f"{self.name} runs already"
        self.is_leaving = False
        # Nothing of the harness's own surroundings may configure what is tested.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BERTH_")}
        with open(self.log_path, "ab") as log:
            log.write(f"{START_MARK}{self.name} is started at {time.time():.3f}\n".encode())
            log.flush()
            self.child = subprocess.Popen(  # pylint: disable=consider-using-with
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**clean, **self.settings_now()},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.is_doomed = False

    def is_running(self):
        return self.child is not None and self.child.poll() is None

    def signal(self, number):
        """To this very child, which has not been waited for, so that its number is nobody else's."""
        if self.is_running():
            self.child.send_signal(number)

    def kill(self):
        """kill -9, and waits until the process is gone."""
        self.signal(signal.SIGKILL)
        if self.child is not None:
            self.child.wait()
            self.child = None

    def leave(self):
        """SIGTERM: it may end by itself from now on."""
        self.is_leaving = True
        self.signal(signal.SIGTERM)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def doom(self):
        """From now until it is started anew nobody wonders if the process ends by itself: a fault may end it."""
        self.is_doomed = True

    def ended_by_itself(self):
        """The exit status of a process that was not killed from here, else None."""
        return None if self.child is None else self.child.poll()

    def log_since_start(self):
        """What the process has written to its log since it was last started."""
        with open(self.log_path, "r", encoding="utf-8", errors="replace") as log:
            lines = log.readlines()
        starts = [place for place, line in enumerate(lines) if line.startswith(START_MARK)]
        return lines[starts[-1] + 1 :] if starts else lines

    def log_tail(self, lines=5):
        with open(self.log_path, "r", encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:]).strip()


class Node(Process):
    def __init__(self, number, host, peer, data, *arguments):
        super().__init__(f"node-{number}", *arguments)
        self.number, self.host, self.data = number, host, data
        self.peer, self.admin = peer, (host, ADMIN_PORT)

    def wipe(self):
        """Removes the data directory of a dead node: its next start is that of a new node."""
        assert not self.is_running(), f"{self.name} runs"
        shutil.rmtree(self.data, ignore_errors=True)

    @property
    def volume(self):
        """The folder that the data directory lies in."""
        return os.path.dirname(self.data)

    def identity(self):
        """What the data directory says of itself; None before it is written."""
        try:
            with open(os.path.join(self.data, "identity.json"), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None


class Gateway(Process):
    def __init__(self, number, host, cluster, *arguments):
        super().__init__(f"gateway-{number}", *arguments)
        self.number, self.host, self.cluster = number, host, cluster
        self.public, self.admin = (host, PUBLIC_PORT), (host, ADMIN_PORT)

    def settings_now(self):
        """Where nodes come and go and no name lists them, somebody has to write the list anew."""
        if not self.cluster.shape.lists_anew:
            return self.settings
        return {**self.settings, "BERTH_NODES": ",".join(node.peer for node in self.cluster.nodes)}


class Cluster:
    def __init__(self, shape, network, place):
        """`place` is a directory of its own for data and logs."""
        self.shape, self.network, self.place = shape, network, place
        os.makedirs(place, exist_ok=True)
        numbers = range(1, shape.nodes + 1)
        # Those that the cluster begins with.
        self.peers = [self.peer(number) for number in numbers]
        self.nodes = [self.node(number, self.peers) for number in numbers]
        self.gateways = [self.gateway(number) for number in range(1, shape.gateways + 1)]
        self.former, self.last_number = [], shape.nodes
        self.keeps_disks = False  # when it ends
        self.unmounting = []

    def peer(self, number):
        """Where others reach a node."""
        host = self.network.proxy_host(number) if self.shape.proxied else self.network.node_host(number)
        return f"{host}:{PEER_PORT}"

    def node(self, number, seeds):
        host, peer = self.network.node_host(number), self.peer(number)
        name = os.path.join(self.place, f"node-{number}")
        data = name
        if self.shape.disk_mib:
            data = os.path.join(self.disk(number), "data")
        settings = {
            "BERTH_DATA_DIR": data,
            "BERTH_LISTEN": f"{host}:{PEER_PORT}",
            "BERTH_ADVERTISE": peer,
            "BERTH_ADMIN_LISTEN": f"{host}:{ADMIN_PORT}",
            **OPEN_NODE,
            **cluster_settings(self.shape, seeds),
            **self.shape.node_settings,
        }
        words = [*self.network.inside(host), os.path.join(self.shape.programs, "berth-node")]
        return self.shimmed(Node(number, host, peer, data, words, settings, f"{name}.log"))

    def disk(self, number):
        """Where the file system of a node is mounted, which is made if it is not there."""
        return disks.mount(os.path.join(self.place, f"node-{number}.disk"), self.shape.disk_mib)

    def shimmed(self, process):
        """The same process; where the cluster has a shim, it will load it."""
        if self.shape.shim:
            process.control = shim.Control(os.path.join(self.place, f"{process.name}.faults"))
            process.settings |= process.control.settings(self.shape.shim)
        return process

    def gateway(self, number):
        host = self.network.gateway_host(number)
        settings = {
            "BERTH_LISTEN": f"{host}:{PUBLIC_PORT}",
            "BERTH_ADMIN_LISTEN": f"{host}:{ADMIN_PORT}",
            "BERTH_NODES": ",".join(self.peers),
            **OPEN_GATEWAY,
            **self.shape.gateway_settings,
        }
        words = [*self.network.inside(host), os.path.join(self.shape.programs, "berth-gateway")]
        return self.shimmed(Gateway(number, host, self, words, settings, os.path.join(self.place, f"gateway-{number}.log")))

    @property
    def processes(self):
        return [*self.nodes, *self.gateways]

    # ---- Acts

    def add_node(self):
        """One more node, with an empty disk and an address that none had before. It is not started yet."""
        self.last_number += 1
        self.nodes.append(self.node(self.last_number, self.seeds_now()))
        return self.nodes[-1]

    def seeds_now(self):
        """Some that can be asked for the cluster, as a name of all pods lists them."""
        return [node.peer for node in self.nodes if node.is_running() and not node.is_leaving][: self.shape.nodes]

    def start_empty(self, node):
        """A node whose disk is gone, at its old address. Those that it began with may be gone too."""
        node.settings |= cluster_settings(self.shape, self.seeds_now())
        node.start()

    def forget(self, node):
        """A node that is gone for good; its log is looked at in the end."""
        assert not node.is_running(), f"{node.name} runs"
        node.child = None
        node.wipe()
        if self.shape.disk_mib:
            self.unmounting.append(disks.begin_to_unmount(node.volume))
        self.nodes.remove(node)
        self.former.append(node)

    def start_all(self):
        for process in self.processes:
            if not process.is_running():
                process.start()

    def kill_all(self):
        """kill -9 of everything, the later ones without waiting for the earlier ones."""
        for process in self.processes:
            process.signal(signal.SIGKILL)
        for process in self.processes:
            process.kill()

    def unmount_all(self):
        """After the end of all processes."""
        if self.shape.disk_mib:
            self.unmounting += [disks.begin_to_unmount(node.volume, self.keeps_disks) for node in self.nodes]
        for child in self.unmounting:
            if child.wait():
                raise SystemExit(f"{' '.join(child.args)} failed")

    def cut(self, one, other):
        self.network.cut(one.host, other.host)

    def heal(self, one, other):
        self.network.heal(one.host, other.host)

    def check_alive(self):
        """Stuck when a process ended that nobody killed or told to leave."""
        for process in self.processes:
            status = process.ended_by_itself()
            if status is not None and not process.is_doomed and (status or not process.is_leaving):
                raise Stuck(f"{process.name} ended by itself with {status}; its last lines: {process.log_tail()}")

    # ---- Questions

    async def until(self, what, ask, seconds=START_SECONDS_MAX, pause=0.02):
        """Waits until `ask` gives something true and gives it; `ask` may raise Stuck itself to say what is missing."""
        deadline, why = time.monotonic() + seconds, ""
        while True:
            self.check_alive()
            try:
                if answer := await ask():
                    return answer
                why = "no"
            except Stuck as stuck:
                why = str(stuck)
            if time.monotonic() > deadline:
                raise Stuck(f"{what}: not after {seconds} s; last seen: {why}; logs are in {self.place}")
            await asyncio.sleep(pause)

    async def answers(self, seconds=START_SECONDS_MAX):
        """Waits until entities of (in all likelihood) every shard can be read through every gateway; 404 is the owner's
        answer too."""
        names = [f"probe-{number}" for number in range(6 * self.shape.shards)]
        for gateway in self.gateways:
            pool, waiting = wire.Pool(*gateway.public), list(names)

            async def probe(pool=pool, waiting=waiting):
                while waiting:
                    path = wire.entity_path(("counter", waiting[-1]))
                    try:
                        answer = await pool.request("GET", path, headers=[("Prefer", "wait=1")], timeout=3)
                    except OSError as error:
                        raise Stuck(repr(error)) from error
                    if answer.status not in (200, 404):
                        raise Stuck(f"GET {path}: {answer.status} {answer.raw[:200]}")
                    waiting.pop()
                return True

            try:
                await self.until(f"{gateway.name} answers for every shard", probe, seconds)
            finally:
                pool.close()

    async def ask(self, path, of=None):
        """The parsed 200 answer of the first admin port that gives one, unless told whom to ask of gateways and nodes."""
        for process in of or [*self.gateways, *self.nodes]:
            if process.is_running():
                answer = await wire.get(process.admin, path)
                if answer and answer[0] == 200:
                    return answer[1]
        raise Stuck(f"no admin port answers GET {path}")

    async def is_ready(self, process):
        answer = await wire.get(process.admin, "/readyz")
        return answer is not None and answer[0] == 200

    def by_id(self):
        """Node ids as they are shown → nodes, from what lies in the data directories."""
        found = {}
        for node in self.nodes:
            identity = node.identity()
            if identity is not None:
                found[shown_id(identity["node"])] = node
        return found

    def node_of(self, name):
        """The node that an answer names, by id or by address; None for one that no longer is."""
        if isinstance(name, dict):
            name = name.get("node", name.get("address"))
        if name is None:
            return None
        for node in self.nodes:
            if name == node.peer:
                return node
        return self.by_id().get(shown_id(name))

    async def owners(self, of=None):
        """Shard → owning node (None where there is none), as the cluster says."""
        shards = (await self.ask("/v1/cluster/shards", of))["shards"]
        return {shard["shard"]: self.node_of(shard.get("owner")) for shard in shards}

    async def every_shard_owned(self, of=None, seconds=START_SECONDS_MAX):
        async def ask():
            owners = await self.owners(of)
            missing = [shard for shard in range(self.shape.shards) if owners.get(shard) is None]
            if missing:
                raise Stuck(f"no owner of {len(missing)} shards, such as {missing[:5]}")
            return owners

        return await self.until("every shard has an owner", ask, seconds)


def shown_id(value):
    """Node ids are numbers in files and 16 hexadecimal digits where they are shown."""
    return f"{value:016x}" if isinstance(value, int) else str(value).lower()
