"""What the tests of usage share: a recorder and its flusher on a fresh database, with keys and a clock to move."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from tests.integration.keys_support import KEYRING, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import ROOT_TENANT, Key
from tollkeeper_server.keys.lookup import SecretRecord, find_by_digests
from tollkeeper_server.usage.flusher import UsageFlusher
from tollkeeper_server.usage.queries import Finding, GetUsage, Granularity, ListFindings, UsageBucket
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.usage.service import UsageService
from tollkeeper_server.usage.upkeep import UsageUpkeep

NOON = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)
READER = Caller(key_id="key_reader", tenant_id="acme", permissions=("tollkeeper:usage.read",))
ROOT_READER = Caller(key_id="key_root", tenant_id=ROOT_TENANT, permissions=("tollkeeper:*",))
ONE = {"requests": 1}
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass
class Usage:
    """A server's part that counts, and what reads it."""

    keys: Keys
    recorder: UsageRecorder
    flusher: UsageFlusher
    now: datetime = NOON

    def another_server(self) -> UsageFlusher:
        """One more server that stores what the same recorder counts."""
        return UsageFlusher(self.recorder, postgres=self.keys.postgres)

    @property
    def service(self) -> UsageService:
        return UsageService(postgres=self.keys.postgres, clock=lambda: self.now)

    @property
    def upkeep(self) -> UsageUpkeep:
        return UsageUpkeep(postgres=self.keys.postgres, clock=lambda: self.now)

    async def key(self, tenant_id: str = "acme", **fields: Any) -> SecretRecord:
        """A new key as a verification finds it."""
        created = await self.keys.create(tenant_id=tenant_id, **fields)
        return await self.record_of(KEYRING.digest(created.api_key))

    async def record_of(self, digest: bytes) -> SecretRecord:
        async with self.keys.postgres.connection() as connection:
            records, _ = await find_by_digests(connection, [digest])
        (record,) = records.values()
        return record

    def use(
        self,
        secret: SecretRecord,
        code: DecisionCode = DecisionCode.ALLOWED,
        *,
        times: int = 1,
        charges: Mapping[str, int] = ONE,
        client_ip: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Verify a key so many times, now unless told."""
        address = None if client_ip is None else ip_address(client_ip)
        for _ in range(times):
            self.recorder.record(secret, code=code, charges=charges, client_ip=address, now=at or self.now)

    async def stored(self, secret: SecretRecord, *, at: datetime, **use: Any) -> None:
        """Use a key at a time, and have it stored."""
        self.use(secret, at=at, **use)
        assert await self.flusher.flush()

    async def buckets(self, key: Key | None = None, /, **query: Any) -> list[UsageBucket]:
        """What is told of a key's usage, or of that which the query names."""
        fields = {"granularity": Granularity.MINUTE, **query} | ({"key_id": key.key_id} if key else {})
        return list(await self.service.get_usage(READER, GetUsage(**fields)))

    async def total(self, key: Key, counter: str) -> int:
        """The sum of a counter over all times, as stored."""
        (row,) = await self.keys.rows(
            "SELECT coalesce(sum(amount), 0)::bigint AS total FROM usage_buckets WHERE (subject, counter) = ($1, $2)",
            key.key_id,
            counter,
        )
        return int(str(row["total"]))

    async def findings(self, caller: Caller = READER, **query: Any) -> list[Finding]:
        """The newest findings."""
        page = await self.service.list_findings(caller, ListFindings(**query))
        return list(page.findings)


@asynccontextmanager
async def usage_on(url: str) -> AsyncIterator[Usage]:
    """Count usage in the database at ``url``."""
    async with keys_on(url) as keys:
        recorder = UsageRecorder()
        yield Usage(keys, recorder, UsageFlusher(recorder, postgres=keys.postgres))
