"""The sliding log against a log that forgets nothing, and against itself with faults planted."""

import copy
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.rate_window import (
    COUNT_MAX,
    GRANULES,
    LEAD_MAX_US,
    RateDemand,
    RateOutcome,
    SlidingLog,
    charge,
)

WINDOW = 60_000_000
GRANULE = WINDOW // GRANULES
ENTRIES_MAX = 21


class Event(NamedTuple):
    after_us: int
    units: int


steps = st.one_of(
    st.integers(0, 2 * WINDOW), st.integers(0, GRANULE), st.sampled_from([GRANULE - 1, GRANULE, WINDOW - 1, WINDOW])
)
histories = st.lists(st.builds(Event, steps, st.integers(0, 12)), max_size=60)


def ask(log: SlidingLog, units: int, *, amount: int, now_us: int) -> RateOutcome:
    demand = RateDemand(amount=amount, window_us=WINDOW, units=units, shadow=False)
    return charge([log], [demand], now_us=now_us, consume=True)


def check(history: list[Event], log: SlidingLog, *, amount: int = 10) -> None:
    """Play ``history`` and hold every answer against what was really admitted."""
    now = 1_800_000_000_000_000
    admitted: list[tuple[int, int]] = []

    def counted(window_us: int) -> int:
        return sum(units for at, units in admitted if at + window_us > now)

    for after_us, units in history:
        now += after_us
        outcome = ask(log, units, amount=amount, now_us=now)
        if outcome.admitted:
            admitted.append((now, units))
            assert counted(WINDOW) <= amount or units == 0, "too much was admitted within a window"
            assert outcome.retry_after_us is None
        else:
            assert counted(WINDOW + GRANULE) + units > amount, "a unit was given back too late"
            check_retry(log, units, outcome, amount=amount, now_us=now)
        (standing,) = outcome.standings
        assert counted(WINDOW) <= standing.used <= counted(WINDOW + GRANULE)
        assert (standing.reset_at_us is None) == (standing.used == 0)
        assert standing.exceeded is not outcome.admitted
        assert len(log) <= ENTRIES_MAX


def check_retry(log: SlidingLog, units: int, denial: RateOutcome, *, amount: int, now_us: int) -> None:
    retry_after_us = denial.retry_after_us
    assert (retry_after_us is None) == (units > amount), "waiting helps unless the charge is larger than the limit"
    if retry_after_us is not None:
        assert 0 < retry_after_us <= WINDOW
        then_us = now_us + retry_after_us
        assert ask(copy.deepcopy(log), units, amount=amount, now_us=then_us).admitted
        assert not ask(copy.deepcopy(log), units, amount=amount, now_us=then_us - 1).admitted


@given(histories)
def test_never_too_much_in_any_window_and_never_given_back_more_than_a_twentieth_late(history: list[Event]) -> None:
    check(history, SlidingLog())


class ExtendedByReads(SlidingLog):
    """Looking at the log makes what it counts younger."""

    def advance(self, now_us: int, window_us: int) -> None:
        super().advance(now_us, window_us)
        if self._entries:
            self._entries[-1].last_us = now_us


class CountedFromFirst(SlidingLog):
    """An entry counts from its first charge on, not from its last."""

    def add(self, units: int, now_us: int, window_us: int, *, lead_us: int = 0) -> None:
        super().add(units, now_us, window_us, lead_us=lead_us)
        if self._entries:
            self._entries[-1].last_us = self._entries[-1].first_us


class NeverSplit(SlidingLog):
    """Everything goes into the newest entry."""

    def add(self, units: int, now_us: int, window_us: int, *, lead_us: int = 0) -> None:
        if self._entries:
            self._entries[-1].first_us = now_us
        super().add(units, now_us, window_us, lead_us=lead_us)


class Forgetful(SlidingLog):
    """Expired entries take one more unit along."""

    def advance(self, now_us: int, window_us: int) -> None:
        before = self.used
        super().advance(now_us, window_us)
        self.used = max(0, self.used - (self.used < before))


@pytest.mark.parametrize("faulty", [ExtendedByReads, CountedFromFirst, NeverSplit, Forgetful])
def test_the_check_sees_planted_faults(faulty: Callable[[], SlidingLog]) -> None:
    choice = random.Random(7)
    history = [Event(choice.randrange(GRANULE * 3), choice.randrange(4)) for _ in range(10_000)]
    with pytest.raises(AssertionError):
        check(history, faulty())


def demand(amount: int, units: int = 1, *, seconds: int = 60, shadow: bool = False) -> RateDemand:
    return RateDemand(amount=amount, window_us=seconds * 1_000_000, units=units, shadow=shadow)


def test_several_limits_are_charged_all_or_nothing() -> None:
    logs = [SlidingLog(), SlidingLog()]
    demands = [demand(5), demand(2, seconds=3600)]
    outcomes = [charge(logs, demands, now_us=now, consume=True) for now in range(4)]
    assert [outcome.admitted for outcome in outcomes] == [True, True, False, False]
    assert [log.used for log in logs] == [2, 2]
    assert [standing.exceeded for standing in outcomes[-1].standings] == [False, True]


