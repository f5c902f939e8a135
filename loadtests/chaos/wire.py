"""A minimal HTTP/1.1 client over asyncio streams: keep-alive, no retries, no redirects. It tells apart what never left
this process, what was sent and not answered, and what was answered, because histories depend on that difference."""

import asyncio
import json
import time
import urllib.parse

IDLE_SECONDS_MAX = 15  # below the gateway's own limit, so that a request is not sent on a connection that is being closed
HEAD_BYTES_MAX = 1 << 16


class NotSent(OSError):
    """No connection: the request cannot have had an effect."""


class NotAnswered(OSError):
    """The request was sent, at least in part, and no whole answer came: its effect is unknown."""


class Answer:
    """Status, headers with names in lower case, and the body."""

    __slots__ = ("status", "headers", "raw")

    def __init__(self, status, headers, raw):
        self.status, self.headers, self.raw = status, headers, raw

    def document(self):
        """The parsed body; None for an empty one. ValueError when it is no JSON."""
        return json.loads(self.raw) if self.raw else None


class Connection:
    def __init__(self, host, port):
        self.host, self.port = host, port
        self.reader = self.writer = None
        self.used = 0.0

    async def open(self):
        try:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise NotSent(str(error)) from error

    async def request(self, method, path, body=None, headers=()):
        """One request and its answer. After an error the connection is closed."""
        try:
            self.writer.write(self.encode(method, path, body, headers))
            answer = await self.read()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self.close()
            raise NotAnswered(repr(error)) from error
        except asyncio.CancelledError:
            self.close()
            raise
        self.used = time.monotonic()
        return answer

    def encode(self, method, path, body, headers):
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Length: {len(text)}"]
        if body is not None:
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + text

    async def read(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        status = int(first.split(" ", 2)[1])
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if status in (204, 304):
            raw = b""
        elif "content-length" in headers:
            raw = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            raw = await self.read_chunks()
        else:
            raise ValueError("an answer of unknown length")
        if headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, raw)

    async def read_chunks(self):
        parts = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            parts.append((await self.reader.readexactly(size + 2))[:-2])
        await self.reader.readuntil(b"\r\n")
        return b"".join(parts)

    def close(self):
        if self.writer is not None:
            self.writer.transport.abort()
            self.writer = None

    def is_open(self):
        return self.writer is not None and not self.reader.at_eof() and not self.writer.transport.is_closing()


class Pool:
    """Connections to one address, as many as there are requests at once."""

    def __init__(self, host, port):
        self.host, self.port, self.idle = host, port, []

    async def request(self, method, path, body=None, headers=(), timeout=10.0):
        """NotSent, NotAnswered (also when `timeout` seconds have passed), or the answer."""
        connection = None
        try:
            async with asyncio.timeout(timeout):
                connection = self.take()
                if connection is None:
                    fresh = Connection(self.host, self.port)
                    await fresh.open()
                    connection = fresh
                answer = await connection.request(method, path, body, headers)
        except TimeoutError as error:
            message = f"nothing after {timeout} s"
            raise (NotSent(message) if connection is None else NotAnswered(message)) from error
        if connection.is_open():
            self.idle.append(connection)
        return answer

    def take(self):
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open() and time.monotonic() - connection.used < IDLE_SECONDS_MAX:
                return connection
            connection.close()
        return None

    def close(self):
        while self.idle:
            self.idle.pop().close()


async def get(address, path, timeout=2.0):
    """Status and parsed body of one GET at (host, port), on a connection of its own; None when there is no whole answer."""
    pool = Pool(*address)
    try:
        answer = await pool.request("GET", path, timeout=timeout)
        return answer.status, answer.document()
    except OSError:
        return None
    except ValueError:
        return answer.status, answer.raw.decode("utf-8", "replace")
    finally:
        pool.close()


def entity_path(entity):
    kind, entity_id = entity
    return f"/v1/entities/{kind}/{urllib.parse.quote(entity_id, safe='')}"
