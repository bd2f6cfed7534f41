"""What a charge demands is made once for a record in memory, and never taken for that of another or other charges.

Nor is the charge itself, as long as nothing in it changes, or what its callers are told.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind
from tollkeeper_server.core.rate_window import RateOutcome, RateStanding
from tollkeeper_server.quota.charger import DEMANDS_MAX, Charger
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, PoolStanding, Verdict
from tollkeeper_server.quota.demands import Demands

NOW = datetime(2026, 11, 20, tzinfo=UTC)
RATE = Limit(name="rate", kind=LimitKind.RATE, unit="requests", amount=9, window_seconds=60)
QUOTA = Limit(name="quota", kind=LimitKind.QUOTA, unit="tokens", amount=99, window_seconds=60)
KEY = Key(key_id="key_1", tenant_id="acme", limits=(RATE, QUOTA), created_at=NOW, updated_at=NOW)
KEYS = (KEY, replace(KEY, key_id="key_2"), replace(KEY, limits=(replace(RATE, amount=10),)), None)
OWNER = Owner(owner_id="a", tenant_id="acme", limits=(RATE,), created_at=NOW, updated_at=NOW)
OWNERS = (None, OWNER, replace(OWNER, owner_id="b"))


def charger() -> Charger:
    nothing: Any = None
    return Charger(counters=nothing, refills=nothing, direct=nothing, reservations=nothing, epochs=nothing)


SHARED = charger()
"""Lives through all examples, so that each finds what others left behind."""

amounts = st.dictionaries(st.sampled_from(["requests", "tokens", "ALLOWED"]), st.integers(0, 3))


@given(
    key=st.sampled_from(KEYS),
    owner=st.sampled_from(OWNERS),
    charges=amounts,
    counts=amounts,
    keep=st.integers(0, 2),
    consume=st.booleans(),
    record=st.sampled_from(["", "r"]),
)
def test_the_demands_of_a_request_are_those_of_its_records_and_charges(
    key: Key | None,
    owner: Owner | None,
    charges: dict[str, int],
    counts: dict[str, int],
    keep: int,
    consume: bool,
    record: str,
) -> None:
    if key is None and owner is None:
        return
    kept = SHARED._demands(key, owner, charges=charges, counts=counts, keep=keep)
    made = Demands(key, owner, charges=charges, counts=counts, keep=keep)
    asked = {"now_us": 1_700_000_000_000_000, "consume": consume, "record": record}
    assert kept.charge(**asked) == made.charge(**asked)  # type: ignore[arg-type]
    assert kept.limits == made.limits


def test_charges_that_a_caller_changes_later_change_no_demands() -> None:
    mine, charges = charger(), {"requests": 1}
    demands = mine._demands(KEY, None, charges=charges, counts={}, keep=0)
    before = demands.charge(now_us=0, consume=True)
    charges["requests"] = 2
    assert demands.charge(now_us=0, consume=True) == before


def test_what_is_made_is_bounded() -> None:
    mine = charger()
    for amount in range(DEMANDS_MAX + 10):
        mine._demands(KEY, None, charges={"tokens": amount}, counts={}, keep=0)
    assert len(mine._made) == DEMANDS_MAX


BERLIN = Limit(
    name="daily", kind=LimitKind.SPEND, unit="tokens", amount=9, calendar=CalendarWindow.DAY, time_zone="Europe/Berlin"
)
COUNTS = {"ALLOWED": 1}
LIMITS = st.sampled_from([(RATE,), (QUOTA,), (RATE, QUOTA), (BERLIN,), (RATE, QUOTA, BERLIN)])
SECOND_US = 1_000_000
MOMENTS = st.builds(
    lambda seconds, microseconds: 1_800_000_000 * SECOND_US + 30 * seconds * SECOND_US + microseconds,
    st.integers(-3, 3) | st.integers(0, 3 * 2880),
    st.integers(-1, 1),
)


@given(
    limits=LIMITS, counts=st.sampled_from([{}, COUNTS]), asked=st.lists(st.tuples(MOMENTS, st.booleans()), max_size=9)
)
def test_a_charge_is_the_very_same_as_long_as_nothing_in_it_changes(
    limits: tuple[Limit, ...], counts: dict[str, int], asked: list[tuple[int, bool]]
) -> None:
    def made() -> Demands:
        return Demands(replace(KEY, limits=limits), OWNER, charges={"tokens": 2}, counts=counts)

    kept = made()
    last: dict[bool, Charge] = {}
    for now_us, consume in asked:
        charge = kept.charge(now_us=now_us, consume=consume)
        assert charge == made().charge(now_us=now_us, consume=consume)
        if charge == last.get(consume):
            assert charge is last[consume]
        last[consume] = charge
        once = kept.charge(now_us=now_us, consume=consume, record="r")
        assert once == made().charge(now_us=now_us, consume=consume, record="r")
        assert once._replace(record="") == charge
        assert all(part is same for part, same in zip(once, charge, strict=True) if part != once.record)


def test_who_is_given_the_same_answer_is_told_the_very_same_and_who_is_not_is_told_another() -> None:
    demands = charger()._demands(KEY, None, charges={"requests": 1}, counts=COUNTS, keep=0)
    charge = demands.charge(now_us=0, consume=True)

    def answer(used: int) -> ChargeAnswer:
        rates = RateOutcome(True, (RateStanding(9, used, None, exceeded=False),), None)
        return ChargeAnswer(Verdict.ADMITTED, 5, rates, (PoolStanding(used, False, 1, 9, 9 - used),))

    one, other = answer(3), answer(4)
    told = demands.told(charge, one)
    assert demands.told(charge, one) is told
    assert [state.used for state in told.limits] == [3, 3]
    assert [state.used for state in demands.told(charge, other).limits] == [4, 4]
    assert demands.told(charge, answer(3)) == told
