"""What became of one request at a gateway, and the words in which answers can speak of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

from tollkeeper_server.core.decision import MESSAGES
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.limits import LimitState
from tollkeeper_server.edge.asked import Asked
from tollkeeper_server.edge.credentials import Source
from tollkeeper_server.edge.profile import EDGE_MESSAGES, PLACEHOLDERS, EdgeCode, Figure, OutcomeCode, Profile
from tollkeeper_server.edge.templates import Values
from tollkeeper_server.keys.commands import CreatedKey

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request."""

    code: OutcomeCode
    profile: Profile
    request_id: str
    key: Key | None = None
    """Set only if the API key was proven."""
    limits: Sequence[LimitState] = ()
    retry_after: timedelta | None = None
    reservation_id: str = ""
    """What the upstream is to settle."""
    used: Sequence[Source] = ()
    """Where the API key was."""
    created: CreatedKey | None = None
    """The new key that was asked for."""
    problem: str = ""
    """What is wrong with the request, where there is more to say than the code does."""


def outcome_of(asked: Asked, code: EdgeCode, *, problem: str = "") -> Outcome:
    """An outcome without a key."""
    return Outcome(code=code, profile=asked.profile, request_id=asked.request_id, problem=problem)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a client gets, word for word."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: str


def answer_of(outcome: Outcome, *, now: datetime) -> Answered:
    """What a client gets that is not allowed: the profile's answer, and its limits."""
    answer = outcome.profile.answers[outcome.code]
    values = _values(outcome, now=now)
    headers = [(name, value) for name, template in answer.headers if (value := template.render(values))]
    headers += limit_headers(outcome, now=now)
    return Answered(answer.status, headers, answer.body.render(values) if answer.body else "")


def limit_headers(outcome: Outcome, *, now: datetime) -> Iterable[tuple[str, str]]:
    """The headers in which the profile shows limits. Of two limits with one name the tighter is shown."""
    shown = outcome.profile.limit_headers
    if not shown.headers or not (shown.every_answer or outcome.limits):
        return
    limits: dict[str, LimitState] = {}
    for limit in outcome.limits:
        if limit.name not in limits or limit.remaining < limits[limit.name].remaining:
            limits[limit.name] = limit
    for header in shown.headers:
        value = _figure(limits.get(header.limit), header.figure, now) or shown.unknown
        if value:
            yield header.name, value


def _values(outcome: Outcome, *, now: datetime) -> Values:
    """What the placeholders of an answer stand for."""
    if outcome.created is not None:
        return _creation_values(outcome.created, request_id=outcome.request_id)
    values: dict[str, str | int | None] = dict.fromkeys(PLACEHOLDERS)
    values["code"], values["message"] = outcome.code.value, outcome.problem or _message(outcome.code)
    values["request_id"] = outcome.request_id
    values["header"] = outcome.profile.credential_header or None
    if outcome.key is not None:
        values["key_id"] = outcome.key.key_id
        if outcome.key.expires_at is not None:
            values["expired_at"] = _rfc3339(outcome.key.expires_at)
    for limit in outcome.limits:
        if limit.exceeded and not limit.shadow:
            values["limit"], values["remaining"] = limit.limit, limit.remaining
            values["reset"] = _seconds_until(limit.reset_at, now)
            break
    if outcome.retry_after is not None:
        values["retry_after"] = _whole_seconds(outcome.retry_after)
    return values


def _creation_values(created: CreatedKey, *, request_id: str) -> Values:
    key = created.key
    ends = key.expires_at
    return {
        "api_key": created.api_key,
        "fingerprint": created.fingerprint,
        "key_id": key.key_id,
        "owner_id": key.owner_id,
        "name": key.name,
        "description": key.description,
        "created_at": _rfc3339(key.created_at),
        "created_at_ms": _milliseconds(key.created_at - _EPOCH),
        "expires_at": None if ends is None else _rfc3339(ends),
        "expires_at_ms": None if ends is None else _milliseconds(ends - _EPOCH),
        "ttl_ms": None if ends is None else _milliseconds(ends - key.created_at),
        "request_id": request_id,
    }


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def _figure(limit: LimitState | None, figure: Figure, now: datetime) -> str:
    return "" if limit is None else str(_FIGURES[figure](limit, now))


def _message(code: OutcomeCode) -> str:
    return EDGE_MESSAGES[code] if isinstance(code, EdgeCode) else MESSAGES[code]


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds_until(moment: datetime | None, now: datetime) -> int:
    return 0 if moment is None else max(0, _whole_seconds(moment - now))


def _whole_seconds(span: timedelta) -> int:
    """Rounded up: who waits so long has waited long enough."""
    return ceil(span / timedelta(seconds=1))


_FIGURES: Mapping[Figure, Callable[[LimitState, datetime], int]] = {
    Figure.LIMIT: lambda limit, _: limit.limit,
    Figure.USED: lambda limit, _: limit.used,
    Figure.REMAINING: lambda limit, _: limit.remaining,
    Figure.RESET: lambda limit, now: _seconds_until(limit.reset_at, now),
    Figure.RESET_AT: lambda limit, now: ceil((limit.reset_at or now).timestamp()),
}
