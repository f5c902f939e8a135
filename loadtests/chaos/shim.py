"""Makes the files of one process fail and its wall clock jump, while it runs: compiles `faults.c`, has processes load it, and turns
its rules on and off. Knows nothing of clusters. Without a C compiler there are no such faults, and the catalogue says so."""

import errno
import mmap
import os
import shutil
import struct
import subprocess

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "faults.c")
PAGE_BYTES, RULES = 4096, 8
RULE = struct.Struct("<IIIIQIIQ")
ACTION, HITS = 0, 6  # which of its fields
# As faults.c numbers them.
FAIL, DELAY, DIE_BEFORE, DIE_HALFWAY, DIE_AFTER, HOLD = range(1, 7)
READ, WRITE, SYNC, RESIZE = 1, 2, 4, 8
JOURNAL, STORE = 1, 2
BOTH = JOURNAL | STORE
CLOCK_SECONDS_MAX = 30 * 24 * 3600


def compiler():
    """The C compiler's name, or None."""
    return next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build(place):
    """Compiles the shim into this folder and gives its path."""
    os.makedirs(place, exist_ok=True)
    library = os.path.join(place, "faults.so")
    if not os.path.exists(library):
        words = [compiler(), "-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden", "-o", library, SOURCE, "-ldl"]
        subprocess.run(words, check=True)
    return library


class Control:
    """The page of one process. A process that starts anew finds the rules as they are."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            file.truncate(PAGE_BYTES)
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), PAGE_BYTES)

    def settings(self, library):
        """The variables that make a process load the shim and obey this page."""
        return {"LD_PRELOAD": library, "CHAOS_CONTROL": self.path}

    def jump(self, seconds):
        """From now on the wall clock is so many seconds off. 0 puts it right again."""
        if abs(seconds) > CLOCK_SECONDS_MAX:
            raise ValueError(f"a clock that is {seconds} s off is no clock")
        self.page[0:8] = struct.pack("<q", round(seconds * 1e9))

    def add(self, action, calls, files=BOTH, error=errno.EIO, seconds=0.0, passes=0):
        """Puts a rule in force and gives its number."""
        for number in range(RULES):
            if not self.rule(number)[ACTION]:
                # The action is written last: until then the rule is none.
                packed = RULE.pack(0, calls, files, error, round(seconds * 1e6), passes, 0, 0)
                start = self.start_of(number)
                self.page[start : start + RULE.size] = packed
                self.page[start : start + 4] = struct.pack("<I", action)
                return number
        raise ValueError(f"more than {RULES} rules at once")

    def remove(self, number):
        """Takes a rule back, and gives how often it has acted."""
        hits = self.hits(number)
        start = self.start_of(number)
        self.page[start : start + 4] = struct.pack("<I", 0)
        return hits

    def clear(self):
        """No rules, and the clock as it should be."""
        for number in range(RULES):
            self.remove(number)
        self.jump(0)

    def hits(self, number):
        return self.rule(number)[HITS]

    def rule(self, number):
        return RULE.unpack_from(self.page, self.start_of(number))

    @staticmethod
    def start_of(number):
        return 8 + number * RULE.size
