#!/usr/bin/env python3
"""Writes REPORT.md, and REPORT.svg beside it, from what runs of the catalogue have written (and from summaries of the simulation):
how often each fault was made, how many operations were checked, what was violated, and how long it took until all was well again.

    loadtests/chaos/report.py catalogue-7.jsonl [catalogue-8.jsonl …] [--simulation summary.json …]

Every figure comes from these files. A run that has not ended is told as such. Ends with 1 when something was violated.
"""

import argparse
import json
import math
import os
import sys
from collections import defaultdict
from html import escape

# The modules are one package beside the other load tests; this file's own folder must not hide the standard library.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from chaos.trial import percentile  # noqa: E402  pylint: disable=wrong-import-position

FOLDER = os.path.dirname(os.path.abspath(__file__))
TIMES = {
    "takeover_seconds": "taken over",
    "recovery_seconds": "every shard written again",
    "settled_seconds": "settled",
}


class Malformed(Exception):
    """A file that no run of the catalogue has written."""


class Run:
    """One run: what it was, what it made, what was found after the last fault of a cluster, and how it ended, if it did."""

    def __init__(self, head):
        self.head, self.end, self.faults, self.leftovers = head, None, [], []


def runs_of(lines):
    """A file of results may have been gone on with, so it can be of several runs."""
    runs = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise Malformed(f"line {number}: {error}") from error
        if "run" in record:
            runs.append(Run(record["run"]))
        elif not runs:
            raise Malformed(f"line {number} does not say of which run it is")
        elif "end" in record:
            runs[-1].end = record["end"]
        elif "row" in record:
            runs[-1].faults.append(record)
        elif "cluster" in record:
            runs[-1].leftovers.append(record)
        else:
            raise Malformed(f"line {number} is of no known kind")
    if not runs:
        raise Malformed("no line says of which run this is")
    return runs


class Figures:
    """What all runs together say, by row and in all."""

    def __init__(self, runs):
        self.runs = runs
        self.faults = [fault for run in runs for fault in run.faults]
        self.violations = [violation for record in self.records() for violation in record["violations"]]
        self.by_row = defaultdict(list)
        for fault in self.faults:
            for name in made_in(fault):
                self.by_row[name].append(fault)

    def records(self):
        return [*self.faults, *(left for run in self.runs for left in run.leftovers)]

    @property
    def made(self):
        """Faults, where two at once are two."""
        return sum(len(made_in(fault)) for fault in self.faults)

    @property
    def pairs(self):
        return sum(len(made_in(fault)) == 2 for fault in self.faults)

    def total(self, name, faults=None):
        return sum(fault[name] for fault in (self.faults if faults is None else faults))

    def times(self, name, faults=None):
        return [fault[name] for fault in (self.faults if faults is None else faults) if fault[name] is not None]

    def never_made(self):
        return sorted({name for run in self.runs for name in run.head["rows"]} - set(self.by_row))


def made_in(fault):
    """The rows that were made in this segment."""
    return [name for name in (fault["row"], fault["also"]) if name and name not in fault["idle"]]


def spread(values):
    """p50, p99 and the longest, or a dash."""
    if not values:
        return "–"
    return f"{percentile(values, 50):.2f} / {percentile(values, 99):.2f} / {max(values):.2f}"


