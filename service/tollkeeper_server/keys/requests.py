"""Idempotency: a request that comes again gets its first answer again, for 24 hours."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import AlreadyExists, InvalidArgument, PermissionDenied, TollkeeperError, Violation
from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.keys.records import Row, key_from_record, owner_from_record, owner_record, whole_key_record

REMEMBERED = timedelta(hours=24)
"""How long a request_id is honoured."""

Id = tuple[str, str, str, str]

_FAULTS = {fault.__name__: fault for fault in (AlreadyExists, PermissionDenied)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call that may come again: who makes it, under which request_id, and what it asks for.

    A request_id means something to the caller that chose it and to no other.
    """

    tenant_id: str
    """The caller's own."""
    actor: str
    actor_ip: str
    method: str
    request_id: str
    """Empty if the call is not to be remembered."""
    fingerprint: bytes
    """SHA-256 over what is asked for; no secret goes into it."""

    @classmethod
    def by(cls, caller: Caller, method: str, *, request_id: str, content: Mapping[str, Any]) -> "Request":
        """The call of ``method`` by ``caller``; ``content`` is all that it asks for, without its request_id."""
        return cls(
            tenant_id=caller.tenant_id,
            actor=caller.name,
            actor_ip=caller.address,
            method=method,
            request_id=request_id,
            fingerprint=_fingerprint(content),
        )

    @property
    def id(self) -> Id:
        """What the request is remembered by."""
        return self.tenant_id, self.actor, self.method, self.request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a mutation gives, the first time and again."""

    revision: int
    """That of the last change it made, or of what it left as it was."""
    items: tuple[Key | TollkeeperError, ...] = ()
    """The keys as they are after it, or why one of several was not changed."""
    owner: Owner | None = None
    key_ids: tuple[str, ...] = ()
    """Keys that are only named."""
    seed: bytes | None = field(default=None, repr=False)
    """What the API key is minted from, where the answer carries one."""

    @property
    def key(self) -> Key:
        """The key, where there is one."""
        (key,) = self.items
        assert isinstance(key, Key)
        return key

    def content(self) -> dict[str, Any]:
        """What is kept of it beside its revision and its seed."""
        return {
            "items": list(map(_item_record, self.items)),
            "owner": None if self.owner is None else owner_record(self.owner),
            "key_ids": self.key_ids,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A request that was answered before."""

    fingerprint: bytes
    answered_at: datetime
    answer: Answer

    @classmethod
    def read(cls, row: Row) -> "Remembered":
        """What a row of the table ``idempotency`` says."""
        content = orjson.loads(row["answer"])
        answer = Answer(
            revision=row["revision"],
            items=tuple(map(_item_from, content["items"])),
            owner=None if content["owner"] is None else owner_from_record(content["owner"]),
            key_ids=tuple(content["key_ids"]),
            seed=row["seed"],
        )
        return cls(fingerprint=row["fingerprint"], answered_at=row["created_at"], answer=answer)

    def answer_to(self, request: Request) -> Answer:
        """Its answer; raises AlreadyExists if ``request`` asks for something else under the same id."""
        if not hmac.compare_digest(self.fingerprint, request.fingerprint):
            raise AlreadyExists("the request_id was used for another request", reason="REQUEST_ID_REUSED")
        return self.answer


def _fingerprint(content: Mapping[str, Any]) -> bytes:
    """Empty fields are left out, so that a field that a later version adds changes nothing for those without it."""
    given = {name: value for name, value in content.items() if value}
    return hashlib.sha256(orjson.dumps(given, default=str, option=orjson.OPT_SORT_KEYS)).digest()


def _item_record(item: Key | TollkeeperError) -> dict[str, Any]:
    if isinstance(item, Key):
        return {"key": whole_key_record(item)}
    if isinstance(item, InvalidArgument):
        return {"violations": [(violation.field, violation.description) for violation in item.violations]}
    fault = {"message": item.message, "reason": item.reason, "metadata": item.metadata}
    return {"fault": type(item).__name__, **fault}


def _item_from(record: Mapping[str, Any]) -> Key | TollkeeperError:
    if "key" in record:
        return key_from_record(record["key"])
    if "violations" in record:
        return InvalidArgument([Violation(*violation) for violation in record["violations"]])
    fault = _FAULTS[record["fault"]]
    return fault(record["message"], reason=record["reason"], metadata=record["metadata"])
