"""Rows of the catalogue in which disks are gone, full, slow, broken, damaged, or somebody else's."""

import asyncio
import errno
import os
import shutil

from chaos import disks, shim
from chaos.cluster import Stuck, cluster_settings, shown_id
from chaos.scene import row

SHIM = ("cc",)
ENDS = "The node ends with one clear line, is started again and catches up; others take over meanwhile."
RECOVERS = "The node is started again on what is there, and catches up: a kill leaves nothing that it must refuse."
REFUSES = "The node takes its disk and is right, or refuses it with a clear line and comes back with an empty one."
FAULT_SECONDS_MAX = 15


@row(
    "owner-wipe", "disks",
    made="kill -9; its folder is removed; an empty node starts at its address after 1 to 5 s",
    outcome="Others take over; the empty node is a new one.",
    nodes=1,
)
async def owner_wipe(scene):
    """An owner dies and its disk is gone."""
    node = await scene.owner()
    scene.begin()
    node.kill()
    await scene.hold(1, 5)
    await scene.come_back_empty(node)
    scene.end()


@row(
    "wipe-elsewhere", "disks",
    made="kill -9; its folder is removed; an empty node starts at another address after 1 to 5 s",
    outcome="Others take over, and the new node has what the dead one had.",
    nodes=1,
)
async def wipe_elsewhere(scene):
    """A node dies for good, and another one comes."""
    node = scene.some_node()
    scene.begin()
    node.kill()
    await scene.hold(1, 5)
    await scene.trial.gone(node)
    await scene.trial.come()
    scene.end()


@row(
    "disk-full", "disks",
    made=(
        "its file system (loop-mounted ext4) is filled to the last block; after 15 s, or when it has ended, it is started "
        "once more while full; then there is room again"
    ),
    outcome="It serves while what it has is enough, else it ends with one clear line; with room it catches up.",
    nodes=1, needs=('mount',),
)
async def disk_full(scene):
    """A node's disk is full, journal and store alike."""
    node = await scene.owner()
    scene.begin()
    scene.found(f"{disks.fill(node.volume) >> 20} MiB taken")
    try:
        if not await scene.until_ended(node, FAULT_SECONDS_MAX):
            scene.found("lived on")
        node.kill()
        node.start()
        node.doom()
        await scene.until_ended(node, 4)
    finally:
        disks.make_room(node.volume)
    if node.is_running():
        node.is_doomed = False
    else:
        await scene.come_back(node)
    scene.end()


async def break_disk(scene, action, calls, files, error=errno.EIO, passes=60):
    """A node's calls that go to these files fail from a random one on, until it ends; which it must once one has failed."""
    node = await scene.owner() if scene.chance.random() < 0.5 else scene.some_node()
    node.doom()
    scene.begin()
    rule = node.control.add(action, calls, files, error, passes=scene.chance.randrange(passes))
    has_ended = await scene.until_ended(node, FAULT_SECONDS_MAX)
    hits = node.control.remove(rule)
    scene.acted(hits, "calls hit")
    if hits and not has_ended:
        scene.wrong("lived-on", f"{node.name} goes on after {hits} calls that failed: {node.log_tail()}")
    node.kill()
    await scene.hold(0.2, 2)
    await scene.come_back(node)
    scene.end()


@row(
    "journal-full", "disks",
    made="ENOSPC from writes to the journal (`faults.c`)",
    outcome=ENDS,
    nodes=1, needs=SHIM,
)
async def journal_full(scene):
    """There is no room for the journal."""
    await break_disk(scene, shim.FAIL, shim.WRITE | shim.RESIZE, shim.JOURNAL, errno.ENOSPC)


@row(
    "store-full", "disks",
    made="ENOSPC from writes to the store (`faults.c`)",
    outcome=ENDS,
    nodes=1, needs=SHIM,
)
async def store_full(scene):
    """There is no room for the store."""
    await break_disk(scene, shim.FAIL, shim.WRITE | shim.RESIZE, shim.STORE, errno.ENOSPC, passes=20)


