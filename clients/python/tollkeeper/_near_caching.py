"""The near-cache of a client, and what keeps it honest in the background."""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Sequence

import grpc

from tollkeeper._channel import aio_channel
from tollkeeper._near_cache import NearCache, SharedNearCache
from tollkeeper._watching import FAREWELL_SECONDS, Watching
from tollkeeper.v1.verification_service_pb2_grpc import VerificationServiceStub

Metadata = Sequence[tuple[str, str]]

_all: "weakref.WeakSet[NearCache]" = weakref.WeakSet()


class AsyncNearCaching:
    """For an asynchronous client: in its event loop, on a channel of its own."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        metadata: Metadata,
        *,
        cache: NearCache | None = None,
    ) -> None:
        self.cache = NearCache() if cache is None else cache
        _all.add(self.cache)
        self._channel = aio_channel(address, credentials)
        self._watching = Watching(self.cache, VerificationServiceStub(self._channel), metadata)

    async def close(self) -> None:
        """Tell what the cache was used for, and end."""
        await self._watching.close()
        await self._channel.close()


class NearCaching:
    """For a synchronous client: an event loop in a thread of its own.

    A forked process has none; there the cache gives nothing, and every verification goes to a server.
    """

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None, metadata: Metadata) -> None:
        self.cache = SharedNearCache()
        self._place = address, credentials, metadata
        self._process = os.getpid()
        self._runs = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tollkeeper-near-cache", daemon=True)
        self._thread.start()
        self._runs.wait()
        atexit.register(self.close)  # the thread lives until then

    def close(self) -> None:
        """Tell what the cache was used for, and end."""
        atexit.unregister(self.close)
        if os.getpid() == self._process and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ends.set)
            self._thread.join(2 * FAREWELL_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._runs.set()

    async def _serve(self) -> None:
        self._loop, self._ends = asyncio.get_running_loop(), asyncio.Event()
        caching = AsyncNearCaching(*self._place, cache=self.cache)
        self._runs.set()
        await self._ends.wait()
        await caching.close()


def _abandon_all() -> None:
    for cache in _all:
        cache.abandon()


os.register_at_fork(after_in_child=_abandon_all)
