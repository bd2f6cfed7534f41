"""RATE limits in Redis: many charges in one run of one script."""

import asyncio
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.rate_window import RateDemand, RateOutcome, RateStanding
from tollkeeper_server.storage.redis import Redis, Script

SCRIPT = Script(resources.files(__package__).joinpath("rate.lua").read_text())


class RateScope(NamedTuple):
    """What a charge asks of the RATE limits of one key, or of one owner."""

    name: str
    """What their logs are kept under."""
    limits: tuple[str, ...]
    """Names of the limits."""
    demands: tuple[RateDemand, ...]
    """What is asked of each."""


class RateCharge(NamedTuple):
    """A charge to the RATE limits of one scope or more: to all of them, or to none."""

    scopes: tuple[RateScope, ...]
    """At least one; the names of all share a hash tag."""
    consume: bool
    """False decides as if the charge were made, and charges nothing."""


class RateStore:
    """The logs of all RATE limits, in Redis. The clock is Redis's own, so servers need not agree on the time."""

    def __init__(self, redis: Redis, *, script: Script = SCRIPT) -> None:
        self._redis = redis
        self._script = script

    async def charge(self, charges: Sequence[RateCharge], *, timeout_seconds: float) -> list[RateOutcome | Unavailable]:
        """Make each charge on its own, in order, and give what came of it.

        That is Unavailable if Redis failed or did not answer in time; the charge may have been made.
        """
        by_slot = defaultdict(list)
        for position, charge in enumerate(charges):
            by_slot[self._redis.slot(charge.scopes[0].name)].append(position)
        if len(by_slot) == 1:
            return await self._run(charges, timeout_seconds)
        outcomes: dict[int, RateOutcome | Unavailable] = {}

        async def run(positions: list[int]) -> None:
            answers = await self._run([charges[position] for position in positions], timeout_seconds)
            outcomes.update(zip(positions, answers, strict=True))

        await asyncio.gather(*map(run, by_slot.values()))
        return [outcomes[position] for position in range(len(charges))]

    async def _run(self, charges: Sequence[RateCharge], timeout_seconds: float) -> list[RateOutcome | Unavailable]:
        keys = [scope.name for charge in charges for scope in charge.scopes]
        arguments = [argument for charge in charges for argument in _encode(charge)]
        try:
            answers = await self._redis.run(
                self._script, keys=keys, arguments=arguments, timeout_seconds=timeout_seconds
            )
        except Unavailable as fault:
            return [fault] * len(charges)
        return [_decode(charge, answer) for charge, answer in zip(charges, answers, strict=True)]


def _encode(charge: RateCharge) -> Iterator[bytes]:
    """One argument for each scope, as the header of rate.lua says."""
    last = len(charge.scopes) - 1
    for number, scope in enumerate(charge.scopes):
        argument = bytearray((len(scope.limits), number < last, charge.consume))
        for limit, demand in zip(scope.limits, scope.demands, strict=True):
            name = limit.encode()
            argument += struct.pack(f"<B{len(name)}sdddB", len(name), name, *demand)
        yield bytes(argument)


def _decode(charge: RateCharge, answer: Sequence[int]) -> RateOutcome:
    admitted, retry_after_us = answer[:2]
    figures = iter(answer[2:])
    demands = (demand for scope in charge.scopes for demand in scope.demands)
    return RateOutcome(
        admitted=admitted == 1,
        standings=tuple(
            RateStanding(demand.amount, used, reset_at_us if reset_at_us >= 0 else None, exceeded == 1)
            for demand, used, reset_at_us, exceeded in zip(demands, figures, figures, figures, strict=True)
        ),
        retry_after_us=retry_after_us if retry_after_us >= 0 else None,
    )
