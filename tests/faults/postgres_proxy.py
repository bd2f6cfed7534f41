"""A way to Postgres that loses answers and goes away, so that the driver sees what it would see in the field."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass
class PostgresProxy:
    """Passes everything on, but for what it is told to lose."""

    socket: str
    """Where Postgres listens."""
    randomness: random.Random
    loses: float = 0.0
    """How likely it is that the answer to a message is lost, and the connection with it, after the work was done."""
    is_away: bool = False
    """Connections are cut, new ones at once and old ones at their next message."""
    lost: int = 0
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            from_postgres, to_postgres = await asyncio.open_unix_connection(self.socket)
            with contextlib.closing(to_postgres):
                answers = asyncio.create_task(self._answers(from_postgres, writer))
                while not self.is_away and (message := await reader.read(1 << 20)):
                    if self.randomness.random() < self.loses:
                        answers.cancel()
                        await asyncio.wait([answers])
                        to_postgres.write(message)
                        await from_postgres.read(1 << 20)
                        self.lost += 1
                        return
                    to_postgres.write(message)
                answers.cancel()
        self._serving.discard(task)

    async def close(self) -> None:
        """Cut what is left."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @staticmethod
    async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while answer := await reader.read(1 << 20):
                writer.write(answer)


@contextlib.asynccontextmanager
async def proxy_to(url: str, *, seed: int) -> AsyncIterator[tuple[PostgresProxy, str]]:
    """A proxy to the Postgres of ``url``, with the URL that leads through it."""
    parts = urlsplit(url)
    directory = parse_qs(parts.query)["host"][0]
    proxy = PostgresProxy(f"{directory}/.s.PGSQL.5432", random.Random(seed))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, f"postgresql://postgres@127.0.0.1:{port}{parts.path}"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
