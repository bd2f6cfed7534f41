"""The key directory: finds the record behind an API key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.lookup import SecretRecord, find_by_digests, find_by_key_ids
from tollkeeper_server.storage.batcher import Batcher
from tollkeeper_server.storage.postgres import Postgres

_BATCH_MAX = 500
_READ_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """What was found behind an API key, and the revision that it reflects."""

    record: SecretRecord | None
    revision: int

    def key_at(self, now: datetime) -> Key | None:
        """The key that the API key proves at ``now``; None if it proves none."""
        if self.record is None or (self.record.expires_at is not None and now >= self.record.expires_at):
            return None
        return self.record.key


class KeyDirectory:
    """Reads the truth for every question, many questions in one round trip.

    A read starts after its question was asked, so it reflects every change that was committed before. Raises
    Unavailable if Postgres does not answer in time.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._by_digests = Batcher(self._read_digests, batch_max=_BATCH_MAX, flushes_max=2)
        self._by_key_id = Batcher(self._read_key_ids, batch_max=_BATCH_MAX)

    async def find(self, digests: tuple[bytes, ...]) -> Found:
        """What is behind the API key that has one of ``digests``."""
        return await self._by_digests.submit(digests)

    async def find_by_key_id(self, key_id: str) -> Key | None:
        """The key named ``key_id``."""
        return await self._by_key_id.submit(key_id)

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._by_digests.close()
        await self._by_key_id.close()

    async def _read_digests(self, asked: Sequence[tuple[bytes, ...]]) -> list[Found]:
        wanted = [digest for digests in asked for digest in digests]
        async with self._postgres.connection(timeout_seconds=_READ_TIMEOUT_SECONDS) as connection:
            records, revision = await find_by_digests(connection, wanted)
        return [
            Found(next((records[digest] for digest in digests if digest in records), None), revision)
            for digests in asked
        ]

    async def _read_key_ids(self, key_ids: Sequence[str]) -> list[Key | None]:
        async with self._postgres.connection(timeout_seconds=_READ_TIMEOUT_SECONDS) as connection:
            keys = await find_by_key_ids(connection, key_ids)
        return [keys.get(key_id) for key_id in key_ids]
