"""Ways from a client to the servers that can be cut, and that can swallow what is sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence


class Link:
    """Passes everything on between whoever connects and ``address``, until told otherwise."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._open = asyncio.Event()
        self._open.set()
        self._is_cut = False
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._is_cut:
                from_server, to_server = await asyncio.open_connection(self._host, int(self._port))
                with contextlib.closing(to_server):
                    passing = [
                        asyncio.create_task(self._pass(*way)) for way in ((reader, to_server), (from_server, writer))
                    ]
                    try:
                        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for each in passing:
                            each.cancel()
                        await asyncio.wait(passing)
        self._serving.discard(task)

    def cut(self) -> None:
        """End every connection; new ones are refused."""
        self._is_cut = True
        for task in self._serving:
            task.cancel()

    def swallow(self) -> None:
        """Nothing gets through, either way; nobody is told. What is sent meanwhile arrives when it is over."""
        self._open.clear()

    def heal(self) -> None:
        """Pass everything on again."""
        self._is_cut = False
        self._open.set()

    async def close(self) -> None:
        """End what is left."""
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def links_to(addresses: Sequence[str]) -> AsyncIterator[tuple[list[Link], str]]:
    """A link to each server, and how a client finds all of them."""
    async with contextlib.AsyncExitStack() as stack:
        links, places = list[Link](), list[str]()
        for address in addresses:
            link = Link(address)
            listening = await asyncio.start_server(link.serve, "127.0.0.1", 0)
            stack.push_async_callback(listening.wait_closed)
            stack.push_async_callback(link.close)
            stack.callback(listening.close)
            links.append(link)
            places.append(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        yield links, f"ipv4:{','.join(places)}"
