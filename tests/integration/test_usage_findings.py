"""What is found unusual: by the rules that the contract tells, once a day for each key, seen by its tenant alone."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from tests.integration.usage_support import DAY, HOUR, MINUTE, NOON, READER, ROOT_READER, Usage, usage_on
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import InvalidArgument, NotFound, PermissionDenied
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.usage.queries import Finding, FindingKind, ListFindings
from tollkeeper_server.usage.store import NETWORKS_MAX

THIS_MINUTE = NOON.replace(second=0)
BURST, NEW_NETWORK = FindingKind.DENIED_BURST, FindingKind.NEW_NETWORK
EARLIER, ENDED = FindingKind.EARLIER_API_KEY_USED, FindingKind.ENDED_API_KEY_USED


@pytest.fixture
async def usage(postgres_url: str) -> AsyncIterator[Usage]:
    async with usage_on(postgres_url) as usage:
        yield usage


async def denied(usage: Usage, secret: SecretRecord, times: int, *, at: datetime = NOON) -> None:
    for number in range(times):
        code = DecisionCode.RATE_LIMITED if number % 2 else DecisionCode.IP_DENIED
        usage.use(secret, code, at=at)
    assert await usage.flusher.flush()


async def bursts(usage: Usage, *, at: datetime = NOON) -> list[tuple[FindingKind, int]]:
    """What is found in the minute after ``at``."""
    await usage.upkeep.once(now=at + MINUTE)
    return [(finding.kind, finding.denied) for finding in await usage.findings()]


@pytest.mark.parametrize(("times", "expected"), [(49, []), (50, [(BURST, 50)])])
async def test_many_denials_in_a_minute_are_a_burst_whatever_their_codes(
    usage: Usage, times: int, expected: list[tuple[FindingKind, int]]
) -> None:
    secret = await usage.key(owner_id="customer-1")
    await denied(usage, secret, times)
    usage.use(secret, times=500)
    assert await usage.flusher.flush()
    assert await bursts(usage) == expected


@pytest.mark.parametrize(("times", "found"), [(59, False), (60, True)])
async def test_denials_are_a_burst_only_beside_the_keys_usual(usage: Usage, times: int, found: bool) -> None:
    secret = await usage.key()
    for hour in range(1, 25):  # 8,640 in a day are 6 a minute
        await denied(usage, secret, 360, at=NOON - hour * HOUR)
    await denied(usage, secret, times)
    assert (await bursts(usage) != []) == found


async def test_a_burst_that_goes_on_is_one_finding_with_its_strongest_minute(usage: Usage) -> None:
    secret = await usage.key()
    for minute, times in enumerate((60, 90, 70)):
        await denied(usage, secret, times, at=NOON + minute * MINUTE)
        await usage.upkeep.once(now=NOON + (minute + 1) * MINUTE)
    (finding,) = await usage.findings()
    assert (finding.denied, finding.first_at, finding.last_at) == (90, THIS_MINUTE, THIS_MINUTE + 2 * MINUTE)
    await denied(usage, secret, 80, at=NOON + DAY)
    await usage.upkeep.once(now=NOON + DAY + MINUTE)
    assert [finding.denied for finding in await usage.findings()] == [80, 90]


async def networks_found(usage: Usage, secret: SecretRecord, address: str, *, at: datetime) -> list[str]:
    await usage.stored(secret, at=at, client_ip=address)
    return [finding.network for finding in await usage.findings() if finding.kind is NEW_NETWORK]


async def test_a_network_that_a_key_was_never_used_from_is_found_once(usage: Usage) -> None:
    secret = await usage.key()
    assert await networks_found(usage, secret, "192.0.2.1", at=NOON) == []
    assert await networks_found(usage, secret, "192.0.2.200", at=NOON + DAY) == []
    assert await networks_found(usage, secret, "198.51.100.1", at=NOON + DAY) == ["198.51.100.0/24"]
    usage.flusher = usage.another_server()
    assert await networks_found(usage, secret, "198.51.100.2", at=NOON + 2 * DAY) == ["198.51.100.0/24"]
    assert await networks_found(usage, secret, "2001:db8:7::1", at=NOON + 2 * DAY) == [
        "2001:db8:7::/48",
        "198.51.100.0/24",
    ]


async def test_on_its_first_day_of_use_no_network_of_a_key_is_new(usage: Usage) -> None:
    secret = await usage.key()
    assert await networks_found(usage, secret, "192.0.2.1", at=NOON + 30 * DAY) == []
    assert await networks_found(usage, secret, "198.51.100.1", at=NOON + 31 * DAY - MINUTE) == []
    assert await networks_found(usage, secret, "203.0.113.1", at=NOON + 31 * DAY) == ["203.0.113.0/24"]


async def test_a_denied_use_tells_of_a_network_as_well(usage: Usage) -> None:
    secret = await usage.key()
    await usage.stored(secret, at=NOON, client_ip="192.0.2.1")
    await usage.stored(secret, at=NOON + DAY, client_ip="198.51.100.1", code=DecisionCode.IP_DENIED)
    assert [finding.network for finding in await usage.findings()] == ["198.51.100.0/24"]


async def test_of_a_key_that_is_used_from_everywhere_no_network_is_new_and_few_are_kept(usage: Usage) -> None:
    secret = await usage.key()
    for number in range(NETWORKS_MAX + 10):
        await usage.stored(secret, at=NOON + number * MINUTE, client_ip=f"10.0.{number}.1")
    await usage.stored(secret, at=NOON + 2 * DAY, client_ip="198.51.100.1")
    assert await usage.findings() == []
    assert len(await usage.keys.rows("SELECT FROM key_networks")) == NETWORKS_MAX


async def test_a_network_that_is_used_is_not_forgotten(usage: Usage) -> None:
    secret = await usage.key()
    await usage.stored(secret, at=NOON, client_ip="192.0.2.1")
    await usage.stored(secret, at=NOON, client_ip="198.51.100.1")
    for days in range(30, 121, 30):
        at = NOON + days * DAY
        await usage.stored(secret, at=at, client_ip="192.0.2.1")
        await usage.upkeep.once(now=at)
    kept = await usage.keys.rows("SELECT network::text FROM key_networks")
    assert kept == [{"network": "192.0.2.0/24"}]
    assert await networks_found(usage, secret, "198.51.100.1", at=NOON + 121 * DAY) == ["198.51.100.0/24"]


async def rotated(usage: Usage, *, ends: datetime) -> SecretRecord:
    """The earlier API key of a key in rotation."""
    secret = await usage.key(owner_id="customer-1")
    await usage.keys.rows("UPDATE secrets SET expires_at = $2 WHERE digest = $1", secret.digest, ends)
    return await usage.record_of(secret.digest)


async def test_the_use_of_an_earlier_api_key_is_found_with_its_first_and_last_minute_of_the_day(usage: Usage) -> None:
    secret = await rotated(usage, ends=NOON + 30 * DAY)
    for minute in range(3):
        await usage.stored(secret, at=NOON + minute * MINUTE)
    (finding,) = await usage.findings()
    assert (finding.kind, finding.key_id, finding.owner_id) == (EARLIER, secret.key.key_id, "customer-1")
    assert (finding.first_at, finding.last_at) == (THIS_MINUTE, THIS_MINUTE + 2 * MINUTE)
    await usage.stored(secret, at=NOON + DAY)
    assert [finding.first_at for finding in await usage.findings()] == [THIS_MINUTE + DAY, THIS_MINUTE]
    (row,) = await usage.keys.rows("SELECT last_used_at FROM secrets WHERE digest = $1", secret.digest)
    assert row["last_used_at"] == THIS_MINUTE + DAY


async def test_the_use_of_an_ended_api_key_is_found_and_is_no_use_of_the_key(usage: Usage) -> None:
    secret = await rotated(usage, ends=NOON - DAY)
    for minute in range(2):
        usage.recorder.record_ended(secret, now=NOON + minute * MINUTE)
    assert await usage.flusher.flush()
    (finding,) = await usage.findings()
    assert (finding.kind, finding.last_at) == (ENDED, THIS_MINUTE + MINUTE)
    assert await usage.buckets(secret.key) == []
    assert await usage.keys.rows("SELECT last_used_at FROM keys") == [{"last_used_at": None}]


async def some_findings(usage: Usage) -> list[Finding]:
    for number in range(5):
        secret = await rotated(usage, ends=NOON + 30 * DAY)
        await usage.stored(secret, at=NOON + (number // 2) * DAY)
    return await usage.findings()


async def test_pages_show_every_finding_once_newest_first(usage: Usage) -> None:
    everything = await some_findings(usage)
    assert [finding.first_at for finding in everything] == [THIS_MINUTE + days * DAY for days in (2, 1, 1, 0, 0)]
    seen: list[Finding] = []
    token, pages = "", 0
    while token or not pages:
        page = await usage.service.list_findings(READER, ListFindings(page_size=2, page_token=token))
        seen += page.findings
        token, pages = page.next_page_token, pages + 1
    assert (seen, pages) == (everything, 3)


async def test_a_page_token_belongs_to_its_filters(usage: Usage) -> None:
    await some_findings(usage)
    page = await usage.service.list_findings(READER, ListFindings(page_size=2))
    for query in (
        ListFindings(page_token=page.next_page_token, owner_id="customer-1"),
        ListFindings(page_token=page.next_page_token, start_time=NOON),
        ListFindings(page_token="AAAA"),
        ListFindings(page_token="=" * 50),
        ListFindings(page_token="A" * 34),
    ):
        with pytest.raises(InvalidArgument, match="page_token"):
            await usage.service.list_findings(READER, query)


async def test_findings_are_filtered_by_key_owner_and_time(usage: Usage) -> None:
    newest, *_, oldest = everything = await some_findings(usage)
    assert await usage.findings(key_id=newest.key_id) == [newest]
    assert await usage.findings(owner_id="customer-1") == everything
    assert await usage.findings(owner_id="customer-2") == []
    assert await usage.findings(start_time=newest.last_at) == [newest]
    assert oldest in await usage.findings(end_time=oldest.first_at + timedelta(seconds=1))
    assert await usage.findings(end_time=oldest.first_at) == []


async def test_findings_of_another_tenant_do_not_exist(usage: Usage) -> None:
    theirs = await usage.key("other")
    usage.recorder.record_ended(theirs, now=NOON)
    assert await usage.flusher.flush()
    assert await usage.findings() == []
    with pytest.raises(NotFound):
        await usage.findings(key_id=theirs.key.key_id)
    with pytest.raises(PermissionDenied):
        await usage.findings(tenant_id="other")
    for query in ({"tenant_id": "other"}, {"key_id": theirs.key.key_id}):
        assert [finding.kind for finding in await usage.findings(ROOT_READER, **query)] == [ENDED]


async def test_findings_are_kept_for_60_days(usage: Usage) -> None:
    secret = await rotated(usage, ends=NOON + 90 * DAY)
    for days in (0, 1):
        await usage.stored(secret, at=NOON + days * DAY)
    await usage.upkeep.once(now=THIS_MINUTE + 61 * DAY)
    assert [finding.first_at for finding in await usage.findings()] == [THIS_MINUTE + DAY]
