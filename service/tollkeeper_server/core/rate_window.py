"""The window of RATE limits: a coalesced sliding log.

A log holds what was charged as entries in time order. Every unit of an entry counts until one window after the *last*
charge that went into the entry; a charge goes into the newest entry as long as that is younger than a twentieth of the
window, else it starts an entry of its own. So

- never more than ``amount`` units are admitted in any stretch of time as long as the window,
- a unit is given back one window after its charge, or up to a twentieth of a window (5 %) later, and never earlier,
- a log holds at most 21 entries, whatever it counts.

``quota/rate.lua`` does the same inside Redis; the tests hold the two against each other. Times are integers in
microseconds of one clock. Should that clock step back, what it counted in its future is taken as charged now: it counts
for one window more, and never for longer.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

GRANULES = 20
"""An entry takes in charges for this fraction of a window."""

COUNT_MAX = 2**53 - 1
"""Where a log stops counting: only shadow limits ever get there. Exact in a double, as Lua counts."""


class RateDemand(NamedTuple):
    """What a request asks of one limit."""

    amount: int
    """Units that the limit allows in a window."""
    window_us: int
    units: int
    """Units to charge; 0 asks for nothing, and always fits."""
    shadow: bool
    """The limit counts and never denies."""


class RateStanding(NamedTuple):
    """Where one limit stands after the charge or, where nothing was charged, as it is."""

    amount: int
    """As demanded."""
    used: int
    reset_at_us: int | None
    """When the last unit is given back; None if nothing is counted."""
    exceeded: bool
    """The units asked for do not fit."""


class RateOutcome(NamedTuple):
    """What came of a charge to several limits at once."""

    admitted: bool
    standings: tuple[RateStanding, ...]
    """One for each demand, in order."""
    retry_after_us: int | None
    """How long until the same charge fits if nothing else is charged; None if it was admitted, or never fits."""


@dataclass(slots=True)
class _Entry:
    first_us: int
    last_us: int
    count: int


class SlidingLog:
    """What was charged to one limit, as far as it still counts."""

    __slots__ = ("_entries", "used")

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self.used = 0
        """Units counted."""

    def advance(self, now_us: int, window_us: int) -> None:
        """Give back what has left the window by ``now_us``."""
        entries = self._entries
        if entries and entries[-1].last_us > now_us:
            self._step_back(now_us)
        while entries and entries[0].last_us + window_us <= now_us:
            self.used -= entries.popleft().count

    def add(self, units: int, now_us: int, window_us: int) -> None:
        """Count ``units`` more."""
        units = min(units, COUNT_MAX - self.used)
        if units <= 0:
            return
        self.used += units
        newest = self._entries[-1] if self._entries else None
        if newest is not None and now_us - newest.first_us < window_us // GRANULES:
            newest.last_us = now_us
            newest.count += units
        else:
            self._entries.append(_Entry(now_us, now_us, units))

    def reset_at_us(self, window_us: int) -> int | None:
        """When nothing is counted any more, if nothing is added."""
        return self._entries[-1].last_us + window_us if self._entries else None

    def wait_us(self, surplus: int, now_us: int, window_us: int) -> int:
        """How long until ``surplus`` of the units counted are given back."""
        for entry in self._entries:
            surplus -= entry.count
            if surplus <= 0:
                return entry.last_us + window_us - now_us
        raise ValueError("the log does not count as much")

    def _step_back(self, now_us: int) -> None:
        future = _Entry(now_us, now_us, 0)
        while self._entries and self._entries[-1].last_us > now_us:
            future.count += self._entries.pop().count
        self._entries.append(future)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)


def charge(logs: Sequence[SlidingLog], demands: Sequence[RateDemand], *, now_us: int, consume: bool) -> RateOutcome:
    """Charge what ``demands`` ask to their ``logs``: to all of them, or to none if one that may deny has no room.

    Without ``consume`` nothing is charged, and the outcome is the same but for the standings.
    """
    pairs = list(zip(logs, demands, strict=True))
    for log, demand in pairs:
        log.advance(now_us, demand.window_us)
    exceeded = [demand.units > 0 and log.used + demand.units > demand.amount for log, demand in pairs]
    denials = [pair for pair, full in zip(pairs, exceeded, strict=True) if full and not pair[1].shadow]
    if consume and not denials:
        for log, demand in pairs:
            log.add(demand.units, now_us, demand.window_us)
    return RateOutcome(
        admitted=not denials,
        standings=tuple(
            RateStanding(demand.amount, log.used, log.reset_at_us(demand.window_us), full)
            for (log, demand), full in zip(pairs, exceeded, strict=True)
        ),
        retry_after_us=_retry_after(denials, now_us),
    )


def _retry_after(denials: Sequence[tuple[SlidingLog, RateDemand]], now_us: int) -> int | None:
    if not denials or any(demand.units > demand.amount for _, demand in denials):
        return None
    return max(
        log.wait_us(log.used + demand.units - demand.amount, now_us, demand.window_us) for log, demand in denials
    )
