"""Rows of the catalogue in which a machine gives too little, or tells the wrong time."""

import resource

from chaos import limits
from chaos.scene import row

SHIM = ("cc",)


@row(
    "little-memory", "limits",
    made="kill -9; started in a control group that has 6 to 24 MiB, for 8 s; then started without",
    outcome="The kernel kills it, or it serves slowly; it never answers wrong, and is as before when there is memory.",
    nodes=1, needs=('memory',),
)
async def little_memory(scene):
    """A node starts where there is too little memory."""
    node = await scene.owner()
    scene.begin()
    node.kill()
    node.start()
    node.doom()
    with limits.Group("memory", node.child.pid) as group:
        megabytes = scene.chance.randrange(6, 24)
        group.limit_memory(megabytes << 20)
        scene.found(f"{megabytes} MiB")
        if not await scene.until_ended(node, 8):
            scene.found("lived on")
        node.kill()
    await scene.come_back(node)
    scene.end()


@row(
    "node-without-files", "limits",
    made="RLIMIT_NOFILE at nothing more, for 5 s, and kill -9 of a gateway, which comes back",
    outcome="It takes no new connections, and serves those that it has; then it is as before.",
    nodes=1, gateways=1, least=0.3, mixes=False,
)
async def node_without_files(scene):
    """A node may open no more files and connections."""
    node, gateway = await scene.owner(), scene.gateway()
    scene.begin()
    with limits.limited(node.child.pid, resource.RLIMIT_NOFILE, 3):
        gateway.kill()
        gateway.start()
        await scene.hold(4, 6)
    scene.must_live(node)
    scene.end()


@row(
    "gateway-without-files", "limits",
    made="RLIMIT_NOFILE at nothing more, for 4 s, and its clients hang up",
    outcome="It takes no new connections, and lives; then it is as before.",
    gateways=1,
)
async def gateway_without_files(scene):
    """A gateway may open no more connections."""
    gateway = scene.gateway()
    scene.begin()
    with limits.limited(gateway.child.pid, resource.RLIMIT_NOFILE, 3):
        for pool in scene.load.pools:
            pool.close()
        await scene.hold(3, 5)
    scene.must_live(gateway)
    scene.end()


@row(
    "little-time", "limits",
    made="a control group that gives an owner 5 to 25 % of a processor, for 5 s",
    outcome="Slower, perhaps with another owner, and right.",
    nodes=1, needs=('cpu',), least=0.3,
)
async def little_time(scene):
    """A node gets too little of the processor."""
    node = await scene.owner()
    scene.begin()
    with limits.Group("cpu", node.child.pid) as group:
        group.limit_time(scene.chance.uniform(0.05, 0.25))
        await scene.hold(4, 6)
    scene.end()


CLOCKS_RIGHT = "Times of events still increase, no key is forgotten early, leases do not follow the wall clock."


@row(
    "clock-ahead", "clocks",
    made="its wall clock jumps 1 to 20 s ahead, and back after 4 s (`faults.c`)",
    outcome=CLOCKS_RIGHT,
    needs=SHIM,
)
async def clock_ahead(scene):
    """An owner's clock jumps ahead."""
    await jump(scene, await scene.owner(), scene.chance.uniform(1, 20))


@row(
    "clock-behind", "clocks",
    made="its wall clock jumps 1 s to an hour back, and ahead again after 4 s (`faults.c`)",
    outcome=CLOCKS_RIGHT,
    needs=SHIM,
)
async def clock_behind(scene):
    """An owner's clock jumps back."""
    await jump(scene, await scene.owner(), -scene.chance.choice((1, 20, 90, 3600)))


async def jump(scene, process, seconds):
    scene.begin()
    process.control.jump(seconds)
    scene.found(f"{seconds:+.1f} s")
    await scene.hold(3, 5)
    process.control.jump(0)
    scene.end()


@row(
    "clock-here-and-there", "clocks",
    made="its wall clock jumps by up to 20 s either way, ten times (`faults.c`)",
    outcome=CLOCKS_RIGHT,
    needs=SHIM,
)
async def clock_here_and_there(scene):
    """A node's clock does not come to rest."""
    node = await scene.owner()
    scene.begin()
    for _ in range(10):
        node.control.jump(scene.chance.uniform(-20, 20))
        await scene.hold(0.1, 0.8)
    node.control.jump(0)
    scene.end()


@row(
    "clock-and-failover", "clocks",
    made="the wall clocks of all others are up to 20 s off, each another way (`faults.c`), and an owner is killed with kill -9",
    outcome=CLOCKS_RIGHT,
    nodes=1, needs=SHIM, mixes=False,
)
async def clock_and_failover(scene):
    """Nodes whose clocks are wrong take over."""
    node = await scene.owner()
    others = [other for other in scene.free_nodes() if other is not node]
    scene.begin()
    for other in others:
        other.control.jump(scene.chance.uniform(-20, 20))
    node.kill()
    await scene.hold(2, 4)
    for other in others:
        other.control.jump(0)
    node.start()
    scene.end()


@row(
    "clock-far-ahead", "clocks",
    made="a node's wall clock is an hour ahead while an owner dies with kill -9 (`faults.c`)",
    outcome=(
        "A shard may take over that time; then commands without a client's key are refused there, and nothing is executed "
        "twice."
    ),
    nodes=1, needs=SHIM, mixes=False, least=0.0, spoils=True,
)
async def clock_far_ahead(scene):
    """A node takes over whose clock is an hour ahead."""
    node = await scene.owner()
    other = scene.some_node()
    scene.begin()
    other.control.jump(3600)
    node.kill()
    await scene.hold(3, 5)
    node.start()
    await scene.hold(2, 3)
    other.control.jump(0)
    scene.end()


@row(
    "gateway-clock", "clocks",
    made="a gateway's wall clock is up to 20 s off, for 4 s (`faults.c`)",
    outcome="Keys that it makes are of another time, and good.",
    needs=SHIM,
)
async def gateway_clock(scene):
    """A gateway's clock is off."""
    await jump(scene, scene.gateway(), scene.chance.choice((-1, 1)) * scene.chance.uniform(1, 20))
