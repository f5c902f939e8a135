"""Rows of the catalogue in which links carry nothing, too little, or not all. Needs network namespaces."""

import contextlib

from chaos.scene import ALL, row

CUT = "packets vanish without a word, for 2 to 7 s"
TAKEN_OVER = "Others take over, and the former owner answers nobody from what it knew."


@contextlib.contextmanager
def cut(scene, ways):
    """While this is open nothing goes these ways, which are pairs of processes: from one to another."""
    network = scene.cluster.network
    scene.begin()
    for at, to in ways:
        network.cut_way(at.host, to.host)
    try:
        yield
    finally:
        for at, to in ways:
            network.heal_way(at.host, to.host)
        scene.end()


def both(links):
    return [way for one, other in links for way in ((one, other), (other, one))]


@row(
    "owner-from-peers", "links",
    made=f"{CUT}, between an owner and all other nodes",
    outcome=TAKEN_OVER,
    nodes=1,
)
async def owner_from_peers(scene):
    """An owner is reached by gateways, and by no node."""
    node = await scene.owner()
    with cut(scene, both((node, peer) for peer in scene.others(node))):
        await scene.hold(2, 7)


@row(
    "node-alone", "links",
    made=f"{CUT}, between a node and everybody",
    outcome=TAKEN_OVER,
    nodes=1,
)
async def node_alone(scene):
    """A node is reached by nobody."""
    node = await scene.owner()
    with cut(scene, both((node, other) for other in [*scene.others(node), *scene.cluster.gateways])):
        await scene.hold(2, 7)


@row(
    "deaf-owner", "links",
    made=f"{CUT}, from all other nodes to an owner; what it sends arrives",
    outcome=TAKEN_OVER,
    nodes=1,
)
async def deaf_owner(scene):
    """An owner is heard and hears nothing."""
    node = await scene.owner()
    with cut(scene, [(peer, node) for peer in scene.others(node)]):
        await scene.hold(2, 7)


@row(
    "mute-owner", "links",
    made=f"{CUT}, from an owner to all other nodes; what they send arrives",
    outcome=TAKEN_OVER,
    nodes=1,
)
async def mute_owner(scene):
    """An owner hears and is not heard."""
    node = await scene.owner()
    with cut(scene, [(node, peer) for peer in scene.others(node)]):
        await scene.hold(2, 7)


@row(
    "one-link", "links",
    made=f"{CUT}, between an owner and one other node",
    outcome="The third one keeps both; nobody is replaced.",
    nodes=1,
)
async def one_link(scene):
    """Two nodes do not reach each other, and all others do."""
    node = await scene.owner()
    with cut(scene, both([(node, scene.chance.choice(scene.others(node)))])):
        await scene.hold(2, 7)


@row(
    "gateway-from-owner", "links",
    made=f"{CUT}, between a gateway and an owner",
    outcome="Requests through this gateway to that owner fail or are in doubt; all others are served.",
    gateways=1,
)
async def gateway_from_owner(scene):
    """A gateway does not reach an owner."""
    gateway, node = scene.gateway(), await scene.owner()
    with cut(scene, both([(gateway, node)])):
        await scene.hold(2, 7)


@row(
    "gateway-alone", "links",
    made=f"{CUT}, between a gateway and all nodes",
    outcome="It answers 503 or 504; others serve.",
    gateways=1,
)
async def gateway_alone(scene):
    """A gateway reaches no node."""
    gateway = scene.gateway()
    with cut(scene, both((gateway, node) for node in scene.cluster.nodes)):
        await scene.hold(2, 7)


