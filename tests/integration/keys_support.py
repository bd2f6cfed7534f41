"""What the tests of keys share: a service on a fresh database, callers, and a clock that tests move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring
from tollkeeper_server.core.key import ROOT_TENANT
from tollkeeper_server.keys.commands import CreatedKey, CreateKey
from tollkeeper_server.keys.lookup import SecretRecord, find_by_digests
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.storage.postgres import Postgres, connect

KEYRING = Keyring(peppers={1: b"p" * 32}, tag_keys={1: b"t" * 32})
ROOT = Caller(key_id="key_root", tenant_id=ROOT_TENANT, permissions=("tollkeeper:*",), address="192.0.2.1")
ACME = Caller(key_id="key_acme", tenant_id="acme", permissions=("tollkeeper:keys.write",), address="192.0.2.2")
OTHER = Caller(key_id="key_other", tenant_id="other", permissions=("tollkeeper:keys.write",))

TABLES = ("tenants", "keys", "secrets", "owners", "changes", "audit_events", "idempotency")


class Clock:
    """Moves on by a microsecond at each look, so that later is later, and further where told."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


@dataclass(frozen=True, slots=True)
class Keys:
    """A service and what it stands on."""

    service: KeyService
    postgres: Postgres
    clock: Clock
    owner: "asyncpg.Connection[asyncpg.Record]"
    """Who may do everything in the database."""

    async def create(self, caller: Caller = ROOT, /, **fields: object) -> CreatedKey:
        """A new key; of the tenant "acme" unless told."""
        return await self.service.create(caller, CreateKey(**{"tenant_id": "acme", **fields}))  # type: ignore[arg-type]

    async def record(self, api_key: str) -> SecretRecord | None:
        """What a verification finds behind an API key; None if that proves no key."""
        async with self.postgres.connection() as connection:
            digests = KEYRING.candidates(api_key)
            records, _ = await find_by_digests(connection, digests)
        record = next((records[digest] for digest in digests if digest in records), None)
        ended = record is not None and record.expires_at is not None and record.expires_at <= self.clock()
        return None if ended else record

    async def rows(self, query: str, *values: object) -> list[dict[str, object]]:
        """What the database holds; or what is done to it behind the service's back."""
        return [dict(row) for row in await self.owner.fetch(query, *values)]

    async def until(self, query: str) -> None:
        """Wait until the database answers ``query`` with true."""
        async with asyncio.timeout(5):
            while (await self.rows(query)) != [{"done": True}]:  # noqa: ASYNC110 (the database has no event for it)
                await asyncio.sleep(0.01)

    async def dump(self) -> str:
        """Every table as text."""
        return "\n".join([str(await self.rows(f"SELECT to_jsonb(it) FROM {table} AS it")) for table in TABLES])


@asynccontextmanager
async def keys_on(url: str, *, keyring: Keyring = KEYRING) -> AsyncIterator[Keys]:
    """A service on the database at ``url``."""
    postgres, clock = await Postgres.connect(url), Clock()
    confirmations = Confirmations(postgres, clock=clock)
    service = KeyService(postgres=postgres, keyring=keyring, confirmations=confirmations, clock=clock)
    owner = await connect(url, as_owner=True)
    try:
        yield Keys(service, postgres, clock, owner)
    finally:
        await owner.close()
        await service.close()
        await confirmations.close()
        await postgres.close()
