"""WatchInvalidations as a client sees it: what it is told, when it may answer alone, and who waits for it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.integration.api_support import Api, Metadata, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import key_service_pb2, usage_service_pb2
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api import watch
from tollkeeper_server.core.sessions import FAREWELL
from tollkeeper_server.usage import flusher

Response = pb.WatchInvalidationsResponse


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


class Watcher:
    """A client that does by hand what the client package does by itself."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def say(self, acknowledged: int, renewal: int = 0, uses: Any = ()) -> None:
        await self.stream.write(
            pb.WatchInvalidationsRequest(acknowledged_revision=acknowledged, renewal=renewal, uses=uses)
        )

    async def hear(self, seconds: float = 5) -> Response:
        message = await asyncio.wait_for(self.stream.read(), seconds)
        assert message is not grpc.aio.EOF, "the stream is over"
        assert isinstance(message, Response)
        return message

    async def begin(self) -> int:
        """Begin anew, up to the first lease; gives the revision that it reflects."""
        await self.say(0, renewal=1)
        message = await self.hear()
        assert message.reset
        await self.say(message.revision)
        granted = await self.hear()
        assert (granted.renewal, granted.reset) == (1, False)
        assert timedelta() < granted.lease.ToTimedelta() <= timedelta(seconds=2)
        await self.say(granted.revision)  # a change may have come with it
        return granted.revision


@asynccontextmanager
async def watching(api: Api, caller: Metadata | None = None) -> AsyncIterator[Watcher]:
    stream = api.verification.WatchInvalidations(metadata=api.root if caller is None else caller)
    try:
        yield Watcher(stream)
    finally:
        stream.cancel()


async def revoke(api: Api, key_id: str) -> tuple[key_service_pb2.RevokeKeyResponse, float]:
    started = time.monotonic()
    answer = await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=key_id), metadata=api.root)
    return answer, time.monotonic() - started


async def test_a_revocation_returns_once_the_client_has_acknowledged_it(api: Api) -> None:
    created = await api.key("acme")
    async with watching(api) as watcher:
        await watcher.begin()
        revocation = asyncio.create_task(revoke(api, created.key.key_id))
        told = await watcher.hear()
        (change,) = told.invalidations
        assert (change.key_id, change.tenant_id, change.owner_id) == (created.key.key_id, "acme", "")
        assert change.revision == told.revision
        done, _ = await asyncio.wait([revocation], timeout=0.3)
        assert not done, "it returned although the client may still answer"
        await watcher.say(told.revision)
        answer, seconds = await revocation
        assert answer.propagation == key_service_pb2.PROPAGATION_EVERYWHERE
        assert answer.revision == change.revision
        assert seconds < 1.5


async def test_a_client_that_does_not_acknowledge_delays_a_revocation_by_its_lease_and_gets_no_other(api: Api) -> None:
    created = await api.key("acme")
    async with watching(api) as watcher:
        revision = await watcher.begin()
        revocation = asyncio.create_task(revoke(api, created.key.key_id))
        await watcher.hear()
        await watcher.say(revision, renewal=2)
        answer, seconds = await revocation
        assert answer.propagation == key_service_pb2.PROPAGATION_EVERYWHERE
        assert 1.0 < seconds < 2.2
        with pytest.raises(asyncio.TimeoutError):
            await watcher.hear(0.2)


async def test_a_client_that_is_gone_delays_a_revocation_until_its_lease_is_over(api: Api) -> None:
    created = await api.key("acme")
    async with watching(api) as watcher:
        await watcher.begin()
    answer, seconds = await revoke(api, created.key.key_id)
    assert answer.propagation == key_service_pb2.PROPAGATION_EVERYWHERE
    assert 1.0 < seconds < 2.2


async def test_a_client_that_said_farewell_delays_nothing(api: Api) -> None:
    created = await api.key("acme")
    async with watching(api) as watcher:
        await watcher.begin()
        await watcher.say(FAREWELL)
        assert await watcher.stream.read() is grpc.aio.EOF
        _, seconds = await revoke(api, created.key.key_id)
    assert seconds < 0.5


async def test_a_client_that_comes_back_is_told_what_it_missed_and_no_more(api: Api) -> None:
    first = await api.key("acme")
    missed = await api.key("acme")
    async with watching(api) as watcher:
        await watcher.say(first.revision, renewal=1)
        told = await watcher.hear()
        assert not told.reset
        assert [change.key_id for change in told.invalidations] == [missed.key.key_id]
        assert told.renewal == 0
        await watcher.say(told.revision)
        assert (await watcher.hear()).renewal == 1


