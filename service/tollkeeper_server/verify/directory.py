"""The key directory: finds the record behind an API key, from memory while the lease holds."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from tollkeeper_server.core.cache import Absence, RecordCache
from tollkeeper_server.core.changes import owner_subject
from tollkeeper_server.core.credential import Keyring, foreign_digests
from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.core.value import value
from tollkeeper_server.keys.lookup import SecretRecord, find_by_digests, find_owner, find_with_owners
from tollkeeper_server.keys.upgrades import Upgrades
from tollkeeper_server.keys.workspace import Algorithm
from tollkeeper_server.storage.batcher import Batcher
from tollkeeper_server.storage.boottime import boottime
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.verify.replica import Replica

_BATCH_MAX = 500
_READ_TIMEOUT_SECONDS = 2.0


@value
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
    """Answers from memory, or reads the truth, many questions in one round trip.

    A read starts after its question was asked, so it reflects every change that was committed before. Raises
    Unavailable if Postgres is needed and does not answer in time.
    """

    def __init__(
        self,
        postgres: Postgres,
        *,
        keyring: Keyring,
        cache: RecordCache[SecretRecord],
        replica: Replica,
        upgrades: Upgrades,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._postgres = postgres
        self._keyring = keyring
        self._cache = cache
        self._replica = replica
        self._upgrades = upgrades
        self._own_digests = len(keyring.digests(""))
        self._clock = clock
        self._by_digests = Batcher(self._read_digests, batch_max=_BATCH_MAX, flushes_max=2)
        self._by_key_id = Batcher(self._read_key_ids, batch_max=_BATCH_MAX)

    async def find(self, api_key: str, *, min_revision: int = 0) -> Found | None:
        """What is behind ``api_key``, reflecting ``min_revision`` if that exists.

        None if it is none of ours by its shape or tag, which no store is asked for as long as no key was imported. What
        memory knows needs no tag.
        """
        recalled = self.recall(api_key, min_revision=min_revision)
        return await self._by_digests.submit(recalled) if isinstance(recalled, tuple) else recalled

    def recall(self, api_key: str, *, min_revision: int = 0) -> Found | tuple[bytes, ...] | None:
        """As ``find``, from memory alone; the digests to ask Postgres for if that does not suffice."""
        digests = self._keyring.digests(api_key)
        from_memory = self._replica.may_answer() and self._replica.revision >= min_revision
        if from_memory and (known := self._remembered(digests)) is not None and known.record is not None:
            return known
        if not self._keyring.is_well_formed(api_key):
            if from_memory and not self._replica.knows_imports:
                return None
            digests += foreign_digests(api_key)
        if from_memory and (remembered := self._remembered(digests)) is not None:
            return remembered
        return digests

    def holds(self, *records: SecretRecord) -> bool:
        """Whether each is still what memory has behind its API key, and may answer with; quicker than ``recall``.

        Never so for API keys of other systems, for which one of ours may have come to stand since.
        """
        if not self._replica.may_answer():
            return False
        now, recall = self._clock(), self._cache.get
        for record in records:
            if record.algorithm is not Algorithm.PEPPERED or recall(record.digest, now=now) is not record:
                return False
        return True

    @property
    def revision(self) -> int:
        """What answers from memory reflect."""
        return self._replica.revision

    async def find_by_key_id(self, key_id: str) -> tuple[Key | None, Owner | None]:
        """The key named ``key_id`` and its owner, always from the truth."""
        return await self._by_key_id.submit(key_id)

    async def find_owner(self, tenant_id: str, owner_id: str) -> Owner | None:
        """What is known of an owner, always from the truth."""
        async with self._postgres.connection(timeout_seconds=_READ_TIMEOUT_SECONDS) as connection:
            return await find_owner(connection, tenant_id=tenant_id, owner_id=owner_id)

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._by_digests.close()
        await self._by_key_id.close()

    def _remembered(self, digests: tuple[bytes, ...]) -> Found | None:
        now, unknown = self._clock(), 0
        for digest in digests:
            kept = self._cache.get(digest, now=now)
            if isinstance(kept, SecretRecord):
                if kept.algorithm is not Algorithm.PEPPERED and unknown < self._own_digests:
                    return None  # a digest of ours, which would win, may be stored by now
                return Found(record=kept, revision=self._replica.revision)
            unknown += kept is Absence.UNKNOWN
        return Found(record=None, revision=self._replica.revision) if unknown == len(digests) else None

    async def _read_digests(self, asked: Sequence[tuple[bytes, ...]]) -> list[Found]:
        wanted = [digest for digests in asked for digest in digests]
        records, revision = await self._read(wanted)
        if lost := self._remember(wanted, records, revision):  # changed while it was read: look again
            again, revision = await self._read(lost)
            records = {digest: record for digest, record in records.items() if digest not in lost} | again
            self._remember(lost, again, revision)
        return [Found(record=self._first(digests, records), revision=revision) for digests in asked]

    def _first(self, digests: tuple[bytes, ...], records: Mapping[bytes, SecretRecord]) -> SecretRecord | None:
        """The record of the first digest that is known; one of another system is soon replaced by ours."""
        record = next((records[digest] for digest in digests if digest in records), None)
        if record is not None and record.algorithm is not Algorithm.PEPPERED:
            self._upgrades.note(old=record.digest, new=digests[0])
        return record

    async def _read(self, digests: Sequence[bytes]) -> tuple[dict[bytes, SecretRecord], int]:
        async with self._postgres.connection(timeout_seconds=_READ_TIMEOUT_SECONDS) as connection:
            records, revision = await find_by_digests(connection, digests)
        return dict(records), revision

    def _remember(self, digests: Sequence[bytes], records: Mapping[bytes, SecretRecord], revision: int) -> list[bytes]:
        """Store what was read, and tell what a later change forbids to store."""
        now = self._clock()
        return [digest for digest in digests if not self._put(digest, records.get(digest), revision, now)]

    def _put(self, digest: bytes, record: SecretRecord | None, revision: int, now: float) -> bool:
        if record is None:
            return self._cache.put_unknown(digest, revision=revision, now=now)
        return self._cache.put(digest, record, subjects=_subjects(record.key), revision=revision, now=now)

    async def _read_key_ids(self, key_ids: Sequence[str]) -> list[tuple[Key | None, Owner | None]]:
        async with self._postgres.connection(timeout_seconds=_READ_TIMEOUT_SECONDS) as connection:
            found = await find_with_owners(connection, key_ids)
        return [found.get(key_id, (None, None)) for key_id in key_ids]


def _subjects(key: Key) -> tuple[str, ...]:
    """Whose change ends what is remembered of the key."""
    return (key.key_id, owner_subject(key.tenant_id, key.owner_id)) if key.owner_id else (key.key_id,)
