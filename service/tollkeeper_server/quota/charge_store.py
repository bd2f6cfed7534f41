"""The counters of limits in Redis: many charges in one run of one script."""

import asyncio
import enum
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.rate_window import RateDemand, RateOutcome, RateStanding
from tollkeeper_server.core.windows import Window
from tollkeeper_server.storage.redis import Redis, Script
from tollkeeper_server.usage.hashes import Counted

SCRIPT = Script(resources.files(__package__).joinpath("charge.lua").read_text())

RECORD_MS = 600_000
"""How long a charge that is made once is remembered."""

_TOLD = b"1"
"""The record of a charge that was made elsewhere."""
_COUNTED = b"\xc3"
"""How the record of one that was made here ends if its usage was counted: "true", as MessagePack."""

EPOCH_TIMEOUT_SECONDS = 0.5
REMEMBER_TIMEOUT_SECONDS = 2.0

USAGES_MAX = 4096
"""Of how many different charges it is remembered how what they add to usage is packed."""

_MORE, _LAST = 1, 0


class RateScope(NamedTuple):
    """What a charge asks of the RATE limits of one key, or of one owner."""

    name: str
    """What their logs are kept under."""
    limits: tuple[str, ...]
    """Names of the limits."""
    demands: tuple[RateDemand, ...]
    """What is asked of each."""


class PoolDemand(NamedTuple):
    """What a charge asks of one QUOTA or SPEND limit."""

    name: str
    """What its pool is kept under."""
    account: str
    """Its account in the ledger."""
    amount: int
    units: int
    shadow: bool
    window: Window


class Charge(NamedTuple):
    """A charge to limits: to all of them, or to none. The names of all its parts share a hash tag."""

    scopes: tuple[RateScope, ...]
    consume: bool
    """False decides as if the charge were made, and charges nothing."""
    pools: tuple[PoolDemand, ...] = ()
    record: str = ""
    """What the charge is remembered under, so that it is made once; empty if it is not."""
    times_max: int = 1
    """How often it may be made at once, for an answer that is kept; only with ``consume``."""
    lead_us: int = 0
    """How much later its units may be used, if it is made more than once."""
    counted: Counted | None = None
    """What it adds to usage, if it is made."""

    @property
    def needs_epoch(self) -> bool:
        """Whether the store must not have lost what it counts for this."""
        return bool(self.pools) or self.counted is not None


class Verdict(enum.Enum):
    """What came of a charge."""

    DENIED = 0
    ADMITTED = 1
    LACKING = 2
    """Pools must be refilled first; nothing was charged."""
    MOVED = 3
    """A window was not the one that the store's clock is in; nothing was charged."""
    REPLAYED = 4
    """Admitted and charged before."""


class PoolStanding(NamedTuple):
    """Where one QUOTA or SPEND limit stands after the charge or, where nothing was charged, as it is."""

    used: int
    """-1 if there is no pool."""
    exceeded: bool
    generation: int
    """Which pool of its account this is; -1 if there is none."""
    received: int
    """Units that the pool has got so far."""
    left: int
    """Units that it still holds."""


class ChargeAnswer(NamedTuple):
    """What the store says to a charge."""

    verdict: Verdict
    now_us: int
    """The store's time."""
    rates: RateOutcome
    """One standing for each RATE limit; it also says whether the charge was admitted, and when it would be."""
    pools: tuple[PoolStanding, ...]
    used_until_us: int = 0
    """When the last of its units is used, if it was made more than once: ``rates.times`` times."""


class Grant(NamedTuple):
    """A block of units, debited from the ledger, on its way to a pool."""

    name: str
    generation: int
    makes_pool: bool
    units: int
    debited: int
    """What the ledger stands at, of which ``revision`` tells old from new."""
    revision: int
    ends_us: int
    expires_us: int
    """From when on, by the store's clock, the grant is void."""


