"""What mutations stand on while they hold the lock: records as they are, changed in memory one step after the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.keys.records import key_record, owner_record
from tollkeeper_server.keys.requests import Answer, Id, Remembered, Request

OwnerId = tuple[str, str]
"""Tenant and owner."""


class Algorithm(StrEnum):
    """What a digest of an API key was made with."""

    PEPPERED = "PEPPERED"
    """HMAC-SHA-256 under a pepper: ours."""
    SHA256 = "SHA256"
    SHA512 = "SHA512"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """What is stored of an API key."""

    digest: bytes = field(repr=False)
    algorithm: Algorithm = Algorithm.PEPPERED
    pepper_version: int
    """0 for the algorithms of other systems."""
    key_id: str
    created_at: datetime
    expires_at: datetime | None = None
    """The end of an overlap; None while it is the key's current API key."""
    imported: bool = False
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Which records an operation has to see."""

    key_ids: frozenset[str] = frozenset()
    secrets_of: frozenset[str] = frozenset()
    """Keys whose secrets change."""
    owner_ids: frozenset[OwnerId] = frozenset()
    keys_of: frozenset[OwnerId] = frozenset()
    """Owners of whom every key that is not revoked is needed."""
    digests: frozenset[bytes] = field(default=frozenset(), repr=False)
    """Digests that may be stored already."""

    @classmethod
    def of(cls, all_needs: Iterable["Needs"]) -> "Needs":
        """What several operations need together."""
        needs = list(all_needs)
        return cls(
            key_ids=frozenset().union(*(each.key_ids for each in needs)),
            secrets_of=frozenset().union(*(each.secrets_of for each in needs)),
            owner_ids=frozenset().union(*(each.owner_ids for each in needs)),
            keys_of=frozenset().union(*(each.keys_of for each in needs)),
            digests=frozenset().union(*(each.digests for each in needs)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of one record: its row in ``changes``, and its event in the audit log."""

    revision: int
    tenant_id: str
    key_id: str
    owner_id: str
    request: Request
    changed_at: datetime
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]


class Workspace:
    """The records that a batch of operations needs. Whoever holds it holds the lock."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        next_revision: int,
        keys: Iterable[Key],
        secrets: Iterable[StoredSecret],
        owners: Iterable[Owner],
        taken: Iterable[bytes],
        answers: Mapping[Id, Remembered],
    ) -> None:
        self.now = clock
        self._next_revision = next_revision
        self._keys = {key.key_id: key for key in keys}
        self._secrets = {secret.digest: secret for secret in secrets}
        self._stored = dict(self._secrets)
        self._owners = {(owner.tenant_id, owner.owner_id): owner for owner in owners}
        self._taken = set(taken)
        self._answers = dict(answers)
        self._changed_keys = set[str]()
        self._changed_owners = set[OwnerId]()
        self.steps: list[Step] = []
        self.answered: list[tuple[Request, Remembered]] = []

    @property
    def revision(self) -> int:
        """That of the last change anywhere."""
        return self._next_revision - 1

    def key(self, key_id: str) -> Key | None:
        """The key as the operations before have left it."""
        return self._keys.get(key_id)

    def keys_of(self, owner_id: OwnerId) -> list[Key]:
        """The owner's keys among those that are needed, by key_id."""
        return sorted(
            (key for key in self._keys.values() if (key.tenant_id, key.owner_id) == owner_id),
            key=lambda key: key.key_id,
        )

    def owner(self, owner_id: OwnerId) -> Owner | None:
        """The owner as the operations before have left it."""
        return self._owners.get(owner_id)

    def secrets_of(self, key_id: str) -> list[StoredSecret]:
        """The secrets of a key."""
        return [secret for secret in self._secrets.values() if secret.key_id == key_id]

    def is_taken(self, digest: bytes) -> bool:
        """Whether a key has an API key with this digest."""
        return digest in self._taken or digest in self._secrets

    def put_key(self, key: Key, request: Request, *, note: Mapping[str, str] | None = None) -> Key:
        """Create or replace a key; gives it with its revision. ``note`` is added to the audit event."""
        before = self._keys.get(key.key_id)
        key = replace(key, revision=self._next_revision, updated_by=request.actor)
        self._keys[key.key_id] = key
        self._changed_keys.add(key.key_id)
        self._step(
            key,
            request,
            key_id=key.key_id,
            before=None if before is None else key_record(before),
            after=key_record(key) | (dict(note) if note else {}),
        )
        return key

    def put_owner(self, owner: Owner, request: Request) -> Owner:
        """Create or replace an owner; gives it with its revision."""
        owner_id = owner.tenant_id, owner.owner_id
        before = self._owners.get(owner_id)
        owner = replace(owner, revision=self._next_revision)
        self._owners[owner_id] = owner
        self._changed_owners.add(owner_id)
        self._step(
            owner,
            request,
            key_id="",
            before=None if before is None else owner_record(before),
            after=owner_record(owner),
        )
        return owner

    def put_secret(self, secret: StoredSecret) -> None:
        """Create or replace a secret."""
        self._secrets[secret.digest] = secret

    def take(self, digests: Iterable[bytes]) -> None:
        """Let no later operation import these digests."""
        self._taken.update(digests)

    def drop_secret(self, secret: StoredSecret) -> None:
        """Forget a secret: its API key proves nothing any more."""
        del self._secrets[secret.digest]

    def answer_to(self, request: Request) -> Answer | None:
        """The answer that the request got before; raises AlreadyExists if it was another request."""
        known = self._answers.get(request.id)
        return None if known is None else known.answer_to(request)

    def remember(self, request: Request, answer: Answer) -> None:
        """Keep the answer for when the request comes again."""
        if request.request_id:
            answered = Remembered(fingerprint=request.fingerprint, answered_at=self.now(), answer=answer)
            self._answers[request.id] = answered
            self.answered.append((request, answered))

    def changed_keys(self) -> list[Key]:
        """Keys to store."""
        return [self._keys[key_id] for key_id in sorted(self._changed_keys)]

    def changed_owners(self) -> list[Owner]:
        """Owners to store."""
        return [self._owners[owner_id] for owner_id in sorted(self._changed_owners)]

    def new_secrets(self) -> list[StoredSecret]:
        """Secrets to store that are not stored yet."""
        return [secret for digest, secret in self._secrets.items() if digest not in self._stored]

    def ended_secrets(self) -> list[StoredSecret]:
        """Secrets that are stored, and have got another end."""
        return [secret for digest, secret in self._secrets.items() if self._stored.get(digest, secret) is not secret]

    def dropped_secrets(self) -> Sequence[bytes]:
        """Digests of stored secrets to delete."""
        return [digest for digest in self._stored if digest not in self._secrets]

    def _step(
        self,
        record: Key | Owner,
        request: Request,
        *,
        key_id: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any],
    ) -> None:
        self.steps.append(
            Step(
                revision=self._next_revision,
                tenant_id=record.tenant_id,
                key_id=key_id,
                owner_id=record.owner_id,
                request=request,
                changed_at=record.updated_at,
                before=before,
                after=after,
            )
        )
        self._next_revision += 1
