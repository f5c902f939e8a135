"""Reads one event stream over HTTP/1.1, piece by piece as it arrives, so that what a proxy withholds is missed."""

import asyncio
import time

HEAD_BYTES_MAX = 1 << 16


class Ended(Exception):
    """The stream is over."""


class Silent(Exception):
    """Nothing came in time."""


class Stream:
    """An answer under way. Its messages are dictionaries of the fields of an event stream; comments are only counted."""

    def __init__(self, reader, writer, status, headers):
        self.reader, self.writer, self.status, self.headers = reader, writer, status, headers
        self.text, self.comments = bytearray(), 0
        self.heard, self.silence = time.monotonic(), 0.0

    @classmethod
    async def open(cls, address, path, headers=(), timeout=10):
        reader, writer = await asyncio.open_connection(*address, limit=HEAD_BYTES_MAX)
        try:
            lines = [f"GET {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", "Accept: text/event-stream"]
            lines += [f"{name}: {value}" for name, value in headers]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
            async with asyncio.timeout(timeout):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError as error:
            writer.transport.abort()
            raise Silent(f"no headers after {timeout} s") from error
        except asyncio.IncompleteReadError as error:
            writer.transport.abort()
            raise Ended("no headers came") from error
        first, *fields = head[:-4].decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        return cls(reader, writer, int(first.split(" ", 2)[1]), found)

    async def event(self, timeout):
        """The next message with data. Silent when none came in time, Ended when the stream is over."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    fields = await self.message()
                    if "data" in fields:
                        return fields
        except TimeoutError as error:
            raise Silent(f"no event within {timeout:g} s") from error

    async def message(self):
        while b"\n\n" not in self.text:
            piece = await self.piece()
            now = time.monotonic()
            self.silence, self.heard = max(self.silence, now - self.heard), now
            self.text += piece.replace(b"\r\n", b"\n")
        message, _, self.text = self.text.partition(b"\n\n")
        lines = message.decode().split("\n")
        self.comments += sum(line.startswith(":") for line in lines)
        return dict(line.split(": ", 1) for line in lines if line and not line.startswith(":"))

    async def piece(self):
        """What comes next of the body."""
        try:
            if self.headers.get("transfer-encoding") != "chunked":
                piece = await self.reader.read(HEAD_BYTES_MAX)
            else:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                piece = (await self.reader.readexactly(size + 2))[:-2]
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Ended("the connection was closed in the middle") from error
        if not piece:
            raise Ended("the stream was ended")
        return piece

    def close(self):
        self.writer.transport.abort()
