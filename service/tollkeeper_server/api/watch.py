"""WatchInvalidations: a client's stream of changes and leases, and of what its kept answers were used for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import timedelta

from structlog import get_logger

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.validate_verification import WATCH_INVALIDATIONS
from tollkeeper_server.core.changes import Change
from tollkeeper_server.core.errors import TollkeeperError
from tollkeeper_server.core.sessions import FAREWELL, News
from tollkeeper_server.usage import metrics
from tollkeeper_server.verify.verifier import KeptUse, Verifier
from tollkeeper_server.verify.watchers import Watch, Watchers

OPENING_SECONDS = 5.0
"""A client that says nothing for so long is let go."""
USES_MESSAGES_MAX = 8
"""Most messages of uses that wait to be counted, a stream."""


async def watch(
    requests: AsyncIterator[pb.WatchInvalidationsRequest], call: Call, *, watchers: Watchers, verifier: Verifier
) -> AsyncGenerator[pb.WatchInvalidationsResponse, None]:
    """One stream, until the client leaves, may no longer call, or the server is about to go.

    What the client was not told when its stream breaks it is told on its next one.
    """
    first = await _first_of(requests)
    if first is None:
        return
    WATCH_INVALIDATIONS.check(first)
    tenant_id = None if call.caller.is_root else call.caller.tenant_id
    stream = watchers.watch(tenant_id, acknowledged=first.acknowledged_revision)
    uses = _Uses(verifier, tenant_id=tenant_id)
    counting = asyncio.create_task(uses.count())
    listening = asyncio.create_task(_listen(first, requests, stream, uses))
    draining = asyncio.create_task(call.draining.wait())
    for ended in (listening, draining):
        ended.add_done_callback(lambda _: stream.wake())
    try:
        while not listening.done() and not draining.done():
            if stream.waits_for_lease:
                await call.readmit()
            if (news := stream.take()) is not None:
                yield _message(news)
            else:
                await stream.changed()
        if listening.done():
            listening.result()  # what was wrong with a message ends the stream
    finally:
        stream.close()
        uses.close()
        listening.cancel()
        draining.cancel()
        await asyncio.gather(listening, draining, counting, return_exceptions=True)


async def _first_of(requests: AsyncIterator[pb.WatchInvalidationsRequest]) -> pb.WatchInvalidationsRequest | None:
    """What opens the session; None if nothing does, so that a silent client does not hold up a server that is to go."""
    try:
        async with asyncio.timeout(OPENING_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        return None


async def _listen(
    first: pb.WatchInvalidationsRequest,
    requests: AsyncIterator[pb.WatchInvalidationsRequest],
    stream: Watch,
    uses: "_Uses",
) -> None:
    """Take in what the client says, until it says farewell or no more."""
    stream.heard(acknowledged=0, renewal=first.renewal)  # what it had applied before is known
    uses.add(first.uses)
    async for request in requests:
        WATCH_INVALIDATIONS.check(request)
        stream.heard(acknowledged=request.acknowledged_revision, renewal=request.renewal)
        uses.add(request.uses)
        if request.acknowledged_revision == FAREWELL:
            return


def _message(news: News) -> pb.WatchInvalidationsResponse:
    message = pb.WatchInvalidationsResponse(
        revision=news.revision,
        invalidations=map(_invalidation, news.changes),
        reset=news.reset,
        renewal=news.renewal,
    )
    if news.renewal:
        message.lease.FromTimedelta(timedelta(seconds=news.lease_seconds))
    return message


def _invalidation(change: Change) -> pb.Invalidation:
    return pb.Invalidation(
        revision=change.revision, key_id=change.key_id, tenant_id=change.tenant_id, owner_id=change.owner_id
    )


class _Uses:
    """Counts what kept answers were used for, beside the stream, which must not wait for the database."""

    def __init__(self, verifier: Verifier, *, tenant_id: str | None) -> None:
        self._verifier = verifier
        self._tenant_id = tenant_id
        self._waiting: asyncio.Queue[list[KeptUse] | None] = asyncio.Queue()

    def add(self, uses: Sequence[pb.KeptUse]) -> None:
        """Have them counted; beyond what may wait they are lost."""
        if not uses:
            return
        if self._waiting.qsize() < USES_MESSAGES_MAX:
            self._waiting.put_nowait([KeptUse(use.key_id, use.verifications, dict(use.charges)) for use in uses])
        else:
            metrics.USAGE_LOST.inc()

    def close(self) -> None:
        """Take no more; what waits is still counted."""
        self._waiting.put_nowait(None)

    async def count(self) -> None:
        """Count until closed."""
        while (uses := await self._waiting.get()) is not None:
            try:
                await self._verifier.record_kept(uses, tenant_id=self._tenant_id)
            except TollkeeperError as fault:
                metrics.USAGE_LOST.inc()
                get_logger().warning("kept_uses_lost", reason=fault.reason)
