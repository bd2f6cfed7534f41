"""What is told of usage: the buckets asked for, the same sums however old they are, and nothing of other tenants."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.usage_support import DAY, HOUR, MINUTE, NOON, READER, ROOT_READER, Usage, usage_on
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import InvalidArgument, NotFound, PermissionDenied
from tollkeeper_server.usage import upkeep
from tollkeeper_server.usage.queries import BUCKETS_MAX, GetUsage, Granularity, UsageBucket

TICK = timedelta(microseconds=1)
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)


@pytest.fixture
async def usage(postgres_url: str) -> AsyncIterator[Usage]:
    async with usage_on(postgres_url) as usage:
        yield usage


def sums(buckets: list[UsageBucket]) -> list[tuple[datetime, int]]:
    return [(bucket.starts_at, bucket.decisions.get(DecisionCode.ALLOWED, 0)) for bucket in buckets]


def total(buckets: list[UsageBucket]) -> int:
    return sum(count for _, count in sums(buckets))


async def used_every(usage: Usage, step: timedelta, *, since: datetime, times: int) -> None:
    """A key of customer-1, used once in each step."""
    secret = await usage.key(owner_id="customer-1")
    for number in range(times):
        usage.use(secret, at=since + number * step, charges={"tokens": 10})
    assert await usage.flusher.flush()


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        (Granularity.MINUTE, [(NOON.replace(second=0) + number * 20 * MINUTE, 1) for number in range(6)]),
        (Granularity.HOUR, [(NOON.replace(second=0), 3), (NOON.replace(second=0) + HOUR, 3)]),
        (Granularity.DAY, [(MIDNIGHT, 6)]),
    ],
)
async def test_buckets_are_minutes_hours_or_days_in_utc(
    usage: Usage, granularity: Granularity, expected: list[tuple[datetime, int]]
) -> None:
    await used_every(usage, 20 * MINUTE, since=NOON, times=6)
    span: dict[str, Any] = {"start_time": NOON, "end_time": NOON + 2 * HOUR}
    buckets = await usage.buckets(owner_id="customer-1", granularity=granularity, **span)
    assert sums(buckets) == expected
    assert {bucket.granularity for bucket in buckets} == {granularity}
    assert sum(bucket.units["tokens"] for bucket in buckets) == 60


async def test_a_range_takes_its_first_bucket_whole_and_ends_before_its_end(usage: Usage) -> None:
    await used_every(usage, 30 * MINUTE, since=MIDNIGHT, times=48)
    for start, end, hours in [
        (MIDNIGHT, MIDNIGHT + HOUR, [0]),
        (MIDNIGHT + 59 * MINUTE, MIDNIGHT + HOUR, [0]),
        (MIDNIGHT, MIDNIGHT + HOUR + TICK, [0, 1]),
        (MIDNIGHT + HOUR, MIDNIGHT + HOUR + TICK, [1]),
    ]:
        buckets = await usage.buckets(
            owner_id="customer-1", granularity=Granularity.HOUR, start_time=start, end_time=end
        )
        assert sums(buckets) == [(MIDNIGHT + hour * HOUR, 2) for hour in hours]


@pytest.mark.parametrize(
    ("granularity", "before"), [(Granularity.MINUTE, HOUR), (Granularity.HOUR, DAY), (Granularity.DAY, 30 * DAY)]
)
async def test_without_a_range_the_last_buckets_are_told(
    usage: Usage, granularity: Granularity, before: timedelta
) -> None:
    secret = await usage.key()
    for at in (NOON, NOON - before, NOON - before - 2 * DAY):
        usage.use(secret, at=at)
    await usage.flusher.flush()
    assert total(await usage.buckets(secret.key, granularity=granularity)) == 2


@pytest.mark.parametrize("granularity", Granularity)
async def test_a_range_holds_as_many_buckets_as_promised_and_no_more(usage: Usage, granularity: Granularity) -> None:
    secret = await usage.key()
    span = BUCKETS_MAX * timedelta(seconds=granularity)
    for start in (MIDNIGHT, NOON):
        assert not await usage.buckets(secret.key, granularity=granularity, start_time=start, end_time=start + span)
    with pytest.raises(InvalidArgument, match="end_time: must be at most 1500 buckets after start_time"):
        await usage.buckets(secret.key, granularity=granularity, start_time=MIDNIGHT, end_time=MIDNIGHT + span + TICK)


async def test_an_empty_range_is_refused(usage: Usage) -> None:
    for end in (NOON, NOON - TICK):
        with pytest.raises(InvalidArgument, match="end_time: must be after start_time"):
            await usage.buckets(owner_id="customer-1", start_time=NOON, end_time=end)


async def test_the_ends_of_the_calendar_are_ranges_like_any_other(usage: Usage) -> None:
    for end in (datetime.min + TICK, datetime.min + DAY, datetime.max - TICK, datetime.max):
        for granularity in Granularity:
            query: dict[str, Any] = {
                "owner_id": "customer-1",
                "granularity": granularity,
                "end_time": end.replace(tzinfo=UTC),
            }
            assert not await usage.buckets(**query)
            assert not await usage.buckets(**query, start_time=query["end_time"] - TICK)


async def test_summing_up_keeps_every_sum_and_says_how_long_each_bucket_is(
    usage: Usage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROWS_MAX", 50)
    await used_every(usage, 7 * MINUTE, since=MIDNIGHT, times=300)
    ages = [DAY, 35 * HOUR, 3 * DAY, 40 * DAY, 61 * DAY, 64 * DAY]
    everything: dict[str, Any] = {"owner_id": "customer-1", "start_time": MIDNIGHT, "end_time": MIDNIGHT + 2 * DAY}
    lengths = []
    for age in ages:
        usage.now = MIDNIGHT + age
        await usage.upkeep.once(now=usage.now)
        buckets = await usage.buckets(**everything, granularity=Granularity.DAY)
        assert sums(buckets) == [(MIDNIGHT, 206), (MIDNIGHT + DAY, 94)]
        assert sum(bucket.units["tokens"] for bucket in buckets) == 3000
        spans = await usage.keys.rows("SELECT DISTINCT seconds FROM usage_buckets ORDER BY seconds")
        lengths.append([span["seconds"] for span in spans])
    assert lengths == [[60], [60, 3600], [3600], [3600], [3600, 86400], [86400]]
    buckets = await usage.buckets(owner_id="customer-1", start_time=MIDNIGHT, end_time=MIDNIGHT + DAY)
    assert [(bucket.granularity, bucket.starts_at) for bucket in buckets] == [(Granularity.DAY, MIDNIGHT)]


async def test_ranges_side_by_side_tell_everything_once_however_old_it_is(usage: Usage) -> None:
    await used_every(usage, 7 * MINUTE, since=MIDNIGHT, times=200)
    usage.now = MIDNIGHT + 26 * HOUR + 30 * MINUTE
    await usage.upkeep.once(now=usage.now)
    told = 0
    for number in range(24):
        start = MIDNIGHT + number * 70 * MINUTE
        told += total(await usage.buckets(owner_id="customer-1", start_time=start, end_time=start + 70 * MINUTE))
    assert told == 200


async def test_minutes_are_kept_for_25_hours_and_hours_for_60_days(usage: Usage) -> None:
    secret = await usage.key()
    for age in (25 * HOUR, 26 * HOUR, 60 * DAY, 61 * DAY, 1_499 * DAY, 1_501 * DAY):
        usage.use(secret, at=usage.now - age)
    await usage.flusher.flush()
    await usage.upkeep.once(now=usage.now)
    rows = await usage.keys.rows(
        "SELECT starts_at, seconds FROM usage_buckets WHERE counter = 'ALLOWED' ORDER BY starts_at DESC"
    )
    assert [(row["starts_at"], row["seconds"]) for row in rows] == [
        (NOON.replace(second=0) - 25 * HOUR, 60),
        (NOON.replace(second=0) - 26 * HOUR, 3600),
        (NOON.replace(second=0) - 60 * DAY, 3600),
        (MIDNIGHT - 61 * DAY, 86_400),
        (MIDNIGHT - 1_499 * DAY, 86_400),
    ]


async def test_what_comes_late_is_added_to_what_was_summed_up(usage: Usage) -> None:
    secret = await usage.key()
    for _ in range(3):
        await usage.stored(secret, at=NOON - 2 * DAY)
        await usage.upkeep.once(now=usage.now)
    (bucket,) = await usage.buckets(secret.key, start_time=NOON - 2 * DAY - HOUR, end_time=NOON - 2 * DAY + HOUR)
    assert (bucket.granularity, bucket.units) == (Granularity.HOUR, {"requests": 3})


async def test_while_another_server_does_the_upkeep_nobody_waits_for_it(usage: Usage) -> None:
    await used_every(usage, MINUTE, since=NOON - 2 * DAY, times=5)
    async with usage.keys.postgres.transaction() as other:
        await other.execute("SELECT pg_advisory_xact_lock($1)", upkeep._LOCK)
        await usage.upkeep.once(now=usage.now)
        assert {row["seconds"] for row in await usage.keys.rows("SELECT seconds FROM usage_buckets")} == {60}
    await usage.upkeep.once(now=usage.now)
    assert {row["seconds"] for row in await usage.keys.rows("SELECT seconds FROM usage_buckets")} == {3600}


async def test_the_usage_of_another_tenant_does_not_exist(usage: Usage) -> None:
    ours, theirs = await usage.key("acme", owner_id="same"), await usage.key("other", owner_id="same")
    usage.use(ours, times=2)
    usage.use(theirs, times=5)
    await usage.flusher.flush()
    assert total(await usage.buckets(owner_id="same")) == 2
    for key_id in (theirs.key.key_id, "key_" + "0" * 22):
        with pytest.raises(NotFound) as refused:
            await usage.service.get_usage(READER, GetUsage(key_id=key_id))
        assert (refused.value.reason, refused.value.message) == ("KEY_NOT_FOUND", "there is no such key")
    with pytest.raises(PermissionDenied):
        await usage.service.get_usage(READER, GetUsage(owner_id="same", tenant_id="other"))


async def test_root_reads_the_usage_of_every_tenant(usage: Usage) -> None:
    secret = await usage.key("other", owner_id="same")
    await usage.stored(secret, at=NOON, times=5)
    for query in (
        GetUsage(key_id=secret.key.key_id),
        GetUsage(key_id=secret.key.key_id, tenant_id="other"),
        GetUsage(owner_id="same", tenant_id="other"),
    ):
        assert total(list(await usage.service.get_usage(ROOT_READER, query))) == 5
    with pytest.raises(NotFound):
        await usage.service.get_usage(ROOT_READER, GetUsage(key_id=secret.key.key_id, tenant_id="acme"))
    assert not await usage.service.get_usage(ROOT_READER, GetUsage(owner_id="same"))
