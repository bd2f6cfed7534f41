"""Idempotency: a request that comes again gets its first answer again, for 24 hours."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import AlreadyExists
from tollkeeper_server.storage.postgres import Connection

REMEMBERED = timedelta(hours=24)
"""How long a request_id is honoured."""

_ID = "tenant_id = $1 AND actor = $2 AND method = $3 AND request_id = $4"
_FIND = f"SELECT fingerprint, key_id, seed, revision, created_at FROM idempotency WHERE {_ID}"  # noqa: S608
_FORGET = f"DELETE FROM idempotency WHERE {_ID} AND created_at <= $5"  # noqa: S608


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
            actor=caller.key_id,
            actor_ip=caller.address,
            method=method,
            request_id=request_id,
            fingerprint=_fingerprint(content),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAnswer:
    """What is left of the answer to an earlier request, enough to give it again."""

    key_id: str
    seed: bytes | None = field(repr=False)
    """What the API key was minted from, where the answer carried one."""
    revision: int
    created_at: datetime


async def first_answer(connection: Connection, request: Request, *, now: datetime) -> FirstAnswer | None:
    """The answer that ``request`` got before; None if it got none in the last 24 hours.

    Raises AlreadyExists if its request_id was used for something else.
    """
    names = (request.tenant_id, request.actor, request.method, request.request_id)
    row = await connection.fetchrow(_FIND, *names)
    if row is None:
        return None
    if row["created_at"] <= now - REMEMBERED:
        await connection.execute(_FORGET, *names, now - REMEMBERED)
        return None
    if not hmac.compare_digest(row["fingerprint"], request.fingerprint):
        raise AlreadyExists("the request_id was used for another request", reason="REQUEST_ID_REUSED")
    return FirstAnswer(key_id=row["key_id"], seed=row["seed"], revision=row["revision"], created_at=row["created_at"])


def _fingerprint(content: Mapping[str, Any]) -> bytes:
    """Empty fields are left out, so that a field that a later version adds changes nothing for those without it."""
    given = {name: value for name, value in content.items() if value}
    return hashlib.sha256(orjson.dumps(given, default=str, option=orjson.OPT_SORT_KEYS)).digest()
