"""What nodes keep their data on, and what may become of it: file systems of their own in loop-mounted images, which can be full,
and files whose bytes are damaged while their node is down. Knows nothing of clusters."""

import errno
import os
import random
import shutil
import subprocess

BALLAST = "ballast"
JOURNAL, STORE = "journal.redb", "store.redb"
# The one byte of a file that nothing but the other file guards: it says which of the last two commits is the newer one
# (ARCHITECTURE.md, Durability).
UNGUARDED_BYTE = 9


def can_mount():
    """Whether this user may, on this machine: root, with what makes file systems."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in ("mkfs.ext4", "mount", "umount", "losetup"))


def mount(place, mebibytes):
    """Makes a file system in an image that takes room only as it is used, and gives where it is mounted: at `place`."""
    if os.path.ismount(place):
        return place
    os.makedirs(place, exist_ok=True)
    image = f"{place}.image"
    with open(image, "wb") as file:
        file.truncate(mebibytes << 20)
    # Nothing is kept back for root, so that full is full for everybody.
    run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", image)
    run("mount", "-o", "loop", image, place)
    return place


def begin_to_unmount(place, keeps_image=False):
    """A process that does it: what was written goes to the image first, which nobody has to wait for."""
    then = "true" if keeps_image else 'rm "$0.image"'
    return subprocess.Popen(["sh", "-c", f'umount "$0" && {then}', place])  # pylint: disable=consider-using-with


def free_bytes(place):
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def fill(place, leave=0):
    """Takes all room but `leave` bytes, and gives how much that was."""
    path, taken = os.path.join(place, BALLAST), 0
    with open(path, "wb") as file:
        piece = 64 << 20
        while piece >= 4096:
            try:
                wanted = min(piece, free_bytes(place) - leave)
                if wanted <= 0:
                    break
                os.posix_fallocate(file.fileno(), taken, wanted)
                taken += wanted
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2
    return taken


def make_room(place):
    path = os.path.join(place, BALLAST)
    if os.path.exists(path):
        os.remove(path)


def cut_tail(path, share):
    """Cuts this share of a file off its end, and gives how many bytes are left."""
    kept = int(os.path.getsize(path) * (1 - share))
    with open(path, "r+b") as file:
        file.truncate(kept)
        os.fsync(file.fileno())
    return kept


def flip_bit(path, chance: random.Random):
    """Turns one bit of a file around, and says which."""
    at, bit = UNGUARDED_BYTE, chance.randrange(8)
    while at == UNGUARDED_BYTE:
        at = chance.randrange(os.path.getsize(path))
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
        os.fsync(file.fileno())
    return f"bit {bit} of byte {at} was {byte >> bit & 1}"


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr.strip()}")
