"""What Envoy is told of an allowed request is the same however often it is told, and never of the key as it was."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.limits import LimitKind, LimitScope, LimitState
from tollkeeper_server.edge import answers
from tollkeeper_server.edge.answers import Allowances
from tollkeeper_server.edge.credentials import CookieSource, HeaderSource, QuerySource
from tollkeeper_server.edge.http_request import HttpRequest
from tollkeeper_server.edge.library import read_profiles
from tollkeeper_server.edge.outcome import Outcome

PROFILES = read_profiles(Path(__file__).parents[2] / "service" / "profiles")
SHOWS_LIMITS = PROFILES.named("product-slug")
NOW = datetime(2026, 11, 20, tzinfo=UTC)
KEY = Key(key_id="key_1", tenant_id="acme", permissions=("read", "write"), created_at=NOW, updated_at=NOW)
KEYS = (KEY, replace(KEY, owner_id="o"), replace(KEY, permissions=()))
SHARED = Allowances()
"""Lives through all examples, so that each finds what others left behind."""

outcomes = st.builds(
    Outcome,
    code=st.just(DecisionCode.ALLOWED),
    profile=st.sampled_from([SHOWS_LIMITS, PROFILES.named("conduit")]),
    request_id=st.sampled_from(["r-1", "r-2"]),
    key=st.sampled_from(KEYS),
    limits=st.sampled_from([0, 3]).map(
        lambda used: (
            LimitState(
                name="per-minute",
                kind=LimitKind.RATE,
                unit="requests",
                limit=5,
                used=used,
                reset_at=NOW,
                exceeded=False,
                shadow=False,
                scope=LimitScope.KEY,
            ),
        )
    ),
    reservation_id=st.sampled_from(["", "res_1"]),
    used=st.lists(
        st.sampled_from([HeaderSource("x-api-key"), QuerySource("key"), CookieSource("session")]), unique=True
    ),
)


def request(cookie: str = "") -> HttpRequest:
    attributes = attribute_context_pb2.AttributeContext()
    attributes.request.http.path = "/"
    if cookie:
        attributes.request.http.headers["cookie"] = cookie
    return HttpRequest(attributes)


def told(allowances: Allowances, outcome: Outcome, cookie: str = "") -> external_auth_pb2.CheckResponse:
    return external_auth_pb2.CheckResponse.FromString(allowances.of(outcome, request(cookie), now=NOW))


@given(outcome=outcomes, cookie=st.sampled_from(["", "session=x", "session=x; theme=dark"]))
def test_what_is_told_is_as_if_it_were_the_first_time(outcome: Outcome, cookie: str) -> None:
    answer = told(SHARED, outcome, cookie)
    assert answer == told(Allowances(), outcome, cookie)
    headers = {option.header.key: option.header.value for option in answer.ok_response.headers}
    removed = list(answer.ok_response.headers_to_remove)
    assert not headers.keys() & set(removed)
    key = outcome.key
    assert key is not None
    expected = {
        "x-tollkeeper-key-id": key.key_id,
        "x-tollkeeper-tenant-id": key.tenant_id,
        "x-tollkeeper-owner-id": key.owner_id,
        "x-tollkeeper-permissions": ",".join(key.permissions),
        "x-tollkeeper-reservation-id": outcome.reservation_id,
    }
    for name, value in expected.items():  # set by us, or taken out: never the client's own
        assert headers.get(name, "") == value
        assert (name in removed) == (not value)
    if CookieSource("session") in outcome.used:
        assert headers.get("cookie", "") == ("theme=dark" if "theme" in cookie else "")
    assert ("x-api-key" in removed) == (HeaderSource("x-api-key") in outcome.used)
    assert list(answer.ok_response.query_parameters_to_remove) == ["key"] * (QuerySource("key") in outcome.used)
    assert answer.dynamic_metadata.fields["request_id"].string_value == outcome.request_id
    assert answer.dynamic_metadata.fields["key_id"].string_value == key.key_id


def test_keys_that_come_and_go_are_never_taken_for_each_other_and_never_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "STARTS_MAX", 10)
    allowances = Allowances()
    assert SHOWS_LIMITS is not None
    for number in range(30):
        key = replace(KEY, key_id=f"key_{number}")
        outcome = Outcome(code=DecisionCode.ALLOWED, profile=SHOWS_LIMITS, request_id="r", key=key)
        assert told(allowances, outcome).dynamic_metadata.fields["key_id"].string_value == key.key_id
    assert len(allowances._starts) == 10
