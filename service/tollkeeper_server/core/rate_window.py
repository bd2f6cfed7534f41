"""The window of RATE limits: a coalesced sliding log.

A log holds what was charged as entries in time order. Every unit of an entry counts until one window after the *last*
charge that went into the entry; a charge goes into the newest entry as long as that is younger than a twentieth of the
window, else it starts an entry of its own. So

- never more than ``amount`` units are admitted in any stretch of time as long as the window,
- a unit is given back one window after its charge, or up to a twentieth of a window (5 %) later, and never earlier,
- a log holds at most 21 entries, whatever it counts.

**Lead.** The units of an answer that is kept are charged at once and used later: those charged at ``t`` with a lead of
``g`` at any moment from ``t`` to ``t + g``. They are entered as if charged at ``t + g``, and the last charge of an
entry never moves back: what is charged without a lead goes in behind what has one. Then never more than ``amount``
units are *used* in any stretch of time as long as the window.

Proof: take a stretch from ``s`` on and before ``s + window``, and of all charges that are used in it the one made
last, at ``t``; so ``t < s + window``. Each of the others was made at ``t`` or before, and entered at the moment of its
last use or later, so not before ``s``: its entry counts until ``s + window`` at least, which is after ``t``. So all of
them were counted when the last one was made, and together with it they fitted into ``amount``.

The price: a unit may be given back as much later as the lead is long, and a log holds up to 22 entries. A lead is at
most a twentieth of the window, and at most LEAD_MAX_US.

``quota/charge.lua`` does the same inside Redis; the tests hold the two against each other. Times are integers in
microseconds of one clock. Should that clock step back, what it counted more than LEAD_MAX_US in its future is taken as
charged so far ahead of now, for it may still be used until then: it counts for one window and a second, and never for
longer.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

GRANULES = 20
"""An entry takes in charges for this fraction of a window."""

LEAD_MAX_US = 1_000_000
"""How long after their charge units may be used, at most."""

PART = 100
"""Verifications still to come are charged only this part of what a limit has left, so that others get theirs."""

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
    times: int = 1
    """How often it was made at once."""


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
        if entries and entries[-1].last_us > now_us + LEAD_MAX_US:
            self._step_back(now_us + LEAD_MAX_US)
        while entries and entries[0].last_us + window_us <= now_us:
            self.used -= entries.popleft().count

    def add(self, units: int, now_us: int, window_us: int, *, lead_us: int = 0) -> None:
        """Count ``units`` more, which are used until ``lead_us`` from now."""
        units = min(units, COUNT_MAX - self.used)
        if units <= 0:
            return
        self.used += units
        newest = self._entries[-1] if self._entries else None
        at_us = now_us + lead_us if newest is None else max(now_us + lead_us, newest.last_us)
        if newest is not None and at_us - newest.first_us < window_us // GRANULES:
            newest.last_us = at_us
            newest.count += units
        else:
            self._entries.append(_Entry(at_us, at_us, units))

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

    def _step_back(self, latest_us: int) -> None:
        future = _Entry(latest_us, latest_us, 0)
        while self._entries and self._entries[-1].last_us > latest_us:
            future.count += self._entries.pop().count
        self._entries.append(future)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)


def charge(
    logs: Sequence[SlidingLog],
    demands: Sequence[RateDemand],
    *,
    now_us: int,
    consume: bool,
    times_max: int = 1,
    lead_us: int = 0,
) -> RateOutcome:
    """Charge what ``demands`` ask to their ``logs``: to all of them, or to none if one that may deny has no room.

    Without ``consume`` nothing is charged, and the outcome is the same but for the standings. The charge is made up to
    ``times_max`` times at once, as often as fits into a hundredth of what every limit has left, but once at least; if
    it is made more than once, then with a lead.
    """
    pairs = list(zip(logs, demands, strict=True))
    for log, demand in pairs:
        log.advance(now_us, demand.window_us)
    exceeded = [demand.units > 0 and log.used + demand.units > demand.amount for log, demand in pairs]
    denials = [pair for pair, full in zip(pairs, exceeded, strict=True) if full and not pair[1].shadow]
    times = 1
    if consume and not denials:
        times = max(1, min([times_max, *(_times(log, demand) for log, demand in pairs if _bounds(demand))]))
        for log, demand in pairs:
            log.add(demand.units * times, now_us, demand.window_us, lead_us=lead_us if times > 1 else 0)
    return RateOutcome(
        admitted=not denials,
        standings=tuple(
            RateStanding(demand.amount, log.used, log.reset_at_us(demand.window_us), full)
            for (log, demand), full in zip(pairs, exceeded, strict=True)
        ),
        retry_after_us=_retry_after(denials, now_us),
        times=times,
    )


def _bounds(demand: RateDemand) -> bool:
    return demand.units > 0 and not demand.shadow


def _times(log: SlidingLog, demand: RateDemand) -> int:
    return (demand.amount - log.used) // (PART * demand.units)


def _retry_after(denials: Sequence[tuple[SlidingLog, RateDemand]], now_us: int) -> int | None:
    if not denials or any(demand.units > demand.amount for _, demand in denials):
        return None
    return max(
        log.wait_us(log.used + demand.units - demand.amount, now_us, demand.window_us) for log, demand in denials
    )
