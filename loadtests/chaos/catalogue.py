"""The catalogue of faults: all rows, which of them this machine can make, in which order they are drawn, and FAULTS.md."""

import os
import shutil

from chaos import disks, limits, shim
from chaos import faults_processes, faults_links  # noqa: F401  pylint: disable=unused-import
from chaos import faults_disks, faults_limits, faults_members  # noqa: F401  pylint: disable=unused-import
from chaos.scene import ROWS

NUMBERED = {name: number for number, name in enumerate(ROWS, 1)}
ROWS_LEAST = 25
TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "FAULTS.md")
# What a row may need → whether this machine has it, and what it is in words.
NEEDS = {
    "root": (lambda: os.geteuid() == 0, "root"),
    "cc": (lambda: shim.compiler() is not None, "a C compiler"),
    "tc": (lambda: shutil.which("tc") is not None, "`tc` with `tbf`"),
    "mount": (disks.can_mount, "root, mkfs.ext4, loop devices"),
    "memory": (lambda: limits.has_controller("memory") > 0, "control groups for memory"),
    "cpu": (lambda: limits.has_controller("cpu") > 0, "control groups for processors"),
}


def lacking(row):
    """What this machine lacks for it, in words."""
    return [NEEDS[need][1] for need in row.needs if not NEEDS[need][0]()]


def available():
    """The rows that can be made here, and those that cannot, with the reason."""
    reasons = {row.name: lacking(row) for row in ROWS.values()}
    return [row for row in ROWS.values() if not reasons[row.name]], {name: why for name, why in reasons.items() if why}


class Deck:
    """Draws every row once before any comes again."""

    def __init__(self, rows, chance):
        self.rows, self.chance, self.left = rows, chance, []

    def draw(self, shape, may_pair):
        """One row, or two that may overlap in a cluster of this shape and still leave it a majority."""
        first = self.next()
        if not may_pair or not first.mixes:
            return [first]
        for place in range(len(self.left) - 1, -1, -1):
            if fit_together(first, self.left[place], shape):
                return [first, self.left.pop(place)]
        return [first]

    def next(self):
        if not self.left:
            self.left = self.chance.sample(self.rows, len(self.rows))
        return self.left.pop()


def fit_together(one, other, shape):
    nodes, gateways = one.nodes + other.nodes, one.gateways + other.gateways
    return one.mixes and other.mixes and nodes <= (shape.copies - 1) // 2 and gateways < shape.gateways


HEAD = """# The catalogue of faults

Written by `run.py catalogue --table`; do not edit. README.md beside it says how the catalogue is run and what is checked after every
fault. What must hold besides the checks is the expected outcome here; "outlives" says that the cluster must serve while the fault
lasts. Every row is made in a running cluster under load, on real processes; `run.py catalogue --row TEST` makes one by itself.

| number | test | fault | how it is made | expected outcome | outlives | needs |
| --- | --- | --- | --- | --- | --- | --- |
"""
FOOT = """
## What is not in it, and why

- A node that is put back on an *older copy of its own disk*, or a copy that runs at the address of the original: it has promised to
  others what the copy does not know. No consensus without hardware that counts survives that; copies are refused where they
  can be told, by the address (`copied-disk`) and the lock (`shared-disk`).
- The one bit of the journal that nothing guards (ARCHITECTURE.md, Durability): `rotten-journal` leaves it alone.
- Power cuts: no fault here empties the page cache. What survives them is shown by the simulated disk.
- Lost quorums that an operator recovers, first starts, and single kinds of messages: `lost-quorum`, `recover`, `bootstrap`, `steps` and
  `flap` of `run.py`.
"""


def table():
    """FAULTS.md."""
    lines = []
    for row in ROWS.values():
        needs = ", ".join(NEEDS[need][1] for need in row.needs) or "namespaces"
        outlives = "no" if row.nodes > 9 or row.gateways > 9 or row.spoils else "yes"
        cells = [str(NUMBERED[row.name]), f"`{row.name}`", row.fault, row.made, row.outcome, outlives, needs]
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines) + FOOT