class ChargeStore:
    """The counters of all limits, in Redis. The clock is Redis's own, so servers need not agree on the time."""

    def __init__(self, redis: Redis, *, script: Script = SCRIPT) -> None:
        self._redis = redis
        self._plain = script
        self._of_epoch: Script | None = None
        self._epoch = ""
        self.touched: set[str] = set()
        """Hashes that charges may have counted usage in; for whoever stores that to take."""

    async def remember(self, records: Sequence[str]) -> dict[str, bool]:
        """Remember charges that were made elsewhere, and give those that were made here as well. Raises Unavailable.

        Of each it tells whether its usage was counted here.
        """
        found = await self._redis.set_missing(
            records, _TOLD, lifetime_ms=RECORD_MS, timeout_seconds=REMEMBER_TIMEOUT_SECONDS
        )
        charged = {record: was for record, was in zip(records, found, strict=True) if was not in (None, _TOLD)}
        return {record: was is not None and was.endswith(_COUNTED) for record, was in charged.items()}

    async def knows(self, epoch: str) -> bool:
        """Whether Redis is still in ``epoch``: neither restarted nor replaced since that began. Raises Unavailable."""
        return await self._redis.knows(self._script_of(epoch), timeout_seconds=EPOCH_TIMEOUT_SECONDS)

    async def begin(self, epoch: str) -> None:
        """Let Redis know ``epoch``. Raises Unavailable."""
        await self._redis.load(self._script_of(epoch), timeout_seconds=EPOCH_TIMEOUT_SECONDS)

    def enter(self, epoch: str) -> None:
        """From now on trust the pools of ``epoch`` and no others, and count usage in its hashes."""
        self._of_epoch = self._script_of(epoch)
        self._epoch = epoch

    async def charge(self, charges: Sequence[Charge], *, timeout_seconds: float) -> list[ChargeAnswer | Unavailable]:
        """Make each charge on its own, in order, and give what came of it.

        That is Unavailable if Redis failed or did not answer in time; the charge may have been made. ScriptLost says
        that Redis was restarted or replaced, so that nothing can be known about its pools; nothing was charged.
        """
        runs: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
        for position, charge in enumerate(charges):
            runs[self._redis.slot(home(charge)), charge.needs_epoch].append(position)
        if len(runs) == 1:
            return await self._run(charges, timeout_seconds)
        answers: dict[int, ChargeAnswer | Unavailable] = {}

        async def run(positions: list[int]) -> None:
            outcome = await self._run([charges[position] for position in positions], timeout_seconds)
            answers.update(zip(positions, outcome, strict=True))

        await asyncio.gather(*map(run, runs.values()))
        return [answers[position] for position in range(len(charges))]

    async def grant(self, grants: Sequence[Grant], *, timeout_seconds: float) -> None:
        """Hand blocks to their pools; what does not arrive is void. Raises Unavailable if that cannot be known."""
        by_slot: defaultdict[int, list[Grant]] = defaultdict(list)
        for each in grants:
            by_slot[self._redis.slot(each.name)].append(each)
        await asyncio.gather(
            *(
                self._redis.run(
                    self._script(needs_epoch=True),
                    keys=[each.name for each in together],
                    arguments=[_grant_argument(each) for each in together],
                    timeout_seconds=timeout_seconds,
                )
                for together in by_slot.values()
            )
        )

    async def _run(self, charges: Sequence[Charge], timeout_seconds: float) -> list[ChargeAnswer | Unavailable]:
        parts = [part for charge in charges for part in _parts(charge, self._epoch)]
        self.touched.update(charge.counted.hash_name(self._epoch) for charge in charges if charge.counted)
        try:
            now_us, *answers = await self._redis.run(
                self._script(needs_epoch=charges[0].needs_epoch),
                keys=[key for key, _ in parts],
                arguments=[argument for _, argument in parts],
                timeout_seconds=timeout_seconds,
            )
        except Unavailable as fault:
            return [fault] * len(charges)
        return [_decode(charge, answer, now_us) for charge, answer in zip(charges, answers, strict=True)]

    def _script_of(self, epoch: str) -> Script:
        return Script(self._plain.text.replace("@EPOCH@", epoch), is_pinned=True)

    def _script(self, *, needs_epoch: bool) -> Script:
        if not needs_epoch:
            return self._plain
        if self._of_epoch is None:
            raise Unavailable("the epoch of Redis is not known yet", reason="REDIS_UNAVAILABLE")
        return self._of_epoch


