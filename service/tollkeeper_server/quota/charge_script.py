"""The script that charges: how charges become its parts, and its integers answers. See the header of charge.lua."""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources

from tollkeeper_server.core.rate_window import RateDemand, RateOutcome, RateStanding
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, Grant, PoolStanding, Told, Verdict, home
from tollkeeper_server.storage.redis import Script

SCRIPT = Script(resources.files(__package__).joinpath("charge.lua").read_text())

RECORD_MS = 600_000
"""How long a charge that is made once is remembered."""

USAGES_MAX = 4096
"""Of how many different charges it is remembered how what they add to usage is packed."""

_MORE, _LAST = 1, 0


def parts_of(group: Sequence[Charge], epoch: str) -> Iterator[tuple[str, bytes]]:
    """Key and argument of each part of the item that makes a group of charges, which are the same but for records."""
    charge = group[0]
    records = [each.record for each in group] if charge.record else []
    are_many = len(group) > 1 and not records
    left = len(charge.scopes) + len(charge.pools) + (charge.times_max > 1) + len(records) + are_many
    left += charge.counted is not None

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
    for record in records:
        yield record, header(b"O") + struct.pack("<d", RECORD_MS)
    if are_many:
        yield home(charge), header(b"N") + struct.pack("<d", len(group))
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


def grant_argument(grant: Grant) -> bytes:
    """The only part of the item that hands a block to its pool; its key is the pool's name."""
    _, generation, makes_pool, *numbers = grant
    return struct.pack("<cBBdBddddd", b"G", _LAST, 0, generation, makes_pool, *numbers)


def told(groups: Sequence[Sequence[Charge]], answer: Sequence[int | Sequence[int]]) -> list[list[Told]]:
    """What the script answered to groups of charges: of each, who is told what, in order."""
    now_us, *runs = answer
    pairs = zip(runs[::2], runs[1::2], strict=True)
    return [list(_told_group(group, pairs, now_us)) for group in groups]  # type: ignore[arg-type]


def _told_group(group: Sequence[Charge], runs: Iterator[tuple[int, Sequence[int]]], now_us: int) -> Iterator[Told]:
    at = 0
    while at < len(group):
        number, figures = next(runs)
        yield Told(group[at : at + number], _answer(group[at], figures, now_us))
        at += number


def _answer(charge: Charge, figures: Sequence[int], now_us: int) -> ChargeAnswer:
    verdict = Verdict(figures[0])
    rest = iter(figures[2:])
    demands = [demand for scope in charge.scopes for demand in scope.demands]
    rates = [(demand, next(rest), next(rest), next(rest)) for demand in demands]
    pools = [[next(rest) for _ in range(5)] for _ in charge.pools]
    times, used_until_us = (next(rest), next(rest)) if charge.times_max > 1 else (1, 0)
    return ChargeAnswer(
        verdict,
        now_us,
        RateOutcome(
            admitted=verdict in (Verdict.ADMITTED, Verdict.REPLAYED),
            standings=tuple(
                RateStanding(demand.amount, used, reset_at_us if reset_at_us >= 0 else None, exceeded == 1)
                for demand, used, reset_at_us, exceeded in rates
            ),
            retry_after_us=figures[1] if figures[1] >= 0 else None,
            times=times,
        ),
        tuple(
            PoolStanding(used, exceeded == 1, generation, received, left)
            for used, exceeded, generation, received, left in pools
        ),
        used_until_us,
    )
