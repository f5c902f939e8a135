"""Who holds which shard, as `/v1/cluster` and `/v1/cluster/shards` say at one moment, and what is missing until the cluster has
settled. Pure: works on parsed answers, asks nobody, and is tested against planted flaws (test_elastic.py)."""

from typing import NamedTuple

SYSTEM = "the system shard"


class Spread(NamedTuple):
    """The least and the most that one node has."""

    least: int
    most: int

    def __str__(self):
        return str(self.least) if self.least == self.most else f"{self.least}–{self.most}"

    @property
    def is_even(self):
        return self.most - self.least <= 1


class Placement:
    def __init__(self, cluster, shards):
        """The two parsed answers."""
        self.epoch = cluster.get("planEpoch") or 0
        self.members = {member["id"]: member for member in cluster["members"] if member.get("id")}
        self.shards = {shard["shard"]: shard for shard in shards["shards"]}
        self.system = cluster.get("system")

    @property
    def groups(self):
        """Name → what is known of it, of every shard and of the system shard."""
        named = {f"shard {number}": group for number, group in self.shards.items()}
        return named if self.system is None else {**named, SYSTEM: self.system}

    def owners(self, nodes):
        return spread(nodes, [[group["owner"]] for group in self.shards.values()])

    def replicas(self, nodes):
        return spread(nodes, [group["replicas"] for group in self.shards.values()])

    def missing(self, nodes, factor):
        """What keeps a cluster of exactly these nodes, by id, from being settled with so many replicas of each shard."""
        found = [text for name, group in self.groups.items() for text in of_group(name, group, set(nodes), factor)]
        for what, spread_of in (("owned shards", self.owners(nodes)), ("replicas", self.replicas(nodes))):
            if not spread_of.is_even:
                found.append(f"the nodes have {spread_of} {what}")
        for node in sorted(nodes):
            member = self.members.get(node, {})
            if member.get("state") != "ready":
                found.append(f"node {node} is {member.get('state') or 'no member'}")
            elif member.get("planEpoch") != self.epoch:
                found.append(f"node {node} has the plan of epoch {member.get('planEpoch')}, not of {self.epoch}")
            elif member.get("suspectedSince"):
                found.append(f"node {node} is suspected")
        return found

    def unrestored(self, nodes, factor):
        """The groups that have not so many voters on these nodes, and nothing else."""
        return [name for name, group in self.groups.items() if len(set(group["replicas"]) & set(nodes)) < factor]

    def in_transit(self):
        """Shards that the plan wants another owner of, those whose move goes on first."""
        waiting = [
            number
            for number, group in self.shards.items()
            if group.get("planned") and group["owner"] and group["planned"]["owner"] != group["owner"]
        ]
        return sorted(waiting, key=lambda number: (STEPS_TO_OWNER.get(step_of(self.shards[number]), 9), number))


def suspected(cluster, node):
    """Whether an answer of `/v1/cluster` says so."""
    return any(member.get("id") == node and member.get("suspectedSince") for member in cluster["members"])


# How near a hand-off is.
STEPS_TO_OWNER = {"hand-off": 0, "promote": 1, "catch-up": 2, "add-learner": 3}


def step_of(group):
    return (group.get("move") or {}).get("step")


def of_group(name, group, nodes, factor):
    """What is missing of one group. The system shard may have more replicas than the others."""
    owner, replicas, planned = group.get("owner"), set(group["replicas"]), group.get("planned")
    if owner is None:
        yield f"{name} has no owner"
    elif owner not in nodes:
        yield f"{name} is owned by {owner}, which is not one of the nodes"
    if replicas - nodes:
        yield f"{name} has replicas on {', '.join(sorted(replicas - nodes))}, which are not among the nodes"
    elif len(replicas) != factor and not (name == SYSTEM and len(replicas) > factor):
        yield f"{name} has {len(replicas)} replicas"
    if group.get("learners"):
        yield f"{name} has learners: {', '.join(group['learners'])}"
    if group.get("joint"):
        yield f"{name} is between two sets of voters"
    if step_of(group):
        yield f"{name} moves: {step_of(group)} {group['move'].get('target')}"
    if planned and replicas != set(planned["replicas"]):
        yield f"{name} has other replicas than planned"
    if planned and owner != planned["owner"]:
        yield f"{name} has another owner than planned"


def spread(nodes, held):
    counts = dict.fromkeys(nodes, 0)
    for holders in held:
        for node in holders:
            if node in counts:
                counts[node] += 1
    return Spread(min(counts.values(), default=0), max(counts.values(), default=0))
