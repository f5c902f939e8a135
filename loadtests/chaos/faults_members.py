"""Rows of the catalogue in which members come and go, while something else goes wrong. In the end there are as many as before."""

import asyncio

from chaos import shim
from chaos.scene import row

MOVED = "Everything moves, and nobody notices."


@row(
    "join-leave", "members",
    made="an empty node comes; when it is ready, another one leaves by SIGTERM",
    outcome=MOVED,
    least=0.9, mixes=False,
)
async def join_leave(scene):
    """A node comes and another one goes."""
    scene.begin()
    await scene.trial.until_ready(await scene.trial.come())
    await scene.trial.leave(scene.some_node())
    scene.end()


@row(
    "rolling", "members",
    made="every node is replaced by an empty one, one after the other",
    outcome=MOVED,
    least=0.9, mixes=False,
)
async def rolling(scene):
    """All nodes are replaced."""
    scene.begin()
    for node in list(scene.cluster.nodes):
        await scene.trial.until_ready(await scene.trial.come())
        await scene.trial.leave(node)
    scene.end()


@row(
    "rolling-gateways", "members",
    made="SIGTERM and a new start of every gateway, one after the other",
    outcome="What they have taken on is answered.",
    gateways=1, mixes=False,
)
async def rolling_gateways(scene):
    """All gateways are replaced."""
    scene.begin()
    for gateway in scene.cluster.gateways:
        await scene.trial.leave_gateway(gateway)
        gateway.start()
        await scene.cluster.until(f"{gateway.name} is ready", lambda g=gateway: scene.cluster.is_ready(g))
    scene.end()


@row(
    "joiner-kill", "members",
    made="an empty node comes; kill -9 of it twice while it joins; then another node leaves",
    outcome="It joins in the end.",
    mixes=False,
)
async def joiner_kill(scene):
    """A node dies while it joins."""
    scene.begin()
    node = await scene.trial.come()
    for _ in range(2):
        await scene.hold(0.2, 3)
        node.kill()
        node.start()
    await scene.trial.until_ready(node)
    await scene.trial.leave(scene.some_node())
    scene.end()


@row(
    "join-and-owner-kill", "members",
    made="an empty node comes; kill -9 of an owner meanwhile, which comes back; then another node leaves",
    outcome="Moves go on or turn back.",
    nodes=1, mixes=False,
)
async def join_and_owner_kill(scene):
    """An owner dies while another node joins."""
    victim = await scene.owner()
    scene.begin()
    node = await scene.trial.come()
    await scene.hold(0.5, 3)
    victim.kill()
    await scene.hold(1, 3)
    victim.start()
    await scene.trial.until_ready(node)
    await scene.trial.until_settled()
    await scene.trial.leave(scene.some_node())
    scene.end()


@row(
    "leaver-kill", "members",
    made="a node comes and another is told to leave; kill -9 of that one 0.1 to 2 s later; it comes back, and leaves again",
    outcome="It is a member again, and then it is none.",
    nodes=1, mixes=False,
)
async def leaver_kill(scene):
    """A node dies while it leaves."""
    scene.begin()
    await scene.trial.until_ready(await scene.trial.come())
    leaver = scene.some_node()
    leaver.leave()
    await scene.hold(0.1, 2)
    if leaver.is_running():
        leaver.kill()
        leaver.start()
        await scene.trial.until_settled()
        await scene.trial.leave(leaver)
    else:
        await scene.trial.gone(leaver)
    scene.end()


@row(
    "leave-and-owner-kill", "members",
    made="a node comes and another leaves; kill -9 of an owner meanwhile, which comes back",
    outcome="Hand-offs are finished by others.",
    nodes=1, mixes=False,
)
async def leave_and_owner_kill(scene):
    """An owner dies while another node leaves."""
    scene.begin()
    await scene.trial.until_ready(await scene.trial.come())
    leaver = scene.some_node()
    victim = scene.some_node()
    leaving = asyncio.create_task(scene.trial.leave(leaver))
    await scene.hold(0.1, 2)
    victim.kill()
    await scene.hold(0.5, 2)
    victim.start()
    await leaving
    scene.end()


@row(
    "leave-on-a-slow-disk", "members",
    made="a node comes and another leaves, whose fsyncs take 50 ms longer (`faults.c`)",
    outcome=MOVED,
    needs=('cc',), mixes=False,
)
async def leave_on_a_slow_disk(scene):
    """A node leaves whose disk is slow."""
    scene.begin()
    await scene.trial.until_ready(await scene.trial.come())
    leaver = scene.some_node()
    leaver.control.add(shim.DELAY, shim.SYNC, seconds=0.05)
    await scene.trial.leave(leaver)
    scene.end()


@row(
    "join-behind-a-cut", "members",
    made="an empty node comes that one of the others does not reach, for 3 to 6 s; then another leaves",
    outcome="It joins in the end.",
    nodes=1, mixes=False,
)
async def join_behind_a_cut(scene):
    """A node joins that not everybody reaches."""
    node, peer = await scene.trial.come(), scene.some_node()
    scene.begin()
    scene.cluster.cut(node, peer)
    try:
        await scene.hold(3, 6)
    finally:
        scene.cluster.heal(node, peer)
    await scene.trial.until_ready(node)
    await scene.trial.leave(scene.some_node())
    scene.end()