@row(
    "stale-half", "links",
    made=f"{CUT}, between a minority of the nodes with one gateway, and all others",
    outcome="The majority serves; on the other side nothing is acknowledged or read.",
    nodes=1, gateways=1, least=0.3, mixes=False,
)
async def stale_half(scene):
    """A minority of the nodes has a gateway for itself, whose clients go on asking."""
    minority = [await scene.owner(), *scene.some_nodes((len(scene.cluster.nodes) - 1) // 2 - 1), scene.gateway()]
    others = [process for process in scene.cluster.processes if process not in minority]
    with cut(scene, both((one, other) for one in minority for other in others)):
        await scene.hold(3, 8)


@row(
    "nobody-together", "links",
    made=f"{CUT}, between all nodes",
    outcome="Nobody acknowledges anything; then all goes on.",
    nodes=ALL, least=0.0, mixes=False,
)
async def nobody_together(scene):
    """No node reaches another one."""
    nodes = scene.cluster.nodes
    with cut(scene, [(one, other) for one in nodes for other in nodes if one is not other]):
        await scene.hold(2, 5)


@row(
    "flapping-link", "links",
    made="packets vanish for 0.2 to 1.2 s, six times, between an owner and all other nodes",
    outcome="Right, whoever owns it.",
    nodes=1,
)
async def flapping_link(scene):
    """An owner's links come and go."""
    node = await scene.owner()
    for _ in range(6):
        with cut(scene, both((node, peer) for peer in scene.others(node))):
            await scene.hold(0.2, 1.2)
        await scene.hold(0.1, 0.8)
    scene.end()


@row(
    "ring", "links",
    made=f"{CUT}, to the next node in a ring, one way",
    outcome="Right, served or not.",
    nodes=ALL, least=0.0, mixes=False,
)
async def ring(scene):
    """Every node is deaf to the one before it."""
    nodes = scene.chance.sample(scene.cluster.nodes, len(scene.cluster.nodes))
    with cut(scene, list(zip(nodes, [*nodes[1:], nodes[0]]))):
        await scene.hold(2, 5)


@contextlib.contextmanager
def bad_cable(scene, process, **cable):
    network = scene.cluster.network
    scene.found(", ".join(f"{name} {value:g}" for name, value in cable.items()))
    scene.begin()
    network.worsen(process.host, seed=scene.chance.randrange(1 << 30), **cable)
    try:
        yield
    finally:
        network.mend(process.host)
        scene.end()


RAW = ("root",)


@row(
    "slow-link", "links",
    made="every packet of a node comes 20 to 80 ms late, ± half of that (`wires.py`), for 5 s",
    outcome="Slower, and right.",
    nodes=1, needs=RAW,
)
async def slow_link(scene):
    """What goes to and from an owner is late, and in another order."""
    delay = scene.chance.uniform(0.02, 0.08)
    with bad_cable(scene, await scene.owner(), delay=delay, jitter=delay / 2):
        await scene.hold(4, 6)


@row(
    "lossy-link", "links",
    made="2 to 20 % of the packets of a node are lost (`wires.py`), for 5 s",
    outcome="Slower, perhaps with another owner, and right.",
    nodes=1, needs=RAW,
)
async def lossy_link(scene):
    """A part of what goes to and from an owner is lost."""
    with bad_cable(scene, await scene.owner(), loss=scene.chance.uniform(0.02, 0.2)):
        await scene.hold(4, 6)


@row(
    "messy-link", "links",
    made="packets of a node are late by up to 40 ms, 5 % are lost, 10 % come twice (`wires.py`), for 5 s",
    outcome="Slower, and right.",
    nodes=1, needs=RAW,
)
async def messy_link(scene):
    """What goes to and from a node is late, in another order, twice, or lost."""
    with bad_cable(scene, scene.some_node(), delay=0.02, jitter=0.02, loss=0.05, twice=0.1):
        await scene.hold(4, 6)


@row(
    "slow-gateway-link", "links",
    made="every packet of a gateway comes 20 to 150 ms late (`wires.py`), for 5 s",
    outcome="Slower through this gateway, and right.",
    gateways=1, needs=RAW,
)
async def slow_gateway_link(scene):
    """What goes to and from a gateway is late."""
    delay = scene.chance.uniform(0.02, 0.15)
    with bad_cable(scene, scene.gateway(), delay=delay, jitter=delay / 4):
        await scene.hold(4, 6)


@row(
    "narrow-link", "links",
    made="200 to 2,000 kbit/s for all of a node's packets (`tc tbf`), for 5 s",
    outcome="Slower, perhaps with another owner, and right.",
    nodes=1, needs=('tc',), least=0.3,
)
async def narrow_link(scene):
    """An owner's link carries too little."""
    node, network = await scene.owner(), scene.cluster.network
    kilobits = scene.chance.randrange(200, 2000)
    scene.found(f"{kilobits} kbit/s")
    scene.begin()
    network.limit(node.host, kilobits)
    try:
        await scene.hold(4, 6)
    finally:
        network.unlimit(node.host)
    scene.end()
