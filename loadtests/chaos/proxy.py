#!/usr/bin/env python3
"""Stands between the nodes of a cluster and whoever connects to them, and leaves out messages of one kind between some of them:
gossip without consensus, or consensus without gossip, which share their connections. A process of its own, so that it takes no
time from the clients. The bytes are those of `shared/src/peer/mod.rs` and `node/src/transport/wire.rs`.

A message is left out whole and for good; its sender hears nothing until its deadline. Answers, pings and everything that gateways
ask pass.

Commands come as lines of JSON on standard input, and each is answered by one line on standard output:

    {"listen": [host, port], "to": [host, port]}     a proxy of the node at `to`
    {"without": {"gossip": [[host], [node]], …}}     leave out what goes to these hosts or comes from these nodes; all else passes
    {}                                               nothing new
    answered with {"left_out": {"gossip": 12, "raft": 0}}, counted from the beginning
"""

import asyncio
import json
import sys
from collections import Counter

MAGIC, GREETING_BYTES = b"BRTH", 9
ROLE_NODE = 1
REQUEST = 1
# Length, kind, correlation id, time left: what stands before a request's payload. The first byte of that is the kind of message.
REQUEST_HEAD_BYTES = 4 + 1 + 8 + 4
KINDS = {0: "raft", 3: "gossip"}
LONGEST_QUEUE_BYTES = 4 << 20


class Filter:
    """What one connection's client says, cut into messages: gives the bytes that pass."""

    def __init__(self, leaves_out):
        """`leaves_out(node, kind)` says whether a message of this kind from this node is left out."""
        self.leaves_out = leaves_out
        self.input, self.node, self.is_greeted = b"", None, False
        self.left, self.passes = 0, True  # of the frame under way

    def feed(self, data):
        data = self.input + data
        start = place = 0  # what lies between them passes
        parts = []
        while True:
            if self.left:
                taken = min(self.left, len(data) - place)
                self.left -= taken
                place += taken
                if not self.passes:
                    start = place
                if self.left:
                    break
            known = self.next_frame(data, place)
            if known is None:
                break
            self.left, self.passes = known
            if not self.passes:
                parts.append(data[start:place])
                start = place
        parts.append(data[start:place])
        self.input = data[place:]
        return b"".join(parts)

    def next_frame(self, data, place):
        """How long the frame that begins there is, and whether it passes; None when too little of it has come."""
        rest = len(data) - place
        if not self.is_greeted:
            return self.greeting(data, place)
        if rest < 4:
            return None
        length = int.from_bytes(data[place : place + 4], "little")
        if rest < min(4 + length, REQUEST_HEAD_BYTES + 1):
            return None
        kind = None
        if self.node is not None and length > REQUEST_HEAD_BYTES - 4 and data[place + 4] == REQUEST:
            kind = KINDS.get(data[place + REQUEST_HEAD_BYTES])
        return 4 + length, kind is None or not self.leaves_out(self.node, kind)

    def greeting(self, data, place):
        rest = len(data) - place
        if rest < GREETING_BYTES:
            return None
        if data[place : place + 4] != MAGIC:
            raise ValueError("this is not the protocol between pods")
        length = GREETING_BYTES + int.from_bytes(data[place + 7 : place + 9], "little")
        if rest < length:
            return None
        self.is_greeted, self.node = True, node_of(data[place + GREETING_BYTES : place + length])
        return length, True


def node_of(greeting):
    """The id of the node that greets, as it is shown; None for a gateway. The identity comes first: its role, and whether it has
    an id, and that as a varint."""
    if greeting[:2] != bytes((ROLE_NODE, 1)):
        return None
    value = 0
    for number, byte in enumerate(greeting[2:12]):
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:
            return f"{value:016x}"
    raise ValueError("a node's id does not end")


class Rules:
    """What is left out, and how much it was."""

    def __init__(self):
        self.without, self.left_out = {}, Counter()

    def of(self, host):
        def leaves_out(node, kind):
            hosts, nodes = self.without.get(kind, ((), ()))
            if host not in hosts and node not in nodes:
                return False
            self.left_out[kind] += 1
            return True

        return leaves_out


class Side(asyncio.Protocol):
    """One of the two connections of a way through the proxy; what it reads is written to the other one."""

    def __init__(self, filtered=None):
        self.filter, self.other, self.transport = filtered, None, None

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=LONGEST_QUEUE_BYTES)

    def data_received(self, data):
        if self.filter is not None:
            try:
                data = self.filter.feed(data)
            except ValueError:
                self.transport.abort()
                return
        if data:
            self.other.transport.write(data)

    def connection_lost(self, exc):
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self):
        self.other.transport.pause_reading()

    def resume_writing(self):
        self.other.transport.resume_reading()


class Client(Side):
    """The side of whoever connects. It is read once there is a connection to the node."""

    def __init__(self, to, leaves_out):
        super().__init__(Filter(leaves_out))
        self.to, self.task = to, None

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.pause_reading()
        self.task = asyncio.create_task(self.connect())

    async def connect(self):
        node = Side()
        node.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: node, *self.to)
        except OSError:
            self.transport.abort()
            return
        self.other = node
        if self.transport.is_closing():
            node.transport.close()
        else:
            self.transport.resume_reading()


async def main():
    loop, rules, servers = asyncio.get_running_loop(), Rules(), []
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        if "listen" in command:
            (host, port), to, of = command["listen"], command["to"], rules.of
            servers.append(await loop.create_server(lambda h=host, t=to: Client(t, of(h)), host, port))
        if "without" in command:
            rules.without = command["without"]
        print(json.dumps({"left_out": rules.left_out}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