def test_waiting_is_for_the_slowest_of_the_limits_that_deny() -> None:
    logs = [SlidingLog(), SlidingLog(), SlidingLog()]
    demands = [demand(1), demand(1, seconds=3600), demand(9, seconds=86_400)]
    charge(logs, demands, now_us=0, consume=True)
    assert charge(logs, demands, now_us=1_000_000, consume=True).retry_after_us == 3_599_000_000


def test_waiting_never_helps_if_one_of_the_charges_is_larger_than_its_limit() -> None:
    logs = [SlidingLog(), SlidingLog()]
    charge(logs, [demand(1), demand(5)], now_us=0, consume=True)
    outcome = charge(logs, [demand(1), demand(5, 6)], now_us=1, consume=True)
    assert not outcome.admitted
    assert outcome.retry_after_us is None


def test_a_shadow_limit_counts_and_tells_but_never_denies() -> None:
    log = SlidingLog()
    outcomes = [charge([log], [demand(1, shadow=True)], now_us=now, consume=True) for now in range(3)]
    assert all(outcome.admitted for outcome in outcomes)
    assert [outcome.standings[0].exceeded for outcome in outcomes] == [False, True, True]
    assert log.used == 3


def test_a_shadow_limit_is_not_charged_for_what_another_limit_denies() -> None:
    shadow, hard = SlidingLog(), SlidingLog()
    for now in range(3):
        charge([shadow, hard], [demand(9, shadow=True), demand(1)], now_us=now, consume=True)
    assert (shadow.used, hard.used) == (1, 1)


def test_a_dry_run_gives_the_same_answer_and_charges_nothing() -> None:
    log = SlidingLog()
    for units, admitted in ((1, True), (2, True), (3, False)):
        outcome = charge([log], [demand(2, units)], now_us=0, consume=False)
        assert outcome.admitted is admitted
        assert outcome.standings[0].used == 0
    assert len(log) == 0


def test_a_charge_of_zero_fits_even_where_more_is_counted_than_allowed() -> None:
    log = SlidingLog()
    charge([log], [demand(5, 5)], now_us=0, consume=True)
    lowered = charge([log], [demand(3, 0)], now_us=1, consume=True)
    assert lowered.admitted
    assert lowered.standings[0].used == 5


def test_a_changed_amount_holds_at_once_for_what_is_counted() -> None:
    log = SlidingLog()
    charge([log], [demand(5, 5)], now_us=0, consume=True)
    assert not charge([log], [demand(5)], now_us=1, consume=True).admitted
    assert charge([log], [demand(6)], now_us=1, consume=True).admitted
    lowered = charge([log], [demand(3)], now_us=2, consume=True)
    assert not lowered.admitted
    assert lowered.standings[0].used == 6


def test_a_changed_window_counts_what_was_charged_within_it() -> None:
    log = SlidingLog()
    charge([log], [demand(5, 2, seconds=3600)], now_us=0, consume=True)
    charge([log], [demand(5, 3, seconds=3600)], now_us=1_800_000_000, consume=True)
    shortened = charge([log], [demand(5, seconds=60)], now_us=1_800_000_001, consume=False)
    assert shortened.standings[0].used == 3


def test_a_clock_that_steps_back_keeps_what_was_counted_for_one_window_and_a_lead_and_no_longer() -> None:
    log = SlidingLog()
    hour = 3_600_000_000
    for step in range(4):
        ask(log, 1, amount=4, now_us=hour + step * GRANULE)
    stepped_back = ask(log, 1, amount=4, now_us=GRANULE)
    assert not stepped_back.admitted
    assert stepped_back.retry_after_us == LEAD_MAX_US + WINDOW
    assert ask(log, 4, amount=4, now_us=GRANULE + LEAD_MAX_US + WINDOW).admitted


def test_a_shadow_limit_stops_counting_where_numbers_stop_being_exact() -> None:
    log = SlidingLog()
    for now in range(12):
        charge([log], [demand(1, 10**15, shadow=True)], now_us=now, consume=True)
    assert log.used == COUNT_MAX


LEAD = LEAD_MAX_US
LEADING_ENTRIES_MAX = 22


class Block(NamedTuple):
    """A charge, and when each of the verifications that it is for comes: parts of its lead, in 1000ths."""

    after_us: int
    units: int
    times_max: int
    used_at: tuple[int, ...]


blocks = st.builds(
    Block,
    steps | st.integers(0, LEAD),
    st.integers(0, 3),
    st.sampled_from([1, 1, 2, 5, 1000]),
    st.lists(st.sampled_from([0, 1, 500, 999, 1000]), max_size=40).map(tuple),
)


