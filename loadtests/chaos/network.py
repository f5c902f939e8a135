"""Where processes of a cluster live: at loopback addresses, or each in a network namespace of its own, so that links
between them can be cut. Every process has an address of its own; ports are the same everywhere."""

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

PEER_PORT, ADMIN_PORT, PUBLIC_PORT = 7400, 7490, 8080
IN_NAMESPACE = "BERTH_CHAOS_IN_NAMESPACE"
# A hardware address that nobody has: what is sent there is lost without a word, as when a cable is cut.
NOWHERE = "02:00:00:00:00:ff"
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)
NICENESS = os.getpriority(os.PRIO_PROCESS, 0)


def die_with_parent():
    """Run in a child before it becomes another program: it is killed when the harness ends, however that ends. It is as nice as
    the harness was at first."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def come_first():
    """From now on the harness is given time before what it tests, where the system allows that. Clients that are to measure
    milliseconds would not share a machine with what they measure."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS - 10)


class Loopback:
    """127.N.1.x for nodes, 127.N.2.x for gateways and 127.N.4.x for proxies, with an N that nobody uses. Works for any user; nothing can be cut."""

    can_cut = False

    def __init__(self):
        for _ in range(100):
            self.number = random.randrange(1, 255)
            if self.claim():
                return
        raise SystemExit("no free loopback addresses were found in 100 tries")

    def claim(self):
        """The port stays bound, so that another harness of this machine takes other addresses."""
        self.mark = socket.socket()
        try:
            self.mark.bind((self.node_host(1), PEER_PORT - 1))
            return True
        except OSError:
            self.mark.close()
            return False

    def node_host(self, number):
        return f"127.{self.number}.1.{number}"

    def gateway_host(self, number):
        return f"127.{self.number}.2.{number}"

    def proxy_host(self, number):
        """Where the harness may listen in a node's place."""
        return f"127.{self.number}.4.{number}"

    def harness_host(self):
        """Where the harness itself may listen, reached from everywhere."""
        return f"127.{self.number}.3.1"

    def inside(self, host):  # pylint: disable=unused-argument
        """Words to put before a command line so that it runs at `host`."""
        return []

    def cut(self, one, other):
        raise SystemExit("nothing can be cut between loopback addresses: this scenario runs in network namespaces, as root")

    heal = cut

    def close(self):
        self.mark.close()


class Namespaces:
    """A private network: one namespace per address, all on one bridge, with the harness at the bridge. The harness itself
    must have been moved into a namespace by `enter` before."""

    can_cut = True

    def __init__(self):
        self.holders, self.links, self.cables, self.ways = {}, {}, {}, Counter()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "hub", "type", "bridge")
        run("ip", "address", "add", "10.77.0.1/16", "dev", "hub")
        run("ip", "link", "set", "hub", "up")

    def node_host(self, number):
        return f"10.77.1.{number}"

    def gateway_host(self, number):
        return f"10.77.2.{number}"

    def proxy_host(self, number):
        host = f"10.77.4.{number}"
        run("ip", "address", "replace", f"{host}/16", "dev", "hub")
        return host

    def harness_host(self):
        return "10.77.0.1"

    def inside(self, host):
        if host not in self.holders:
            self.add(host)
        return ["nsenter", f"--net=/proc/{self.holders[host].pid}/ns/net", "--"]

    def add(self, host):
        """A namespace lives as long as a process in it, so one is there that only waits, also while the node is dead."""
        holder = subprocess.Popen(  # pylint: disable=consider-using-with
            ["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
        )
        self.holders[host] = holder
        deadline = time.monotonic() + 5
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            if time.monotonic() > deadline:
                raise SystemExit("no network namespace could be made")
            time.sleep(0.005)
        link = self.links[host] = f"to{len(self.holders)}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        run("ip", "link", "set", link, "master", "hub", "up")
        within = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip"]
        run(*within, "address", "add", f"{host}/16", "dev", "eth0")
        run(*within, "link", "set", "eth0", "up")
        run(*within, "link", "set", "lo", "up")

    def cut(self, one, other):
        """From now on nothing arrives from either at the other. Connections stay open and hear nothing."""
        self.cut_way(one, other)
        self.cut_way(other, one)

    def heal(self, one, other):
        self.heal_way(one, other)
        self.heal_way(other, one)

    def cut_way(self, at, to):
        """Nothing that leaves `at` arrives at `to` any more; what comes the other way does. What is cut twice is healed twice."""
        self.ways[at, to] += 1
        run(*self.inside(at), "ip", "neigh", "replace", to, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")

    def heal_way(self, at, to):
        self.ways[at, to] -= 1
        if self.ways[at, to] == 0:
            run(*self.inside(at), "ip", "neigh", "del", to, "dev", "eth0")

    def limit(self, host, kilobits):
        """Whatever goes to or comes from `host` shares so many kilobits per second each way; what waits too long is lost."""
        shape = ["root", "tbf", "rate", f"{kilobits}kbit", "burst", "32kb", "latency", "400ms"]
        run(*self.inside(host), "tc", "qdisc", "replace", "dev", "eth0", *shape)
        run("tc", "qdisc", "replace", "dev", self.links[host], *shape)

    def unlimit(self, host):
        run(*self.inside(host), "tc", "qdisc", "delete", "dev", "eth0", "root")
        run("tc", "qdisc", "delete", "dev", self.links[host], "root")

    def worsen(self, host, **cable):
        """Puts a bad cable (wires.py) between `host` and all others."""
        link, near, far = self.links[host], f"near{self.links[host]}", f"far{self.links[host]}"
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        run("ip", "link", "set", link, "nomaster")
        run("ip", "link", "set", far, "master", "hub", "up")
        run("ip", "link", "set", near, "up")
        words = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "wires.py"), link, near, json.dumps(cable)]
        child = subprocess.Popen(  # pylint: disable=consider-using-with
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=die_with_parent
        )
        self.cables[host] = child
        if child.stdout.readline() != b"ready\n":
            raise SystemExit(f"{' '.join(words)} has ended")

    def mend(self, host):
        child = self.cables.pop(host)
        child.kill()
        child.wait()
        child.stdout.close()
        run("ip", "link", "set", self.links[host], "master", "hub")
        run("ip", "link", "delete", f"far{self.links[host]}")

    def close(self):
        for host in list(self.cables):
            self.mend(host)
        # The kernel takes links away with their namespaces only some time later; the next network has the same names.
        for number in range(1, len(self.holders) + 1):
            run("ip", "link", "delete", f"to{number}")
        for holder in self.holders.values():
            holder.kill()
            holder.wait()
        self.holders, self.links = {}, {}
        run("ip", "link", "delete", "hub")

    @staticmethod
    def enter():
        """Starts this program again in a network namespace of its own, unless that was done. Needs root, or a kernel that
        lets users make namespaces. What it mounts is its own too, and goes with it."""
        if os.environ.get(IN_NAMESPACE):
            return
        for words in (["unshare", "--net", "--mount"], ["unshare", "--user", "--map-root-user", "--net", "--mount"]):
            if subprocess.run([*words, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode == 0:
                os.environ[IN_NAMESPACE] = "1"
                os.execvp(words[0], [*words, sys.executable, *sys.argv])
        raise SystemExit(
            "cutting links needs network namespaces: run this scenario as root, with `ip` (iproute2), `unshare` and "
            "`nsenter` (util-linux) installed; the other scenarios run as any user on loopback addresses"
        )


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr.strip()}")
