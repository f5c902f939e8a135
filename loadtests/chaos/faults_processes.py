"""Rows of the catalogue in which processes end, stand still, or are too slow."""

import asyncio

from chaos.isolation import ask_believer, believe
from chaos.scene import ALL, row

KILL = "kill -9; started again after 1 to 4 s"
TAKEN_OVER = "Others take over; it comes back with its disk and catches up."


@row(
    "owner-kill", "processes",
    made=KILL,
    outcome=TAKEN_OVER,
    nodes=1,
)
async def owner_kill(scene):
    """The owner of a busy shard dies."""
    await kill_one(scene, await scene.owner())


@row(
    "follower-kill", "processes",
    made=KILL,
    outcome="Nobody waits for it; it comes back and catches up.",
    nodes=1,
)
async def follower_kill(scene):
    """A node dies that does not own the busy shards."""
    await kill_one(scene, await scene.follower())


@row(
    "system-leader-kill", "processes",
    made=KILL,
    outcome=TAKEN_OVER,
    nodes=1,
)
async def system_leader_kill(scene):
    """The leader of the system shard dies."""
    await kill_one(scene, await scene.system_leader())


async def kill_one(scene, process):
    scene.begin()
    process.kill()
    await scene.hold(1, 4)
    process.start()
    scene.end()


@row(
    "gateway-kill", "processes",
    made=KILL,
    outcome="Other gateways serve; what it had under way is in doubt, and never done twice.",
    gateways=1,
)
async def gateway_kill(scene):
    """A gateway dies."""
    await kill_one(scene, scene.gateway())


@row(
    "gateway-stop", "processes",
    made="SIGTERM; started again when it has ended",
    outcome="It answers what it has taken on, and ends with status 0.",
    gateways=1,
)
async def gateway_stop(scene):
    """A gateway is told to end."""
    gateway = scene.gateway()
    scene.begin()
    gateway.leave()
    if not await scene.until(lambda: not gateway.is_running(), 60):
        scene.wrong("grace", f"{gateway.name} has not ended 60 s after SIGTERM")
        gateway.kill()
    elif gateway.ended_by_itself():
        scene.wrong("grace", f"{gateway.name} has ended with {gateway.ended_by_itself()} after SIGTERM")
    gateway.start()
    scene.end()


@row(
    "all-gateways-kill", "processes",
    made="kill -9 of all at once; started again",
    outcome="Nobody is served; then everybody, with all that was acknowledged.",
    gateways=ALL, least=0.0, mixes=False,
)
async def all_gateways_kill(scene):
    """All gateways die."""
    await kill_many(scene, scene.cluster.gateways)


@row(
    "all-kill", "processes",
    made="kill -9 of everything at once; started again",
    outcome="All comes back from the disks.",
    nodes=ALL, gateways=ALL, least=0.0, mixes=False,
)
async def all_kill(scene):
    """All nodes and gateways die at once."""
    await kill_many(scene, scene.cluster.processes)


