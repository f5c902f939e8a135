"""A DNS server for one name, whose addresses the harness lists and strikes out as Kubernetes does those of a headless Service."""

import asyncio
import errno
import socket
import struct

NAME, PORT, TTL_SECONDS = "berth-nodes.test", 5300, 30
TYPE_A, CLASS_IN, NO_SUCH_NAME = 1, 1, 3
ANSWER, POINTER_TO_QUESTION = 0x8580, 0xC00C


class Names(asyncio.DatagramProtocol):
    """Answers over UDP while it is open: `async with Names(host) as names`."""

    def __init__(self, host):
        self.host, self.listed, self.questions, self.transport = host, set(), 0, None

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        for patience in (*[0.05] * 100, None):
            try:
                self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self.host, PORT))
                return self
            except OSError as error:
                # Programs ask for names from ports that they draw, of all addresses: for that moment this one may be among them.
                if error.errno != errno.EADDRINUSE or patience is None:
                    raise
                await asyncio.sleep(patience)

    async def __aexit__(self, *_):
        self.transport.close()

    def settings(self, peer_port):
        """Variables of nodes and of gateways that know the cluster by its name only."""
        seeds, servers = f"{NAME}:{peer_port}", {"BERTH_DNS_SERVERS": f"{self.host}:{PORT}"}
        return {"BERTH_CLUSTER__SEEDS": seeds, **servers}, {"BERTH_NODES": seeds, **servers}

    def datagram_received(self, data, addr):
        self.questions += 1
        self.transport.sendto(self.answer(data), addr)

    def answer(self, question):
        """RFC 1035, section 4: a header of 12 bytes, the question as it came, and the records."""
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace").lower())
            at += 1 + question[at]
        (kind,) = struct.unpack_from(">H", question, at + 1)
        known = ".".join(labels) == NAME and bool(self.listed)
        hosts = sorted(self.listed) if known and kind == TYPE_A else []
        header = struct.pack(">2sHHHHH", question[:2], ANSWER | (0 if known else NO_SUCH_NAME), 1, len(hosts), 0, 0)
        record = struct.pack(">HHHIH", POINTER_TO_QUESTION, TYPE_A, CLASS_IN, TTL_SECONDS, 4)
        return header + question[12 : at + 5] + b"".join(record + socket.inet_aton(host) for host in hosts)
