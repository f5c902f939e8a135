#!/usr/bin/env python3
"""Runs the commands of README.md's tour against a fresh cluster and compares what they print.

    target/release/berth --ephemeral &
    loadtests/tour.py

`…` in an expected line stands for anything. Needs curl and Python's standard library.
"""

import argparse
import os
import re
import subprocess
import sys

README = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "README.md")


def steps(text):
    """Commands and the lines each should print, from all ```console blocks."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def fits(expected, line):
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, line) is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", default="http://127.0.0.1:8080")
    parser.add_argument("--admin", default="http://127.0.0.1:8090")
    options = parser.parse_args()
    with open(README, encoding="utf-8") as readme:
        tour = steps(readme.read())
    if not tour:
        sys.exit("README.md has no tour")
    wrong = 0
    for command, expected in tour:
        here = command.replace("http://127.0.0.1:8080", options.gateway).replace("http://127.0.0.1:8090", options.admin)
        ran = subprocess.run(["bash", "-c", here], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
        printed = ran.stdout.splitlines()
        held = ran.returncode == 0 and len(printed) == len(expected) and all(map(fits, expected, printed))
        print(f"{'ok   ' if held else 'WRONG'} {here}")
        if not held:
            wrong += 1
            print("      expected", *expected, "      printed", *printed, ran.stderr, sep="\n      ")
    print(f"{len(tour) - wrong} of {len(tour)} commands print what README.md says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