@row(
    "majority-kill", "processes",
    made="kill -9 of more than half of the nodes; started again after 2 to 5 s",
    outcome="Requests are refused with 503 or are in doubt; nothing that was acknowledged is lost.",
    nodes=ALL, least=0.0, mixes=False,
)
async def majority_kill(scene):
    """Most nodes die."""
    await kill_many(scene, scene.some_nodes(len(scene.cluster.nodes) // 2 + 1), 2, 5)


async def kill_many(scene, processes, least=0.5, most=2):
    scene.begin()
    await scene.trial.killed(processes)
    await scene.hold(least, most)
    for process in scene.chance.sample(processes, len(processes)):
        process.start()
    scene.end()


@row(
    "crash-loop", "processes",
    made="kill -9 four times, each 0.05 to 1.5 s after a start",
    outcome=TAKEN_OVER,
    nodes=1,
)
async def crash_loop(scene):
    """A node dies again and again while it starts."""
    node = scene.some_node()
    scene.begin()
    for _ in range(4):
        node.kill()
        node.start()
        await scene.hold(0.05, 1.5)
    node.kill()
    node.start()
    scene.end()


@row(
    "node-pause-short", "processes",
    made="SIGSTOP for 0.3 to 2 s, then SIGCONT",
    outcome="Others may take over; what the node believes when it goes on reaches nobody.",
    nodes=1,
)
async def node_pause_short(scene):
    """An owner stands still for a moment."""
    await pause(scene, await scene.owner(), 0.3, 2)


@row(
    "node-pause-long", "processes",
    made="SIGSTOP for 5 to 9 s, longer than `replace_after`, then SIGCONT",
    outcome="Others take over and replace it; it finds out and begins anew.",
    nodes=1,
)
async def node_pause_long(scene):
    """An owner stands still for long."""
    await pause(scene, await scene.owner(), 5, 9)


@row(
    "gateway-pause-short", "processes",
    made="SIGSTOP for 0.3 to 2 s, then SIGCONT",
    outcome="What it was asked is answered late, and right.",
    gateways=1,
)
async def gateway_pause_short(scene):
    """A gateway stands still for a moment."""
    await pause(scene, scene.gateway(), 0.3, 2)


@row(
    "gateway-pause-long", "processes",
    made="SIGSTOP for 5 to 9 s, then SIGCONT",
    outcome="What it was asked is past its deadline; nothing of it is done after an answer that said otherwise.",
    gateways=1,
)
async def gateway_pause_long(scene):
    """A gateway stands still for longer than deadlines."""
    await pause(scene, scene.gateway(), 5, 9)


async def pause(scene, process, least, most):
    scene.begin()
    process.pause()
    try:
        await scene.hold(least, most)
    finally:
        process.resume()
    scene.end()


@row(
    "former-owner", "processes",
    made=(
        "SIGSTOP of an owner and of a gateway that believes in it, for 1 to 5 s; requests wait in the gateway's sockets when"
        " both go on"
    ),
    outcome="The former owner answers none of them from what it knew.",
    nodes=1, gateways=1, least=0.3, mixes=False,
)
async def former_owner(scene):
    """An owner and a gateway stand still while others take over."""
    owners = await scene.cluster.every_shard_owned()
    victim, gateway = await scene.owner(), scene.gateway()
    owned = {shard for shard, owner in owners.items() if owner is victim}
    believer = await believe(scene.load, gateway)
    scene.begin()
    victim.pause()
    gateway.pause()
    try:
        await scene.hold(1, 4)
        late = await ask_believer(scene.load, believer, owned)
    finally:
        for process in scene.chance.sample((victim, gateway), 2):
            process.resume()
    scene.end()
    late += await ask_believer(scene.load, believer, owned)
    await asyncio.gather(*late)


@row(
    "all-pause", "processes",
    made="SIGSTOP of all nodes for 1 to 4 s, SIGCONT one after the other",
    outcome="No lease outlives the time that nobody has felt.",
    nodes=ALL, least=0.0, mixes=False,
)
async def all_pause(scene):
    """All nodes stand still at once."""
    nodes = scene.chance.sample(scene.cluster.nodes, len(scene.cluster.nodes))
    scene.begin()
    for node in nodes:
        node.pause()
    try:
        await scene.hold(1, 4)
    finally:
        for node in nodes:
            node.resume()
            await scene.hold(0, 0.3)
    scene.end()


@row(
    "stutter", "processes",
    made="SIGSTOP for 30 to 250 ms, SIGCONT for 20 ms, for 6 s",
    outcome="Slow, perhaps with another owner, and right.",
    nodes=1,
)
async def stutter(scene):
    """An owner runs only now and then."""
    node = await scene.owner()
    scene.begin()
    try:
        for _ in range(40):
            node.pause()
            await scene.hold(0.03, 0.25)
            node.resume()
            await asyncio.sleep(0.02)
    finally:
        node.resume()
    scene.end()