def document(figures, simulations=(), plot="REPORT.svg"):
    lines = ["# What the faults showed", ""]
    lines += ["Written by `report.py`; do not edit. README.md says what is checked, FAULTS.md what each fault is.", ""]
    lines += ["## Runs", ""]
    lines += ["| began | seconds | commit | sha256 of berth-node | machine | processors | system | seed | faults | operations checked | ended |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for run in figures.runs:
        lines.append(run_line(run))
    lines += ["", "## In all", "", *totals(figures), ""]
    lines += [f"![How long it took after each fault until all was well]({plot})", ""]
    lines += ["## By row", "", *rows_table(figures)]
    for name, figures_of in simulations:
        lines += ["", f"## Simulation: {name}", "", *simulation(figures_of)]
    return "\n".join(lines) + "\n"


def run_line(run):
    head, own = run.head, Figures([run])
    seconds = run.end["seconds"] if run.end else "–"
    cells = [head["began"], seconds, head["commit"], head["programs"]["berth-node"], head["machine"], head["processors"]]
    cells += [head["system"], head["seed"], own.made]
    return f"| {' | '.join(map(str, [*cells, own.total('operations'), 'yes' if run.end else '**no**']))} |"


def totals(figures):
    kinds = defaultdict(int)
    for violation in figures.violations:
        kinds[violation["check"]] += 1
    found = ", ".join(f"{count} {check}" for check, count in sorted(kinds.items()))
    yield f"- {figures.made:,} faults of {len(figures.by_row)} rows; {figures.pairs:,} times two at once"
    yield f"- {figures.total('operations'):,} operations checked, {figures.total('acknowledged'):,} of them acknowledged writes"
    yield f"- {figures.total('ordered'):,} operations put in an order by the second checker"
    yield f"- **{len(figures.violations):,} violations**{': ' + found if found else ''}"
    planted = sum(fault["planted"] is not None for fault in figures.faults)
    yield f"- {planted:,} wrong answers planted afterwards, to see that the checkers find them"
    for name, words in TIMES.items():
        values = figures.times(name)
        yield f"- {words}, in seconds: {spread(values)} (p50 / p99 / longest, of {len(values)})"
    if excused := sum(bool(fault["excused"]) for fault in figures.faults):
        yield f"- {excused} segments not counted as faults, because the harness had too little of a processor to judge service"
    if waiting := figures.times("waiting_share"):
        yield f"- somebody waited for a processor {percentile(waiting, 50):.0%} of the time (median), {max(waiting):.0%} at most"
    yield f"- the harness was late by {max(figures.times('lag_seconds'), default=0):.1f} s at most"
    if never := figures.never_made():
        yield f"- never made: {', '.join(never)}"


def rows_table(figures):
    yield "Times are p50 / p99 / longest, in seconds: from the beginning of the fault until every shard took a write (taken over), and"
    yield "from its end until every shard took one and until nothing was missing any more (settled). What two faults at once took is"
    yield "in both rows."
    yield ""
    yield "| row | times | violations | operations | served meanwhile | taken over | written again | settled |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, faults in sorted(figures.by_row.items()):
        shares = [fault["fault_share"] for fault in faults if fault["fault_share"] is not None]
        cells = [f"`{name}`", len(faults), sum(len(fault["violations"]) for fault in faults), figures.total("operations", faults)]
        cells.append(f"{min(shares):.0%}–{max(shares):.0%}" if shares else "–")
        cells += [spread(figures.times(time, faults)) for time in TIMES]
        yield f"| {' | '.join(map(str, cells))} |"


def simulation(summary):
    """A summary of `berth-simulate`: of seeds, or of planted bugs."""
    if "planted" in summary:
        yield "| planted bug | seeds until noticed | promise seen to be broken first | plan of the seed |"
        yield "| --- | --- | --- | --- |"
        for row in summary["planted"]:
            yield f"| {row['bug']} | {row['seeds']} | {row['promise']} | {row['plan']} |"
        return
    yield "| what | figure |"
    yield "| --- | --- |"
    for what, figure in flat(summary):
        yield f"| {what} | {figure} |"


def flat(value, name=""):
    """Figures of a summary, whatever shape it has."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, f"{len(value)} entries"
    else:
        yield name, value


# ---- The plot

LEFT, RIGHT, TOP, LINE, WIDTH = 190, 20, 46, 16, 900
LEAST, MOST = 0.01, 1000.0
COLOURS = {"takeover_seconds": "#c4572a", "settled_seconds": "#2a6fc4"}


def across(seconds):
    """Where a time stands, on a logarithmic scale."""
    bounded = min(max(seconds, LEAST), MOST)
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(bounded / LEAST) / math.log(MOST / LEAST)


def plot(figures):
    names = sorted(figures.by_row)
    height = TOP + LINE * len(names) + 30
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">']
    parts.append(f'<rect width="{WIDTH}" height="{height}" fill="white"/>')
    legend = LEFT
    for name, colour in COLOURS.items():
        parts.append(f'<circle cx="{legend}" cy="14" r="4" fill="{colour}"/><text x="{legend + 8}" y="18">{TIMES[name]}</text>')
        legend += 110
    parts.append(f'<text x="{legend}" y="18">seconds; a dot for each fault, a stroke at the median</text>')
    for power in range(-2, 4):
        x = across(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 24}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle">{10.0 ** power:g}</text>')
    for number, name in enumerate(names):
        y = TOP + LINE * number
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for offset, (time, colour) in zip((-3, 3), COLOURS.items()):
            parts += marks(figures.times(time, figures.by_row[name]), y + offset, colour)
    return "\n".join([*parts, "</svg>"]) + "\n"


def marks(values, y, colour):
    for value in values:
        yield f'<circle cx="{across(value):.1f}" cy="{y}" r="2" fill="{colour}" fill-opacity="0.45"/>'
    if values:
        x = across(percentile(values, 50))
        yield f'<line x1="{x:.1f}" y1="{y - 3}" x2="{x:.1f}" y2="{y + 3}" stroke="{colour}" stroke-width="2"/>'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="files that `run.py catalogue` has written")
    parser.add_argument("--simulation", action="append", default=[], metavar="FILE", help="JSON: figures of a run of the simulation")
    parser.add_argument("--out", default=os.path.join(FOLDER, "REPORT.md"), help="the report; its plot is beside it")
    options = parser.parse_args()
    runs = []
    for path in options.results:
        with open(path, encoding="utf-8") as file:
            try:
                runs += runs_of(file)
            except Malformed as error:
                sys.exit(f"{path}: {error}")
    simulations = []
    for path in options.simulation:
        with open(path, encoding="utf-8") as file:
            simulations.append((os.path.basename(path), json.load(file)))
    figures = Figures(runs)
    picture = f"{os.path.splitext(options.out)[0]}.svg"
    with open(picture, "w", encoding="utf-8") as file:
        file.write(plot(figures))
    with open(options.out, "w", encoding="utf-8") as file:
        file.write(document(figures, simulations, os.path.basename(picture)))
    print(f"{options.out} and {picture}: {figures.made} faults, {len(figures.violations)} violations")
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
