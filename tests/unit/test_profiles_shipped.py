"""Every shipped profile has an answer for everything that can happen, and each is good JSON with a fitting status."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.limits import LimitKind, LimitScope, LimitState
from tollkeeper_server.edge.library import read_profiles
from tollkeeper_server.edge.outcome import Outcome, answer_of
from tollkeeper_server.edge.profile import CREATION_CODES, EdgeCode, OutcomeCode

PROFILES = read_profiles(Path(__file__).resolve().parents[2] / "service" / "profiles")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CODES: list[OutcomeCode] = [
    code for code in (*DecisionCode, *EdgeCode) if code is not DecisionCode.ALLOWED and code not in CREATION_CODES
]
STATUSES = {
    DecisionCode.KEY_MISSING: {401},
    DecisionCode.KEY_INVALID: {401},
    DecisionCode.RATE_LIMITED: {429},
    DecisionCode.SPEND_LIMIT_EXCEEDED: {403, 429},
    EdgeCode.UNAVAILABLE: {503},
}


@pytest.mark.parametrize("name", PROFILES.names)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("proven", [False, True])
def test_every_outcome_has_an_answer(name: str, code: OutcomeCode, proven: bool) -> None:
    profile = PROFILES.named(name)
    assert profile is not None
    limit = LimitState(
        name="per-minute",
        kind=LimitKind.RATE,
        unit="requests",
        limit=5,
        used=5,
        reset_at=NOW + timedelta(seconds=1.5),
        exceeded=True,
        shadow=False,
        scope=LimitScope.KEY,
    )
    key = Key(key_id="key_1", tenant_id="t", created_at=NOW, updated_at=NOW, expires_at=NOW)
    outcome = Outcome(
        code=code,
        profile=profile,
        request_id="r-1",
        key=key if proven else None,
        limits=[limit] if proven else [],
        retry_after=timedelta(seconds=1.5) if proven else None,
    )
    answer = answer_of(outcome, now=NOW)
    json.loads(answer.body)
    headers = dict(answer.headers)
    assert headers["content-type"] == "application/json"
    assert answer.status in STATUSES.get(code, {401, 403, 429})
    if answer.status == 429:
        assert headers.get("retry-after") == ("2" if proven else None)
    assert "" not in headers.values()
