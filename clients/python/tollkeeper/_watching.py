"""Keeps a near-cache honest: follows the changes, renews the lease, and tells what was used. Asynchronous.

While the stream is lost the lease runs out by itself, and every verification goes to a server.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from tollkeeper._near_cache import Change, NearCache, Used, boottime
from tollkeeper.v1 import verification_service_pb2 as pb

if TYPE_CHECKING:
    from tollkeeper.v1.verification_service_pb2_grpc import VerificationServiceAsyncStub

RENEW_SECONDS = 0.5
TEND_SECONDS = 0.25
SILENCE_SECONDS = 3.0
"""A server that says nothing for so long is left for another."""
RECONNECT_SECONDS = (0.05, 1.0)
"""Wait before the first and before every later attempt to come back, doubled in between."""
REFUSED_SECONDS = 30.0
"""Wait after a server has said that it will not be watched by this caller, or cannot be."""
FAREWELL_SECONDS = 2.0
SETTLE_SECONDS = 1.0
SETTLES_AT_ONCE = 32
USES_MAX = 1000
FAREWELL = 2**63 - 1

_REFUSALS = (
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
)
_log = logging.getLogger("tollkeeper")


class Watching:
    """Runs until ``close``, in the event loop that made it."""

    def __init__(
        self,
        cache: NearCache,
        stub: "VerificationServiceAsyncStub",
        metadata: Sequence[tuple[str, str]],
    ) -> None:
        self._cache = cache
        self._stub = stub
        self._metadata = tuple(metadata)
        self._stream: _Stream | None = None
        self._settling = asyncio.Lock()
        self._task = asyncio.create_task(self._run(), name="tollkeeper-near-cache")

    async def close(self) -> None:
        """Give no kept decision any more, say so, tell what was used and give back what was not."""
        self._cache.close()
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                if self._stream is not None:
                    await self._stream.say_farewell()
                await self._settle()
        except (TimeoutError, grpc.RpcError, asyncio.InvalidStateError) as error:
            _log.warning("the near-cache could not tell all that was used: %s", type(error).__name__)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tend())
                tasks.create_task(self._follow())
        except Exception:
            _log.exception("the near-cache has failed; every verification goes to a server")
            self._cache.close()

    async def _tend(self) -> None:
        """Settle what is over, as it comes."""
        while True:
            await asyncio.sleep(TEND_SECONDS)
            await self._settle()

    async def _settle(self) -> None:
        async with self._settling:  # whoever closes waits for what is on its way
            used = self._cache.take_used()
            for first in range(0, len(used), SETTLES_AT_ONCE):
                await asyncio.gather(*(self._settle_one(each) for each in used[first : first + SETTLES_AT_ONCE]))

    async def _settle_one(self, used: Used) -> None:
        request = pb.SettleRequest(
            reservation_id=used.reservation_id, charges=used.charges, verifications=used.verifications
        )
        try:
            await self._stub.Settle(request, timeout=SETTLE_SECONDS, metadata=self._metadata)
        except grpc.RpcError as error:
            # The server counts all of it as used once the reservation ends: never too little.
            _log.warning("a block of verifications was not settled: %s", error.code())

    async def _follow(self) -> None:
        """Hold a stream, one after the other."""
        shortest, longest = RECONNECT_SECONDS
        wait = shortest
        while True:
            begun = boottime()
            try:
                await self._watch()
                wait = shortest  # the server is about to go, and another one will do
            except TimeoutError:
                _log.warning("no server speaks to the near-cache; it looks for another")
            except asyncio.InvalidStateError:
                pass  # it was over when something was to be said on it
            except grpc.RpcError as error:
                _log.warning("the near-cache lost its server: %s %s", error.code(), error.details())
                if error.code() in _REFUSALS:
                    wait = REFUSED_SECONDS
                elif boottime() - begun > longest:
                    wait = shortest
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, protects nothing)
            wait = min(2 * wait, longest)

    async def _watch(self) -> None:
        """One stream, until the server ends it. Raises RpcError if it breaks, TimeoutError if it falls silent."""
        call = self._stub.WatchInvalidations(metadata=self._metadata, wait_for_ready=True)
        self._stream = _Stream(self._cache, call)
        try:
            await self._stream.follow()
        finally:
            self._stream = None
            call.cancel()


class _Stream:
    """One stream of changes and leases."""

    def __init__(
        self,
        cache: NearCache,
        call: "grpc.aio.StreamStreamCall[pb.WatchInvalidationsRequest, pb.WatchInvalidationsResponse]",
    ) -> None:
        self._cache = cache
        self._call = call
        self._writing = asyncio.Lock()
        self._renewal = 0
        self._sent_at: dict[int, float] = {}
        self._is_over = asyncio.Event()

    async def follow(self) -> None:
        """Speak and listen until the server ends it."""
        async with asyncio.timeout(SILENCE_SECONDS):
            await self._call.wait_for_connection()  # a lease that is asked for earlier is nearly over when it comes
        await self._ask_for_lease()
        renewing = asyncio.create_task(self._renew())
        try:
            while (message := await self._read()) is not None:
                self._apply(message)
                if message.invalidations or message.reset:
                    await self._say(self._cache.revision)
        finally:
            self._is_over.set()
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def say_farewell(self) -> None:
        """The last word: nothing that was kept is given any more. Wait until the server has heard it."""
        while True:
            uses = self._cache.take_uses(at_most=USES_MAX)
            await self._say(FAREWELL if len(uses) < USES_MAX else self._cache.revision, uses=uses)
            if len(uses) < USES_MAX:
                break
        await self._is_over.wait()

    async def _read(self) -> pb.WatchInvalidationsResponse | None:
        async with asyncio.timeout(SILENCE_SECONDS):
            message = await self._call.read()
        return message if isinstance(message, pb.WatchInvalidationsResponse) else None

    def _apply(self, message: pb.WatchInvalidationsResponse) -> None:
        """First what ends kept decisions, then the lease to give them."""
        if message.reset:
            self._cache.begin_anew(message.revision)
        changes = [Change(it.revision, it.key_id, it.tenant_id, it.owner_id) for it in message.invalidations]
        self._cache.change(changes, revision=message.revision)
        sent_at = self._sent_at.get(message.renewal)
        if sent_at is not None:
            self._cache.renew(sent_at=sent_at, seconds=message.lease.ToNanoseconds() / 1e9)
            self._sent_at = {number: at for number, at in self._sent_at.items() if number > message.renewal}

    async def _renew(self) -> None:
        """Ask for the lease again and again; that it fails is seen by who reads."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await self._ask_for_lease()

    async def _ask_for_lease(self) -> None:
        async with self._writing:
            self._renewal += 1
            self._sent_at[self._renewal] = boottime()
            await self._write(self._cache.revision, renewal=self._renewal, uses=self._cache.take_uses(at_most=USES_MAX))

    async def _say(self, acknowledged: int, *, uses: dict[str, tuple[int, dict[str, int]]] | None = None) -> None:
        async with self._writing:
            await self._write(acknowledged, uses=uses or {})

    async def _write(self, acknowledged: int, *, renewal: int = 0, uses: dict[str, tuple[int, dict[str, int]]]) -> None:
        await self._call.write(
            pb.WatchInvalidationsRequest(
                acknowledged_revision=acknowledged,
                renewal=renewal,
                uses=[
                    pb.KeptUse(key_id=key_id, verifications=verifications, charges=charges)
                    for key_id, (verifications, charges) in uses.items()
                ],
            )
        )
