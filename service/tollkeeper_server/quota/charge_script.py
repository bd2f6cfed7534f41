"""The script that charges: how charges become its parts, and its integers answers. See the header of charge.lua."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from tollkeeper_server.core.rate_window import RateDemand, RateOutcome, RateStanding
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, Grant, PoolStanding, Told, Verdict, home
from tollkeeper_server.storage.redis import Script

SCRIPT = Script(resources.files(__package__).joinpath("charge.lua").read_text())

RECORD_MS = 600_000
"""How long a charge that is made once is remembered."""

USAGES_MAX = 4096
"""Of how many different charges it is remembered how what they add to usage is packed."""


def parts_of(charge: Charge, number: int, records: Sequence[str], epoch: str) -> list[tuple[str, bytes]]:
    """Key and argument of each part of the item that stands for so many of the charge, each with a record or none."""
    parts = [(scope.name, b"R", _rates_argument(scope.limits, scope.demands)) for scope in charge.scopes]
    parts += [
        (pool.name, b"P", struct.pack("<ddBdd", pool.amount, pool.units, pool.shadow, *pool.window))
        for pool in charge.pools
    ]
    if charge.times_max > 1:
        parts.append((home(charge), b"K", struct.pack("<dd", charge.times_max, charge.lead_us)))
    parts += [(record, b"O", struct.pack("<d", RECORD_MS)) for record in records]
    if number > 1 and not records:
        parts.append((home(charge), b"N", struct.pack("<d", number)))
    if charge.counted:
        usage = _usage_argument(charge.counted.key_id, charge.counted.counts)
        parts.append((charge.counted.hash_name(epoch), b"U", usage))
    last = len(parts) - 1
    return [
        (key, kind + bytes((at < last, charge.consume)) + argument) for at, (key, kind, argument) in enumerate(parts)
    ]


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


def grant_argument(grant: Grant) -> bytes:
    """The only part of the item that hands a block to its pool; its key is the pool's name."""
    _, generation, makes_pool, *numbers = grant
    return struct.pack("<cBBdBddddd", b"G", 0, 0, generation, makes_pool, *numbers)


def told(charges: Sequence[Charge], groups: Sequence[Sequence[int]], answer: Sequence[Any]) -> list[Told]:
    """What the script answered to groups of charges, given by their positions."""
    found, at = [], 1
    for group in groups:
        done = 0
        while done < len(group):
            number, figures = answer[at : at + 2]
            found.append(Told(group[done : done + number], _answer(charges[group[0]], figures, answer[0])))
            done, at = done + number, at + 2
    return found


def _answer(charge: Charge, figures: Sequence[int], now_us: int) -> ChargeAnswer:
    verdict, at = Verdict(figures[0]), 2
    standings = []
    for scope in charge.scopes:
        for demand in scope.demands:
            used, reset_at_us, exceeded = figures[at : at + 3]
            standings.append(
                RateStanding(demand.amount, used, reset_at_us if reset_at_us >= 0 else None, exceeded == 1)
            )
            at += 3
    pools = []
    for _ in charge.pools:
        used, exceeded, generation, received, left = figures[at : at + 5]
        pools.append(PoolStanding(used, exceeded == 1, generation, received, left))
        at += 5
    times, used_until_us = figures[at:] if charge.times_max > 1 else (1, 0)
    admitted = verdict is Verdict.ADMITTED or verdict is Verdict.REPLAYED
    retry_after_us = figures[1] if figures[1] >= 0 else None
    rates = RateOutcome(admitted, tuple(standings), retry_after_us, times)
    return ChargeAnswer(verdict, now_us, rates, tuple(pools), used_until_us)