@row(
    "journal-write-error", "disks",
    made="EIO from writes to the journal (`faults.c`)",
    outcome=ENDS,
    nodes=1, needs=SHIM,
)
async def journal_write_error(scene):
    """The journal cannot be written."""
    await break_disk(scene, shim.FAIL, shim.WRITE, shim.JOURNAL)


@row(
    "journal-sync-error", "disks",
    made="EIO from fsync of the journal (`faults.c`)",
    outcome=ENDS,
    nodes=1, needs=SHIM,
)
async def journal_sync_error(scene):
    """The journal cannot be made durable."""
    await break_disk(scene, shim.FAIL, shim.SYNC, shim.JOURNAL)


@row(
    "store-write-error", "disks",
    made="EIO from writes to the store (`faults.c`)",
    outcome=ENDS,
    nodes=1, needs=SHIM,
)
async def store_write_error(scene):
    """The store cannot be written."""
    await break_disk(scene, shim.FAIL, shim.WRITE, shim.STORE, passes=20)


@row(
    "store-sync-error", "disks",
    made="EIO from fsync of the store (`faults.c`)",
    outcome=ENDS,
    nodes=1, needs=SHIM,
)
async def store_sync_error(scene):
    """The store cannot be made durable."""
    await break_disk(scene, shim.FAIL, shim.SYNC, shim.STORE, passes=2)


@row(
    "start-read-error", "disks",
    made="kill -9; EIO from reads of journal or store while it starts (`faults.c`); then started without",
    outcome=ENDS,
    nodes=1, needs=SHIM,
)
async def start_read_error(scene):
    """What is on disk cannot be read at a start."""
    node = scene.some_node()
    scene.begin()
    node.kill()
    files = scene.chance.choice((shim.JOURNAL, shim.STORE))
    rule = node.control.add(shim.FAIL, shim.READ, files, passes=scene.chance.randrange(8))
    node.start()
    node.doom()
    has_ended = await scene.until_ended(node, FAULT_SECONDS_MAX)
    hits = node.control.remove(rule)
    scene.acted(hits, "reads failed")
    if hits and not has_ended:
        scene.wrong("lived-on", f"{node.name} goes on after a start in which {hits} reads failed: {node.log_tail()}")
    node.kill()
    await scene.come_back(node)
    scene.end()


@row(
    "torn-journal", "disks",
    made="killed in a write to the journal, half of which is done (`faults.c`)",
    outcome=RECOVERS,
    nodes=1, needs=SHIM,
)
async def torn_journal(scene):
    """A node dies in the middle of a write to the journal."""
    await break_disk(scene, shim.DIE_HALFWAY, shim.WRITE, shim.JOURNAL)


@row(
    "torn-store", "disks",
    made="killed in a write to the store, half of which is done (`faults.c`)",
    outcome=RECOVERS,
    nodes=1, needs=SHIM,
)
async def torn_store(scene):
    """A node dies in the middle of a write to the store."""
    await break_disk(scene, shim.DIE_HALFWAY, shim.WRITE, shim.STORE, passes=20)


@row(
    "killed-before-sync", "disks",
    made="killed just before an fsync of journal or store (`faults.c`)",
    outcome=RECOVERS,
    nodes=1, needs=SHIM,
)
async def killed_before_sync(scene):
    """A node dies just before what it wrote is durable."""
    files = scene.chance.choice((shim.JOURNAL, shim.STORE))
    await break_disk(scene, shim.DIE_BEFORE, shim.SYNC, files, passes=2 if files == shim.STORE else 60)


@row(
    "killed-after-sync", "disks",
    made="killed just after an fsync of journal or store (`faults.c`)",
    outcome=RECOVERS,
    nodes=1, needs=SHIM,
)
async def killed_after_sync(scene):
    """A node dies when what it wrote is durable and nobody knows it."""
    files = scene.chance.choice((shim.JOURNAL, shim.STORE))
    await break_disk(scene, shim.DIE_AFTER, shim.SYNC, files, passes=2 if files == shim.STORE else 60)


