"""Stands between a proxy and one gateway, passes bytes on, and fails as a gateway fails: an answer never arrives although the
request was carried out, or nobody listens any more. Of HTTP it knows only a text by which it tells a request from others."""

import asyncio
import contextlib

PIECE_BYTES = 1 << 16


class Losses:
    """Which answer is lost next, over all relays that share this."""

    def __init__(self):
        self.mark, self.count = None, 0

    def arm(self, mark):
        """The answer to the next request in which this text stands. Proxies ask questions of their own in between."""
        self.mark = mark.encode()

    def disarm(self):
        self.mark = None

    def is_meant(self, piece):
        return self.mark is not None and self.mark in piece

    def take(self):
        if self.mark is None:
            return False
        self.mark = None
        self.count += 1
        return True


class Relay:
    def __init__(self, port, gateway, losses):
        """Listens at `port` of this machine for what is meant for the gateway at (host, port) `gateway`."""
        self.port, self.gateway, self.losses = port, gateway, losses
        self.server, self.connections = None, set()

    async def up(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, limit=PIECE_BYTES)

    async def down(self):
        """As when the gateway's process has ended: what is open is closed, and what is new is refused."""
        if self.server is not None:
            self.server.close()
            self.server = None
        await self.cut()

    async def cut(self):
        """Closes what is open."""
        tasks = list(self.connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        task = asyncio.current_task()
        self.connections.add(task)
        other = None
        try:
            from_gateway, other = await asyncio.open_connection(*self.gateway, limit=PIECE_BYTES)
            await self.pass_on(reader, writer, from_gateway, other)
        except (OSError, asyncio.CancelledError):
            pass  # Whoever is at the other end sees the connection close, which is all there is to tell.
        finally:
            self.connections.discard(task)
            writer.close()
            if other is not None:
                other.close()

    async def pass_on(self, reader, writer, from_gateway, other):
        """Until either side has ended, or an answer is lost."""
        meant = asyncio.Event()
        ways = [self.copy_requests(reader, other, meant), self.copy_answers(from_gateway, writer, meant)]
        ways = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def copy_requests(self, source, target, meant):
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE_BYTES):
                if self.losses.is_meant(piece):
                    meant.set()
                target.write(piece)
                await target.drain()

    async def copy_answers(self, source, target, meant):
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE_BYTES):
                # The gateway has carried out the request by now: only its answer does not arrive.
                if meant.is_set() and self.losses.take():
                    return
                target.write(piece)
                await target.drain()
