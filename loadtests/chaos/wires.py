#!/usr/bin/env python3
"""A bad cable: carries frames between two network links, late, twice, in another order or not at all. A process of its own, because
not every kernel has `netem`. It reads and writes raw frames, so what connections make of it is the kernel's own doing: they
send again, slow down, and time out as over a real cable.

    wires.py LINK LINK '{"delay": 0.05, "jitter": 0.02, "loss": 0.01, "twice": 0.01, "seed": 7}'

Runs until it is killed. Needs root in the network namespace of the links. One frame may be as long as the kernel makes them before a
network card would cut them up; what describes that travels with the frame.
"""

import heapq
import json
import random
import selectors
import socket
import sys
import time

ALL_PROTOCOLS, OUTGOING = 3, 4
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
FRAME_BYTES_MAX = 1 << 17
SOCKET_BYTES = 8 << 20
# Frames under way in both directions; what comes then is lost, as in any queue.
UNDER_WAY_MAX = 20_000


class Cable:
    """What becomes of frames, and when. Pure: the time is handed in."""

    def __init__(self, delay=0.0, jitter=0.0, loss=0.0, twice=0.0, seed=0):
        self.delay, self.jitter, self.loss, self.twice = delay, jitter, loss, twice
        self.chance, self.under_way, self.number = random.Random(seed), [], 0
        self.carried = self.lost = 0

    def take(self, now, frame, to):
        if self.chance.random() < self.loss or len(self.under_way) >= UNDER_WAY_MAX:
            self.lost += 1
            return
        for _ in range(2 if self.chance.random() < self.twice else 1):
            self.number += 1
            at = now + max(0.0, self.delay + self.chance.uniform(-self.jitter, self.jitter))
            # Of frames that arrive at one moment the earlier one comes first.
            heapq.heappush(self.under_way, (at, self.number, frame, to))

    def due(self, now):
        """What has arrived by now, in order."""
        while self.under_way and self.under_way[0][0] <= now:
            _, _, frame, to = heapq.heappop(self.under_way)
            self.carried += 1
            yield frame, to

    def next_at(self):
        return self.under_way[0][0] if self.under_way else None


def opened(link):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    raw.bind((link, ALL_PROTOCOLS))
    raw.setblocking(False)
    return raw


def carry(cable, one, other):
    selector = selectors.DefaultSelector()
    selector.register(one, selectors.EVENT_READ, other)
    selector.register(other, selectors.EVENT_READ, one)
    while True:
        at = cable.next_at()
        patience = None if at is None else max(0.0, at - time.monotonic())
        for ready, _ in selector.select(patience):
            for _ in range(64):
                try:
                    frame, address = ready.fileobj.recvfrom(FRAME_BYTES_MAX)
                except BlockingIOError:
                    break
                if address[2] != OUTGOING:
                    cable.take(time.monotonic(), frame, ready.data)
        for frame, to in cable.due(time.monotonic()):
            try:
                to.send(frame)
            except OSError:
                cable.lost += 1  # the link's queue is full, or it is going away


def main():
    one, other = opened(sys.argv[1]), opened(sys.argv[2])
    print("ready", flush=True)
    carry(Cable(**json.loads(sys.argv[3])), one, other)


if __name__ == "__main__":
    main()
