#!/usr/bin/env python3
"""Makes a Python client from /openapi.json with a public generator (openapi-python-client), and runs the tour of README.md with
it. Each call must send what README.md's curl sends and get what README.md shows, through the client's own types.

    cargo build --release --workspace
    loadtests/contract/generated_client.py

BERTH_URL names a gateway that runs already and on which the tour did not run yet; without it a fresh cluster is started from
target/release/berth (or BERTH_PROGRAM) and stopped again. BERTH_CLIENT_VENV is the folder for the generator, .venv-client
beside this file unless set. The generator must take the whole document: a warning of it is a failure.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
START_SECONDS_MAX = 120
PACKAGE = "berth_client"


def tools():
    """The folder with the generator, made at the first use."""
    place = os.path.abspath(os.environ.get("BERTH_CLIENT_VENV", os.path.join(HERE, ".venv-client")))
    wanted, done = os.path.join(HERE, "client-requirements.txt"), os.path.join(place, "installed.txt")
    if not os.path.exists(done) or read(done) != read(wanted):
        print(f"installing {wanted} into {place}", flush=True)
        venv.create(place, with_pip=True)
        subprocess.run([f"{place}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", wanted], check=True)
        shutil.copy(wanted, done)
    return place


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class Local:
    """A fresh cluster in one process."""

    def __init__(self, scratch):
        program = os.environ.get("BERTH_PROGRAM", os.path.join(ROOT, "target", "release", "berth"))
        self.out = os.path.join(scratch, "berth.log")
        words = [program, "--ephemeral", "--nodes", "1", "--gateway-port", "0", "--admin-port", "0"]
        with open(self.out, "wb") as log:
            self.child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # pylint: disable=consider-using-with

    def url(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while "Ctrl-C stops." not in (text := read(self.out)):
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the cluster did not start:\n{text}")
            time.sleep(0.1)
        return re.search(r"http://[^\s/]+", text).group()

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def generate(place, document, scratch):
    words = ["openapi-python-client", "generate", "--path", document, "--meta", "none", "--output-path", os.path.join(scratch, PACKAGE)]
    # The generator calls a formatter that lies beside it.
    path = f"{place}/bin{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(words, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode or "rror" in said or "arning" in said:
        raise SystemExit(f"the generator does not take /openapi.json as it is:\n{said}")
    models = len(os.listdir(os.path.join(scratch, PACKAGE, "models")))
    print(f"the generator took the whole document: {models} models", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", help="a file in place of the gateway's own /openapi.json")
    options = parser.parse_args()
    place = tools()
    scratch = tempfile.mkdtemp(prefix="berth-client-")
    local = None
    try:
        url = os.environ.get("BERTH_URL")
        if not url:
            local = Local(scratch)
            url = local.url()
        document = os.path.join(scratch, "openapi.json")
        if options.document:
            shutil.copy(options.document, document)
        else:
            with urllib.request.urlopen(f"{url}/openapi.json") as answer, open(document, "wb") as file:
                file.write(answer.read())
        generate(place, document, scratch)
        return subprocess.run([f"{place}/bin/python", os.path.join(HERE, "client_tour.py"), scratch, url], check=False).returncode
    finally:
        if local:
            local.stop()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