def home(charge: Charge) -> str:
    """A name that tells the slot of the charge."""
    return charge.scopes[0].name if charge.scopes else charge.pools[0].name


def _parts(charge: Charge, epoch: str) -> Iterator[tuple[str, bytes]]:
    """Key and argument of each part, as the header of charge.lua says."""
    left = len(charge.scopes) + len(charge.pools) + (charge.times_max > 1) + bool(charge.record) + bool(charge.counted)

    def header(kind: bytes) -> bytes:
        nonlocal left
        left -= 1
        return struct.pack("<cBB", kind, _MORE if left else _LAST, charge.consume)

    for scope in charge.scopes:
        yield scope.name, header(b"R") + _rates_argument(scope.limits, scope.demands)
    for pool in charge.pools:
        yield pool.name, header(b"P") + struct.pack("<ddBdd", pool.amount, pool.units, pool.shadow, *pool.window)
    if charge.times_max > 1:
        yield home(charge), header(b"K") + struct.pack("<dd", charge.times_max, charge.lead_us)
    if charge.record:
        yield charge.record, header(b"O") + struct.pack("<d", RECORD_MS)
    if charge.counted:
        yield (
            charge.counted.hash_name(epoch),
            header(b"U") + _usage_argument(charge.counted.key_id, charge.counted.counts),
        )


@lru_cache(maxsize=4096)
def _rates_argument(limits: Sequence[str], demands: Sequence[RateDemand]) -> bytes:
    """Most requests ask the same of the same limits."""
    argument = bytearray([len(limits)])
    for limit, demand in zip(limits, demands, strict=True):
        argument += _text(limit) + struct.pack("<dddB", *demand)
    return bytes(argument)


@lru_cache(maxsize=USAGES_MAX)
def _usage_argument(key_id: str, counts: tuple[tuple[str, int], ...]) -> bytes:
    argument = bytearray(_text(key_id))
    argument.append(len(counts))
    for name, amount in counts:
        argument += _text(name) + struct.pack("<d", amount)
    return bytes(argument)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return bytes((len(encoded),)) + encoded


def _grant_argument(grant: Grant) -> bytes:
    _, generation, makes_pool, *numbers = grant
    return struct.pack("<cBBdBddddd", b"G", _LAST, 0, generation, makes_pool, *numbers)


def _decode(charge: Charge, answer: Sequence[int], now_us: int) -> ChargeAnswer:
    verdict = Verdict(answer[0])
    figures = iter(answer[2:])
    demands = [demand for scope in charge.scopes for demand in scope.demands]
    rates = [(demand, next(figures), next(figures), next(figures)) for demand in demands]
    pools = [[next(figures) for _ in range(5)] for _ in charge.pools]
    times, used_until_us = (next(figures), next(figures)) if charge.times_max > 1 else (1, 0)
    return ChargeAnswer(
        verdict,
        now_us,
        RateOutcome(
            admitted=verdict in (Verdict.ADMITTED, Verdict.REPLAYED),
            standings=tuple(
                RateStanding(demand.amount, used, reset_at_us if reset_at_us >= 0 else None, exceeded == 1)
                for demand, used, reset_at_us, exceeded in rates
            ),
            retry_after_us=answer[1] if answer[1] >= 0 else None,
            times=times,
        ),
        tuple(
            PoolStanding(used, exceeded == 1, generation, received, left)
            for used, exceeded, generation, received, left in pools
        ),
        used_until_us,
    )
