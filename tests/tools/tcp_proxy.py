"""A way to a server that can be cut, so that a client sees what it would see in the field."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass
class TcpProxy:
    """Passes everything on, in both directions, until it is told otherwise."""

    upstream: str
    """Where the server listens, as ``host:port``."""
    address: str = ""
    """Where the proxy listens."""
    is_cut: bool = False
    """New connections are closed at once."""
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def cut(self) -> None:
        """End all connections, and take no more."""
        self.is_cut = True
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def mend(self) -> None:
        """Take connections again."""
        self.is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.closing(writer), contextlib.suppress(OSError, ExceptionGroup, asyncio.CancelledError):
            if not self.is_cut:
                host, _, port = self.upstream.rpartition(":")
                from_server, to_server = await asyncio.open_connection(host, int(port))
                with contextlib.closing(to_server):
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._pass_on(reader, to_server))
                        both.create_task(self._pass_on(from_server, writer))
        self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(1 << 20):
            writer.write(received)
        raise OSError("the connection is over")


@contextlib.asynccontextmanager
async def proxy_to(upstream: str) -> AsyncIterator[TcpProxy]:
    """A proxy to ``upstream`` during the block."""
    proxy = TcpProxy(upstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.cut()
        await server.wait_closed()