@row(
    "slow-disk", "disks",
    made="every fsync of an owner's takes 20 to 200 ms longer, for 5 s (`faults.c`)",
    outcome="Slower at most, and right.",
    nodes=1, needs=SHIM,
)
async def slow_disk(scene):
    """An owner's disk is slow."""
    await slow_down(scene, [await scene.owner()], scene.chance.uniform(0.02, 0.2))


@row(
    "slow-disks", "disks",
    made="every fsync of all nodes takes 10 to 60 ms longer, for 5 s (`faults.c`)",
    outcome="Slower, and right; what is too much is refused.",
    needs=SHIM, least=0.4, mixes=False,
)
async def slow_disks(scene):
    """All disks are slow."""
    await slow_down(scene, scene.cluster.nodes, scene.chance.uniform(0.01, 0.06))


async def slow_down(scene, nodes, seconds):
    scene.begin()
    rules = [(node, node.control.add(shim.DELAY, shim.SYNC, seconds=seconds)) for node in nodes]
    await scene.hold(4, 6)
    hits = sum(node.control.remove(rule) for node, rule in rules)
    scene.acted(hits, f"fsyncs {1000 * seconds:.0f} ms slower")
    scene.end()


@row(
    "stuck-disk", "disks",
    made="no fsync of an owner's ends, for 3 to 8 s (`faults.c`)",
    outcome="Served without its disk, or by others; then it goes on.",
    nodes=1, needs=SHIM, least=0.3,
)
async def stuck_disk(scene):
    """An owner's disk does not answer."""
    node = await scene.owner()
    scene.begin()
    rule = node.control.add(shim.HOLD, shim.SYNC)
    await scene.hold(3, 8)
    scene.acted(node.control.remove(rule), "fsyncs held up")
    scene.end()


# ---- Damage while the node is down


async def damage(scene, change):
    """kill -9, some damage, and a start on what is left."""
    node = scene.some_node()
    scene.begin()
    node.kill()
    scene.found(change(node))
    await scene.come_back(node, may_refuse=True)
    scene.end()


def cut_tail(scene, name):
    def change(node):
        path = os.path.join(node.data, name)
        before, share = os.path.getsize(path), scene.chance.choice((0.001, 0.01, 0.1, 0.5, 1))
        return f"{disks.cut_tail(path, share)} of {before} bytes of {name} are left"

    return change


@row(
    "short-journal", "disks",
    made="kill -9; 0.1 to 100 % are cut off the end of the journal",
    outcome=REFUSES,
    nodes=1,
)
async def short_journal(scene):
    """A journal has lost its end."""
    await damage(scene, cut_tail(scene, disks.JOURNAL))


@row(
    "short-store", "disks",
    made="kill -9; 0.1 to 100 % are cut off the end of the store",
    outcome=REFUSES,
    nodes=1,
)
async def short_store(scene):
    """A store has lost its end."""
    await damage(scene, cut_tail(scene, disks.STORE))


def flip_bits(scene, name):
    def change(node):
        count = scene.chance.choice((1, 1, 8, 64))
        told = [disks.flip_bit(os.path.join(node.data, name), scene.chance) for _ in range(count)]
        return f"{count} bits of {name} flipped: {told[0]}"

    return change


@row(
    "rotten-journal", "disks",
    made="kill -9; 1 to 64 random bits of the journal flip",
    outcome=REFUSES,
    nodes=1,
)
async def rotten_journal(scene):
    """Bits of a journal have flipped."""
    await damage(scene, flip_bits(scene, disks.JOURNAL))


@row(
    "rotten-store", "disks",
    made="kill -9; 1 to 64 random bits of the store flip",
    outcome=REFUSES,
    nodes=1,
)
async def rotten_store(scene):
    """Bits of a store have flipped."""
    await damage(scene, flip_bits(scene, disks.STORE))


