"""The rounds of the canary: make a key, see that it works, end it, see that it is dead everywhere and stays so."""

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import structlog

from tollkeeper import AsyncClient, CallError, CreatedKey, KeyChange, Propagation, RevokeReason
from tollkeeper_server.canary.metrics import CanaryMetrics
from tollkeeper_server.canary.ways import Undecided, Way

OWNER = "tollkeeper-canary"
KEY_SECONDS = 300
"""A key that the canary could not end ends by itself after so long."""
LOOK_AGAIN_AFTER_SECONDS = (1.0, 10.0, 60.0)
"""When an API key that is dead is looked at again: whatever brings it back to life comes late."""
PAUSE_SECONDS_MIN = 0.01
PAUSE_SECONDS_MAX = 1.0
STALE_SECONDS_MAX = 30.0
"""An API key that is allowed for longer than this is left to the later looks."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Revocation:
    """When a revocation was asked for, and from when on it holds everywhere, by the monotonic clock."""

    sent: float = 0.0
    holds_from: float | None = None

    def holds_at(self, moment: float) -> bool:
        """Whether a verification that starts at ``moment`` must be denied."""
        return self.holds_from is not None and moment >= self.holds_from


class Canary:
    """Plays rounds over all ``ways``; keys are made and ended through any of ``clients``."""

    def __init__(
        self, clients: Sequence[AsyncClient], ways: Sequence[Way], *, tenant_id: str | None, metrics: CanaryMetrics
    ) -> None:
        self._clients = clients
        self._ways = ways
        self._tenant_id = tenant_id
        self._metrics = metrics
        for way in ways:
            metrics.expect(way.name, way.address)

    async def run(self, *, interval_seconds: float) -> None:
        """Begin a round every ``interval_seconds`` until cancelled; then end the keys that are left."""
        async with asyncio.TaskGroup() as rounds:
            while True:
                rounds.create_task(self._round())
                await asyncio.sleep(interval_seconds)

    async def _round(self) -> None:
        try:
            await self._play()
        except CallError as error:
            self._metrics.failures.labels(error.method, "", error.status).inc()
            _log.error("canary_round_failed", method=error.method, status=error.status, message=error.message)
        else:
            self._metrics.rounds.inc()
            self._metrics.last_round.set_to_current_time()

    async def _play(self) -> None:
        created = await self._any_client().create_key(
            name="canary", owner_id=OWNER, ttl=timedelta(seconds=KEY_SECONDS), tenant_id=self._tenant_id
        )
        request_id = str(uuid4())
        revocation = _Revocation()
        looking = list[asyncio.Task[None]]()
        try:
            await self._see_that_it_works(created)
            revocation.sent = time.monotonic()
            looking += [asyncio.create_task(self._look_until_denied(way, created, revocation)) for way in self._ways]
            change = await self._revoke(created, request_id)
            revocation.holds_from = time.monotonic() + _seconds_left(change)
            self._metrics.revoke.observe(revocation.holds_from - revocation.sent)
            await asyncio.gather(*looking)
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
            if revocation.holds_from is None:
                with contextlib.suppress(CallError):
                    await self._revoke(created, request_id)
        await self._look_again(created, revocation)

    async def _revoke(self, created: CreatedKey, request_id: str) -> KeyChange:
        return await self._any_client().revoke_key(
            created.key.key_id, reason=RevokeReason.SUPERSEDED, comment="canary", request_id=request_id
        )

    def _any_client(self) -> AsyncClient:
        return random.choice(self._clients)  # noqa: S311 (spreads load)

    async def _see_that_it_works(self, created: CreatedKey) -> None:
        """Ask twice in every way, so that every cache that could know the key does."""
        for _ in range(2):
            for way in self._ways:
                if await self._allows(way, created) is False:
                    self._metrics.failures.labels(way.name, way.address, "DENIED").inc()
                    _log.error("canary_denied", key_id=created.key.key_id, path=way.name, address=way.address)

    async def _look_until_denied(self, way: Way, created: CreatedKey, revocation: _Revocation) -> None:
        """Ask again and again, from before the revocation until the first denial."""
        pause = PAUSE_SECONDS_MIN
        while revocation.holds_from is None or time.monotonic() < revocation.holds_from + STALE_SECONDS_MAX:
            if await self._look(way, created, revocation) is False:
                self._metrics.revoke_to_deny.labels(way.name, way.address).observe(time.monotonic() - revocation.sent)
                return
            await asyncio.sleep(pause)
            if revocation.holds_from is not None:
                pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _look_again(self, created: CreatedKey, revocation: _Revocation) -> None:
        assert revocation.holds_from is not None
        for seconds in LOOK_AGAIN_AFTER_SECONDS:
            await asyncio.sleep(revocation.holds_from + seconds - time.monotonic())
            await asyncio.gather(*(self._look(way, created, revocation) for way in self._ways))

    async def _look(self, way: Way, created: CreatedKey, revocation: _Revocation) -> bool | None:
        """Ask once; an answer that must not be is counted and logged."""
        started = time.monotonic()
        allows = await self._allows(way, created)
        if allows and revocation.holds_at(started):
            assert revocation.holds_from is not None
            self._metrics.stale_allows.labels(way.name, way.address).inc()
            _log.error(
                "canary_stale_allow",
                key_id=created.key.key_id,
                path=way.name,
                address=way.address,
                seconds_after=round(started - revocation.holds_from, 6),
            )
        return allows

    async def _allows(self, way: Way, created: CreatedKey) -> bool | None:
        """Whether the key is ALLOWED; None if nothing was decided."""
        try:
            allows = await way.allows(created.api_key)
        except Undecided as error:
            self._metrics.failures.labels(way.name, way.address, str(error)).inc()
            _log.warning("canary_undecided", path=way.name, address=way.address, status=str(error))
            return None
        self._metrics.probes.labels(way.name, way.address).inc()
        return allows


def _seconds_left(change: KeyChange) -> float:
    """How long it takes until the change holds everywhere."""
    if change.propagation is Propagation.EVERYWHERE:
        return 0.0
    if change.effective_at is None:
        return float("inf")
    return max(0.0, (change.effective_at - datetime.now(UTC)).total_seconds())
