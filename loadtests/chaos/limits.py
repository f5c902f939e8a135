"""Less of a machine than a process needs: memory, time, open files. Works on running processes, by their number, and gives back what
was there before."""

import contextlib
import itertools
import os
import resource

# Control groups, version 2 and, where that has no controllers, version 1.
V2, V1 = "/sys/fs/cgroup", "/sys/fs/cgroup"
NUMBERS = itertools.count(1)
PERIOD_MICROS = 100_000


def has_controller(name):
    """2 or 1, by the version of control groups that has it here and may be written; 0 when none has."""
    with contextlib.suppress(OSError), open(os.path.join(V2, "cgroup.controllers"), encoding="ascii") as file:
        if name in file.read().split() and os.access(os.path.join(V2, "cgroup.subtree_control"), os.W_OK):
            return 2
    return 1 if os.access(os.path.join(V1, name, "cgroup.procs"), os.W_OK) else 0


class Group:
    """A control group for one controller, in which one process is while this is open."""

    def __init__(self, controller, pid):
        self.version, self.pid = has_controller(controller), pid
        if not self.version:
            raise OSError(f"there are no control groups for {controller}")
        self.root = V2 if self.version == 2 else os.path.join(V1, controller)
        self.path = os.path.join(self.root, f"berth-chaos-{os.getpid()}-{next(NUMBERS)}")

    def __enter__(self):
        os.mkdir(self.path)
        self.move(self.path)
        return self

    def __exit__(self, *_):
        # A process that has ended is in no group any more.
        with contextlib.suppress(OSError):
            self.move(self.root)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)

    def move(self, to):
        write(os.path.join(to, "cgroup.procs"), self.pid)

    def limit_memory(self, size):
        """Memory that the process has already does not count here, what it asks for from now on does."""
        if self.version == 2:
            with contextlib.suppress(OSError):
                write(os.path.join(self.path, "memory.swap.max"), 0)
            write(os.path.join(self.path, "memory.max"), size)
        else:
            write(os.path.join(self.path, "memory.limit_in_bytes"), size)

    def limit_time(self, share):
        """Of one processor."""
        quota = round(PERIOD_MICROS * share)
        if self.version == 2:
            write(os.path.join(self.path, "cpu.max"), f"{quota} {PERIOD_MICROS}")
        else:
            write(os.path.join(self.path, "cpu.cfs_period_us"), PERIOD_MICROS)
            write(os.path.join(self.path, "cpu.cfs_quota_us"), quota)


def write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value))


@contextlib.contextmanager
def limited(pid, what, value):
    """A resource limit (the soft one) of a running process, until the end or until the process ends."""
    soft, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (value, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, (soft, hard))


def seconds_waited():
    """For how long, since the machine was started, somebody has waited for a processor; None where the kernel does not tell."""
    try:
        with open("/proc/pressure/cpu", encoding="ascii") as file:
            return int(file.readline().rpartition("total=")[2]) / 1e6
    except (OSError, ValueError):
        return None
