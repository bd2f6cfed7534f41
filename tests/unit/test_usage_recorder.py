"""Counting in memory: every decision in its minute, all of it taken once, and never more than fits."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.usage import metrics, recorder
from tollkeeper_server.usage.batch import Batch
from tollkeeper_server.usage.recorder import UsageRecorder

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE, TICK = timedelta(minutes=1), timedelta(microseconds=1)
ALLOWED, DENIED = DecisionCode.ALLOWED, DecisionCode.RATE_LIMITED


def a_secret(number: int = 1, *, owner_id: str = "", digest: bytes = b"d") -> SecretRecord:
    key = Key(key_id=f"key_{number}", tenant_id="acme", owner_id=owner_id, created_at=NOON, updated_at=NOON)
    return SecretRecord(key=key, expires_at=None, digest=digest)


def record(
    usage: UsageRecorder,
    secret: SecretRecord,
    code: DecisionCode = ALLOWED,
    *,
    now: datetime = NOON,
    client_ip: str | None = None,
    **charges: int,
) -> None:
    address = None if client_ip is None else ip_address(client_ip)
    usage.record(secret, code=code, charges=charges, client_ip=address, now=now)


def lost() -> float:
    (family,) = metrics.USAGE_LOST.collect()
    return family.samples[0].value


def counters(usage: UsageRecorder) -> dict[tuple[str, datetime, str], int]:
    return Batch.of(usage.take(), number=1).counters


def test_a_decision_belongs_to_the_minute_in_which_it_was_made() -> None:
    usage, secret = UsageRecorder(), a_secret()
    for now in (NOON - TICK, NOON, NOON + MINUTE - TICK, NOON + MINUTE):
        record(usage, secret, now=now)
    assert counters(usage) == {
        ("key_1", NOON - MINUTE, "ALLOWED"): 1,
        ("key_1", NOON, "ALLOWED"): 2,
        ("key_1", NOON + MINUTE, "ALLOWED"): 1,
    }


def test_a_clock_that_is_set_back_finds_its_minute_again() -> None:
    usage, secret = UsageRecorder(), a_secret()
    for now in (NOON, NOON - 3 * MINUTE, NOON + TICK):
        record(usage, secret, now=now)
    assert counters(usage) == {("key_1", NOON, "ALLOWED"): 2, ("key_1", NOON - 3 * MINUTE, "ALLOWED"): 1}


def test_units_are_counted_where_they_were_charged() -> None:
    usage, secret = UsageRecorder(), a_secret()
    record(usage, secret, requests=1, tokens=300)
    record(usage, secret, DENIED, requests=1, tokens=5)
    usage.record_charge(secret.key, charges={"tokens": 7}, now=NOON)
    assert counters(usage) == {
        ("key_1", NOON, "ALLOWED"): 1,
        ("key_1", NOON, "RATE_LIMITED"): 1,
        ("key_1", NOON, "requests"): 1,
        ("key_1", NOON, "tokens"): 307,
    }


def test_what_was_taken_is_not_told_again() -> None:
    usage, secret = UsageRecorder(), a_secret()
    record(usage, secret)
    assert len(usage.take()) == 1
    assert usage.take() == []
    record(usage, secret)
    assert counters(usage) == {("key_1", NOON, "ALLOWED"): 1}


def test_beyond_its_bound_it_remembers_no_more_keys_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "KEY_MINUTES_MAX", 3)
    usage, before = UsageRecorder(), lost()
    for number in range(5):
        record(usage, a_secret(number), now=NOON + (number % 2) * MINUTE)
    record(usage, a_secret(0))
    assert sum(counters(usage).values()) == 4
    assert lost() - before == 2
    record(usage, a_secret(9))
    assert len(usage.take()) == 1


def test_beyond_their_bound_units_of_a_key_are_not_counted_and_that_is_said() -> None:
    usage, secret, before = UsageRecorder(), a_secret(), lost()
    for number in range(recorder.UNITS_MAX + 5):
        usage.record(secret, code=ALLOWED, charges={f"unit{number}": 1}, client_ip=None, now=NOON)
    record(usage, secret, unit0=1)
    (minute,) = usage.take()
    assert len(minute.units) == recorder.UNITS_MAX
    assert minute.units["unit0"] == 2
    assert minute.decisions == {ALLOWED: recorder.UNITS_MAX + 6}
    assert lost() - before == 5


def test_client_addresses_are_remembered_as_networks() -> None:
    usage, secret = UsageRecorder(), a_secret()
    for address in (
        "192.0.2.1",
        "192.0.2.77",
        "::ffff:192.0.2.5",
        "2001:db8:1:2::1",
        "2001:db8:1:3::1",
        "198.51.100.9",
    ):
        record(usage, secret, client_ip=address)
    record(usage, secret)
    (minute,) = usage.take()
    assert {str(network) for network in minute.networks()} == {"192.0.2.0/24", "198.51.100.0/24", "2001:db8:1::/48"}


def test_of_a_key_that_is_used_from_everywhere_some_networks_are_remembered() -> None:
    usage, secret = UsageRecorder(), a_secret()
    for number in range(200):
        record(usage, secret, client_ip=f"10.0.{number}.1")
    (minute,) = usage.take()
    assert len(minute.networks()) == recorder.NETWORKS_MAX


def test_every_api_key_of_a_key_is_told_with_its_last_minute() -> None:
    usage = UsageRecorder()
    earlier, current = a_secret(digest=b"earlier"), a_secret(digest=b"current")
    for secret, now in [(current, NOON), (earlier, NOON), (current, NOON + MINUTE), (earlier, NOON - MINUTE)]:
        record(usage, secret, now=now)
    assert Batch.of(usage.take(), number=1).uses == {b"earlier": NOON, b"current": NOON + MINUTE}


def test_callers_and_ended_api_keys_count_as_no_verification() -> None:
    usage = UsageRecorder()
    usage.record_use(a_secret(1), client_ip=None, now=NOON)
    usage.record_ended(a_secret(2, digest=b"ended"), now=NOON)
    batch = Batch.of(usage.take(), number=1)
    assert batch.counters == {}
    assert batch.uses == {b"d": NOON}
    assert batch.ended == {"key_2": NOON}


decisions = st.tuples(
    st.integers(0, 4), st.sampled_from(list(DecisionCode)), st.integers(0, 200), st.integers(0, 10**15), st.booleans()
)


@given(st.lists(decisions, max_size=60))
def test_the_sums_of_keys_and_owners_are_those_of_what_was_recorded(
    made: list[tuple[int, DecisionCode, int, int, bool]],
) -> None:
    usage = UsageRecorder()
    batches = []
    for number, code, seconds, amount, take in made:
        secret = a_secret(number, owner_id="owner" if number % 2 else "")
        record(usage, secret, code, now=NOON + timedelta(seconds=seconds), tokens=amount)
        if take:
            batches.append(Batch.of(usage.take(), number=1))
    batches.append(Batch.of(usage.take(), number=1))
    told: dict[tuple[str, str], int] = {}
    for batch in batches:
        for (subject, _, counter), amount in batch.counters.items():
            told[subject, counter] = told.get((subject, counter), 0) + amount
    expected: dict[tuple[str, str], int] = {}
    for number, code, _, amount, _ in made:
        for subject in [f"key_{number}"] + ["acme/owner"] * (number % 2):
            expected[subject, code] = expected.get((subject, code), 0) + 1
            if code is ALLOWED:
                expected[subject, "tokens"] = expected.get((subject, "tokens"), 0) + amount
    assert told == expected