async def test_a_client_that_knows_more_than_the_server_begins_anew(api: Api) -> None:
    created = await api.key("acme")
    async with watching(api) as watcher:
        await watcher.say(created.revision + 100, renewal=1)
        told = await watcher.hear()
        assert (told.reset, told.revision, told.renewal) == (True, created.revision, 0)


async def test_callers_are_told_of_their_own_tenant_only_and_wait_for_no_other(api: Api) -> None:
    caller = await api.caller("acme")
    theirs, ours = await api.key("other"), await api.key("acme")
    async with watching(api, caller) as watcher:
        await watcher.begin()
        _, seconds = await revoke(api, theirs.key.key_id)
        assert seconds < 0.5, "it waited for a client that knows nothing of the key"
        revocation = asyncio.create_task(revoke(api, ours.key.key_id))
        told = await watcher.hear()
        assert [change.key_id for change in told.invalidations] == [ours.key.key_id]
        await watcher.say(told.revision)
        await revocation


async def test_changes_of_an_owner_name_it(api: Api) -> None:
    async with watching(api) as watcher:
        await watcher.begin()
        request = key_service_pb2.SetOwnerRequest(
            owner=key_service_pb2.Owner(owner_id="a/b", suspended=True), tenant_id="acme"
        )
        mutation = asyncio.ensure_future(api.keys.SetOwner(request, metadata=api.root))
        told = await watcher.hear()
        assert [(it.owner_id, it.key_id, it.tenant_id) for it in told.invalidations] == [("a/b", "", "acme")]
        await watcher.say(told.revision)
        await mutation


async def test_a_caller_that_is_revoked_gets_no_further_lease(api: Api) -> None:
    created = await api.key("acme", permissions=("tollkeeper:verify",))
    async with watching(api, (("authorization", f"Bearer {created.api_key}"),)) as watcher:
        await watcher.begin()
        revocation = asyncio.create_task(revoke(api, created.key.key_id))
        told = await watcher.hear()
        await watcher.say(told.revision)
        await revocation
        await watcher.say(told.revision, renewal=2)
        with refused(grpc.StatusCode.UNAUTHENTICATED) as details:
            await watcher.hear()
        assert details.reason == "CALLER_KEY_REVOKED"


async def test_a_message_that_is_out_of_bounds_ends_the_stream_and_says_why(api: Api) -> None:
    async with watching(api) as watcher:
        await watcher.begin()
        await watcher.say(0, uses=[pb.KeptUse(key_id="key", verifications=0)])
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
            await watcher.hear()
        assert details.fields == ["uses[0].key_id", "uses[0].verifications"]


async def test_uses_of_kept_answers_are_counted_once_for_keys_of_the_callers_tenant(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "FLUSH_SECONDS", 0.05)
    async with api_on(postgres_url, redis_url) as api:
        await count_uses(api)


async def count_uses(api: Api) -> None:
    caller = await api.caller("acme")
    ours, theirs = await api.key("acme"), await api.key("other")
    uses = [
        pb.KeptUse(key_id=created.key.key_id, verifications=7, charges={"requests": 7, "tokens": 70})
        for created in (ours, theirs)
    ]
    async with watching(api, caller) as watcher:
        await watcher.say(0, uses=uses)
        await watcher.hear()
        await watcher.say(FAREWELL, uses=uses)
        assert await watcher.stream.read() is grpc.aio.EOF
    deadline = time.monotonic() + 5
    while await usage(api, ours.key.key_id) is None:
        assert time.monotonic() < deadline, "not counted in time"
        await asyncio.sleep(0.01)
    assert await usage(api, ours.key.key_id) == (14, {"requests": 14, "tokens": 140})
    assert await usage(api, theirs.key.key_id) is None


async def usage(api: Api, key_id: str) -> tuple[int, dict[str, int]] | None:
    """Verifications that were allowed, and units; None if nothing is counted."""
    response = await api.usage.GetUsage(usage_service_pb2.GetUsageRequest(key_id=key_id), metadata=api.root)
    used = [bucket for bucket in response.buckets if bucket.allowed]
    return (used[0].allowed, dict(used[0].units)) if used else None


async def test_a_client_that_never_opens_its_session_is_let_go(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "OPENING_SECONDS", 0.1)
    async with watching(api) as watcher:
        assert await asyncio.wait_for(watcher.stream.read(), 5) is grpc.aio.EOF


async def test_a_server_that_is_about_to_go_ends_its_streams(postgres_url: str, redis_url: str) -> None:
    draining = asyncio.Event()
    async with api_on(postgres_url, redis_url, draining=draining) as api, watching(api) as watcher:
        await watcher.begin()
        draining.set()
        assert await asyncio.wait_for(watcher.stream.read(), 5) is grpc.aio.EOF
        assert await watcher.stream.code() is grpc.StatusCode.OK