def random_blocks(seed: int) -> list[Block]:
    """More than a limit of 1,000 has room for."""
    choice = random.Random(seed)

    def block() -> Block:
        after_us = choice.choice((0, 0, 0, 1, LEAD // 10, LEAD // 2, LEAD))
        used_at = tuple(choice.choice((0, 1000)) for _ in range(10))
        return Block(after_us, choice.choice((1, 2, 5, 20)), choice.choice((1, 9)), used_at)

    return [block() for _ in range(1000)]


def play(history: list[Block], log: SlidingLog, *, amount: int) -> list[tuple[int, int]]:
    """When how many units are used by answers that are kept, each somewhere in its lead, and those that are not."""
    now, uses = 1_800_000_000_000_000, []
    for after_us, units, times_max, used_at in history:
        now += after_us
        demand = RateDemand(amount=amount, window_us=WINDOW, units=units, shadow=False)
        left = amount - log.used
        outcome = charge([log], [demand], now_us=now, consume=True, times_max=times_max, lead_us=LEAD)
        assert len(log) <= LEADING_ENTRIES_MAX
        if not outcome.admitted:
            continue
        assert 1 <= outcome.times <= times_max
        assert outcome.times == 1 or outcome.times * units <= amount // 100 + left
        moments = used_at[: outcome.times] or (1000,)
        at = [
            now + (LEAD * moments[number % len(moments)] // 1000 if outcome.times > 1 else 0)
            for number in range(outcome.times)
        ]
        uses += [(moment, units) for moment in at]
        assert outcome.standings[0].used <= amount or units == 0
    return sorted(uses)


def most_in_a_window(uses: list[tuple[int, int]]) -> int:
    """The most units used in any stretch of time as long as the window."""
    most = within = first = 0
    for at, units in uses:
        within += units
        while uses[first][0] + WINDOW <= at:
            within -= uses[first][1]
            first += 1
        most = max(most, within)
    return most


@given(st.lists(blocks, max_size=40), st.sampled_from([10, 200, 1000]))
def test_answers_that_are_kept_never_use_too_much_in_any_window(history: list[Block], amount: int) -> None:
    assert most_in_a_window(play(history, SlidingLog(), amount=amount)) <= amount


@pytest.mark.parametrize("seed", range(5))
def test_busy_answers_that_are_kept_never_use_too_much_in_any_window(seed: int) -> None:
    most = most_in_a_window(play(random_blocks(seed), SlidingLog(), amount=1000))
    assert 900 < most <= 1000, "the window is full, and never over-full"


class WithoutLead(SlidingLog):
    """What is used later counts from its charge on."""

    def add(self, units: int, now_us: int, window_us: int, *, lead_us: int = 0) -> None:
        super().add(units, now_us, window_us)


class MovesBack(SlidingLog):
    """What has no lead takes it away from what goes into the same entry."""

    def add(self, units: int, now_us: int, window_us: int, *, lead_us: int = 0) -> None:
        super().add(units, now_us, window_us, lead_us=lead_us)
        if self._entries and units:
            self._entries[-1].last_us = now_us + lead_us


@pytest.mark.parametrize("faulty", [WithoutLead, MovesBack])
def test_uses_beyond_a_window_are_seen_where_leads_are_not_counted(faulty: Callable[[], SlidingLog]) -> None:
    history = [Block(0, 1, 9, (1000,)), Block(1, 1, 1, ()), Block(WINDOW, 1000, 1, ())]
    assert most_in_a_window(play(history, SlidingLog(), amount=1000)) <= 1000
    assert most_in_a_window(play(history, faulty(), amount=1000)) > 1000


def test_a_charge_for_verifications_to_come_takes_a_hundredth_of_what_is_left() -> None:
    log = SlidingLog()
    asked = {"now_us": 0, "consume": True, "times_max": 50, "lead_us": LEAD}
    assert [charge([log], [demand(1000, 2)], **asked).times for _ in range(3)] == [5, 4, 4]  # type: ignore[arg-type]
    charge([log], [demand(1000, 1000 - log.used - 1)], now_us=0, consume=True)
    last = charge([log], [demand(1000, 1)], now_us=0, consume=True, times_max=50, lead_us=LEAD)
    assert (last.admitted, last.times) == (True, 1)


def test_the_smallest_hundredth_of_several_limits_bounds_a_charge_and_shadow_limits_do_not() -> None:
    logs = [SlidingLog(), SlidingLog(), SlidingLog()]
    demands = [demand(100_000), demand(300), demand(1, shadow=True)]
    outcome = charge(logs, demands, now_us=0, consume=True, times_max=50, lead_us=LEAD)
    assert outcome.times == 3
    assert [log.used for log in logs] == [3, 3, 3]


def test_what_may_still_be_used_when_the_clock_steps_back_counts_from_its_last_use() -> None:
    log = SlidingLog()
    charge([log], [demand(1000)], now_us=2 * LEAD, consume=True, times_max=9, lead_us=LEAD)
    for now, used in ((2 * LEAD + 1, 9), (LEAD, 9), (2 * LEAD + WINDOW - 1, 9), (2 * LEAD + WINDOW, 0)):
        assert charge([log], [demand(1000)], now_us=now, consume=False).standings[0].used == used
