"""How HTTP tells what became of an API key: status, headers and a JSON body."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tollkeeper._decisions import DecisionCode
from tollkeeper._limits import LimitScope, LimitState
from tollkeeper.middleware._admission import AUTHORIZATION, Refusal, Refused

Headers = dict[str, str]

STATUSES = {
    Refusal.UNAUTHENTICATED: 401,
    Refusal.FORBIDDEN: 403,
    Refusal.LIMITED: 429,
    Refusal.UNDECIDED: 503,
}


_POLICY_VIOLATION = 1008
_TRY_AGAIN_LATER = 1013


def takes_status(scope: Mapping[str, Any]) -> bool:
    """Whether a refusal can be answered; a WebSocket can only be closed, where the server knows no better."""
    return scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {})


def close_code(refused: Refused) -> int:
    """With which a WebSocket is closed."""
    return _TRY_AGAIN_LATER if refused.refusal in (Refusal.LIMITED, Refusal.UNDECIDED) else _POLICY_VIOLATION


def error(refused: Refused) -> dict[str, str | int]:
    """The refusal for programs: its code, a text for people, and the seconds to wait where waiting helps."""
    told: dict[str, str | int] = {"code": refused.code, "message": refused.message}
    if refused.retry_after is not None:
        told["retry_after"] = _seconds(refused.retry_after)
    return told


def body(refused: Refused) -> bytes:
    """The refusal as JSON."""
    return json.dumps({"error": error(refused)}).encode()


def refusal_headers(refused: Refused, *, api_key_header: str, rates: bool) -> Headers:
    """What goes with the status; with ``rates``, the limits too."""
    headers = (rate_headers(refused.limits) if rates else {}) | {"cache-control": "no-store"}
    if refused.retry_after is not None:
        headers["retry-after"] = str(_seconds(refused.retry_after))
    if refused.refusal is Refusal.UNAUTHENTICATED and api_key_header == AUTHORIZATION:
        missing = refused.code == DecisionCode.KEY_MISSING
        headers["www-authenticate"] = "Bearer" if missing else 'Bearer error="invalid_token"'
    return headers


def rate_headers(limits: Sequence[LimitState]) -> Headers:
    """The limits as ``RateLimit-Policy`` and ``RateLimit``, after draft-ietf-httpapi-ratelimit-headers.

    One item for each limit that can deny: its name (an owner's limit as ``owner:name``); ``q``, units that a window
    allows, and ``qu``, the unit if it is not ``requests``; ``r``, units that remain, and ``t``, seconds until all are
    back.
    """
    shown = [state for state in limits if not state.shadow]
    if not shown:
        return {}
    now = datetime.now(UTC)
    return {
        "ratelimit-policy": ", ".join(_policy(state) for state in shown),
        "ratelimit": ", ".join(_state(state, now) for state in shown),
    }


def _name(state: LimitState) -> str:
    return f'"owner:{state.name}"' if state.scope is LimitScope.OWNER else f'"{state.name}"'


def _policy(state: LimitState) -> str:
    unit = "" if state.unit == "requests" else f';qu="{state.unit}"'
    return f"{_name(state)};q={state.limit}{unit}"


def _state(state: LimitState, now: datetime) -> str:
    reset = "" if state.reset_at is None else f";t={max(0, _seconds(state.reset_at - now))}"
    return f"{_name(state)};r={max(0, state.remaining)}{reset}"


def _seconds(length: timedelta) -> int:
    return math.ceil(length.total_seconds())
