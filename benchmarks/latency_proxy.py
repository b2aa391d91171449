"""A TCP proxy that holds every request back for a while: a far server on this machine.

    python benchmarks/latency_proxy.py SERVER_PORT MILLISECONDS

prints the port it listens on and runs until it is ended. What the client sends is passed on so many milliseconds later,
answers at once, so that a request over an open connection takes one delay longer and nothing else is slower.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import cast


class Side(asyncio.Protocol):
    """One of a connection's two sides: what arrives here leaves on the other, after `delay` seconds."""

    def __init__(self, delay: float, other: Side | None = None) -> None:
        self.delay, self.other = delay, other
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.waiting.append(data)
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.pass_on)
        else:
            self.pass_on()

    def pass_on(self) -> None:
        """The oldest of what waits, to the other side."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(self.waiting.popleft())

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class Client(Side):
    """The client's side, which connects to the server."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Nothing is read before there is a way on.
        cast(asyncio.Transport, transport).pause_reading()
        self.connecting = asyncio.get_running_loop().create_task(self.connect())

    async def connect(self) -> None:
        """Opens the server's side."""
        server = Side(0.0, other=self)
        await asyncio.get_running_loop().create_connection(lambda: server, "127.0.0.1", self.port)
        self.other = server
        cast(asyncio.Transport, self.transport).resume_reading()


async def main() -> None:
    """Listens until ended."""
    port, delay = int(sys.argv[1]), float(sys.argv[2]) / 1000
    server = await asyncio.get_running_loop().create_server(lambda: Client(delay, port), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
