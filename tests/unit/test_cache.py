from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.cache import Absence, RecordCache
from tollkeeper_server.core.lease import DRIFT, Lease


def cache(*, entries_max: int = 10, unknown_max: int = 10, tombstones_max: int = 10) -> RecordCache[str]:
    return RecordCache(
        entries_max=entries_max, unknown_max=unknown_max, tombstones_max=tombstones_max, age_max_seconds=10
    )


def test_a_value_is_found_until_it_is_too_old_and_reads_never_extend_it() -> None:
    records = cache()
    assert records.put(b"d", "value", subjects=("key",), revision=1, now=0)
    for now in (0, 5, 9.9):
        assert records.get(b"d", now=now) == "value"
    assert records.get(b"d", now=10) is Absence.MISS


def test_a_change_ends_every_entry_of_its_subject_and_no_other() -> None:
    records = cache()
    records.put(b"old", "k1", subjects=("key 1", "owner"), revision=1, now=0)
    records.put(b"new", "k1", subjects=("key 1", "owner"), revision=1, now=0)
    records.put(b"d2", "k2", subjects=("key 2", "owner"), revision=1, now=0)
    records.put(b"d3", "k3", subjects=("key 3",), revision=1, now=0)
    records.change("key 1", revision=2)
    assert [records.get(digest, now=1) for digest in (b"old", b"new", b"d2")] == [Absence.MISS, Absence.MISS, "k2"]
    records.change("owner", revision=3)
    assert records.get(b"d2", now=1) is Absence.MISS
    assert records.get(b"d3", now=1) == "k3"


def test_a_fill_that_was_read_before_a_change_comes_too_late() -> None:
    records = cache()
    records.change("key", revision=5)
    assert not records.put(b"d", "stale", subjects=("key",), revision=4, now=0)
    assert records.get(b"d", now=0) is Absence.MISS
    assert records.put(b"d", "fresh", subjects=("key",), revision=5, now=0)


def test_a_forgotten_tombstone_still_holds_as_the_floor() -> None:
    records = cache(tombstones_max=1)
    records.change("key", revision=5)
    records.change("other", revision=6)
    assert not records.put(b"d", "stale", subjects=("key",), revision=4, now=0)
    assert records.put(b"d", "fresh", subjects=("key",), revision=5, now=0)


def test_unknown_is_told_from_not_cached_and_ends_when_a_secret_is_added() -> None:
    records = cache()
    assert records.get(b"d", now=0) is Absence.MISS
    assert records.put_unknown(b"d", revision=3, now=0)
    assert records.get(b"d", now=9) is Absence.UNKNOWN
    assert records.get(b"d", now=10) is Absence.MISS
    records.secret_added(revision=4)
    assert records.get(b"d", now=0) is Absence.MISS
    assert not records.put_unknown(b"d", revision=3, now=0)


def test_a_flood_of_unknown_api_keys_pushes_out_no_known_one() -> None:
    records = cache(entries_max=1, unknown_max=2)
    records.put(b"known", "value", subjects=("key",), revision=0, now=0)
    for number in range(100):
        records.put_unknown(str(number).encode(), revision=0, now=0)
    assert records.get(b"known", now=0) == "value"
    assert records.get(b"0", now=0) is Absence.MISS


def test_the_least_recently_used_entry_leaves_first() -> None:
    records = cache(entries_max=2)
    for digest in (b"1", b"2"):
        records.put(digest, "value", subjects=(digest,), revision=0, now=0)
    records.get(b"1", now=0)
    records.put(b"3", "value", subjects=(b"3",), revision=0, now=0)
    assert len(records) == 2
    assert records.get(b"2", now=0) is Absence.MISS


def test_clearing_forgets_everything_and_takes_no_older_read() -> None:
    records = cache()
    records.put(b"d", "value", subjects=("key",), revision=7, now=0)
    records.clear(revision=8)
    assert records.get(b"d", now=0) is Absence.MISS
    assert not records.put(b"d", "value", subjects=("key",), revision=7, now=0)
    assert not records.put_unknown(b"d", revision=7, now=0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1))
def test_a_lease_never_holds_beyond_its_longest_grant(grants: list[tuple[float, float]]) -> None:
    lease = Lease()
    assert not lease.holds(float("-inf"))
    for sent_at, seconds in grants:
        lease.renew(sent_at=sent_at, seconds=seconds)
    end = max(sent_at + seconds for sent_at, seconds in grants)
    assert not lease.holds(end)
    assert lease.left(end) == 0


def test_a_lease_ends_before_its_grant_does_by_the_drift_of_clocks_and_can_be_given_up() -> None:
    lease = Lease()
    lease.renew(sent_at=10, seconds=2)
    assert lease.holds(10 + 2 * (1 - DRIFT) - 1e-9)
    assert not lease.holds(10 + 2 * (1 - DRIFT))
    lease.end()
    assert not lease.holds(10)