async def must_refuse_then_empty(scene, change):
    """kill -9 and a disk on which the node must not start; then it comes back with an empty one."""
    node = scene.some_node()
    scene.begin()
    node.kill()
    scene.found(change(node))
    node.start()
    await scene.must_refuse(node)
    node.kill()
    await scene.come_back_empty(node)
    scene.end()


@row(
    "lost-file", "disks",
    made="kill -9; journal, store or identity.json is removed",
    outcome="It refuses with a clear line, and comes back with an empty disk.",
    nodes=1,
)
async def lost_file(scene):
    """One file of a node is gone."""

    def change(node):
        name = scene.chance.choice((disks.JOURNAL, disks.STORE, "identity.json"))
        os.remove(os.path.join(node.data, name))
        return f"{name} is gone"

    await must_refuse_then_empty(scene, change)


@row(
    "empty-files", "disks",
    made="kill -9; 100 % are cut off journal and store, which are still there",
    outcome="It refuses with a clear line, and comes back with an empty disk: what it has promised to others went with its files.",
    nodes=1,
)
async def empty_files(scene):
    """The files of a node are there and have nothing in them."""

    def change(node):
        for name in (disks.JOURNAL, disks.STORE):
            disks.cut_tail(os.path.join(node.data, name), 1)
        return "journal and store are empty"

    await must_refuse_then_empty(scene, change)


# ---- Somebody else's disk


@row(
    "foreign-disk", "disks",
    made=(
        "kill -9; at its address a cluster of one node is made, and that one's disk is left in its place; after 4 s its own "
        "disk is back"
    ),
    outcome="Nobody takes it for a member, no answer is of the other cluster; with its own disk it catches up.",
    nodes=1, mixes=False,
)
async def foreign_disk(scene):
    """A node comes back with the disk of another cluster."""
    node = scene.some_node()
    ours, kept, settings = node.identity(), f"{node.data}.kept", dict(node.settings)
    scene.begin()
    node.kill()
    os.rename(node.data, kept)
    node.settings |= cluster_settings(scene.cluster.shape, [node.peer])
    node.start()
    node.doom()
    has_begun = await scene.until(lambda: (node.identity() or {}).get("cluster") not in (None, ours["cluster"]), 20)
    node.kill()
    if not has_begun:
        raise Stuck(f"{node.name} began no cluster of its own: {node.log_tail()}")
    node.settings = settings
    node.start()
    node.doom()
    await scene.hold(3, 5)
    scene.found(f"ended with {node.ended_by_itself()}" if not node.is_running() else "runs, and is no member")
    members, foreign = (await scene.trial.placement()).members, shown_id(node.identity()["node"])
    if foreign in members:
        scene.wrong("foreign-member", f"{foreign} of another cluster is a member: {sorted(members)}")
    node.kill()
    shutil.rmtree(node.data)
    os.rename(kept, node.data)
    await scene.come_back(node)
    scene.end()


@row(
    "copied-disk", "disks",
    made="kill -9; its folder is copied; it is started again, and a second node on the copy, at another address",
    outcome="The second one refuses with a clear line.",
    nodes=1, mixes=False,
)
async def copied_disk(scene):
    """A disk is copied, and a second node is started on it."""
    node = scene.some_node()
    second = await scene.trial.new_node()
    scene.begin()
    node.kill()
    await asyncio.to_thread(shutil.copytree, node.data, second.data)
    scene.found(f"copied to {second.name}")
    node.start()
    second.start()
    await scene.must_refuse(second)
    await scene.trial.gone(second)
    scene.end()


@row(
    "shared-disk", "disks",
    made="a second process is started on the folder of a running node",
    outcome="The second one refuses with a clear line; the first goes on.",
    mixes=False,
)
async def shared_disk(scene):
    """Two processes are started on one folder."""
    node = scene.some_node()
    second = await scene.trial.new_node()
    second.settings["BERTH_DATA_DIR"] = node.data
    scene.begin()
    second.start()
    await scene.must_refuse(second)
    await scene.trial.gone(second)
    scene.must_live(node)
    scene.end()
