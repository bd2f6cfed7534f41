"""What is told of a decision is the same however often it is told, and never of another key or the key as it was."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.v1 import key_pb2, limit_pb2
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.answers import LIMITS_MAX, STARTS_MAX, Answers
from tollkeeper_server.api.convert import duration_from, timestamp_from
from tollkeeper_server.api.convert_keys import identity_message
from tollkeeper_server.api.convert_limits import LIMIT_KINDS, LIMIT_SCOPES
from tollkeeper_server.api.convert_verification import (
    DECISION_CODES,
    DEGRADATION_MESSAGES,
    DEGRADATION_REASONS,
    SECRETS,
)
from tollkeeper_server.core.decision import MESSAGES, Decision, DecisionCode, DegradationReason, Kept
from tollkeeper_server.core.key import Key, Secret
from tollkeeper_server.core.limits import AMOUNT_MAX, LimitKind, LimitScope, LimitState

NOW = datetime(2026, 11, 20, tzinfo=UTC)
KEY = Key(key_id="key_1", tenant_id="acme", metadata={"plan": "free"}, created_at=NOW, updated_at=NOW)
KEYS = (None, KEY, replace(KEY, key_id="key_2", permissions=("read",)))
SHARED = Answers()
"""Lives through all examples, so that each finds what others left behind."""

spans = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=366))
limit_states = st.builds(
    LimitState,
    name=st.sampled_from(["per-minute", "per-day"]),
    kind=st.sampled_from(LimitKind),
    unit=st.sampled_from(["requests", "spend"]),
    limit=st.sampled_from([0, 1, AMOUNT_MAX]),
    used=st.integers(0, AMOUNT_MAX),
    reset_at=st.none() | st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),
    exceeded=st.booleans(),
    shadow=st.booleans(),
    scope=st.sampled_from(LimitScope),
)
decisions = st.builds(
    Decision,
    code=st.sampled_from(DecisionCode),
    request_id=st.text("0a-", min_size=1, max_size=64),
    key=st.sampled_from(KEYS),
    secret=st.none() | st.sampled_from(Secret),
    limits=st.lists(limit_states, max_size=3).map(tuple),
    retry_after=st.none() | spans,
    reservation_id=st.sampled_from(["", "res_1"]),
    revision=st.integers(0, 2**63 - 1),
    degradations=st.lists(st.sampled_from(DegradationReason), unique=True).map(tuple),
    kept=st.none() | st.builds(Kept, verifications=st.integers(0, 10_000), usable_for=spans),
)


@given(decisions)
def test_an_answer_tells_all_of_its_decision_and_nothing_of_another(decision: Decision) -> None:
    assert answer(SHARED, decision) == in_full(decision)


def answer(answers: Answers, decision: Decision) -> pb.VerifyResponse:
    return pb.VerifyResponse.FromString(answers.of(decision))


def in_full(decision: Decision) -> pb.VerifyResponse:
    """The answer, put together field by field."""
    return pb.VerifyResponse(
        code=DECISION_CODES[decision.code],
        message=MESSAGES[decision.code],
        key=None if decision.key is None else identity_message(decision.key),
        limits=[
            limit_pb2.LimitState(
                name=state.name,
                kind=LIMIT_KINDS[state.kind],
                unit=state.unit,
                limit=state.limit,
                used=state.used,
                remaining=max(0, state.limit - state.used),
                reset_at=None if state.reset_at is None else timestamp_from(state.reset_at),
                exceeded=state.exceeded,
                shadow=state.shadow,
                scope=LIMIT_SCOPES[state.scope],
            )
            for state in decision.limits
        ],
        retry_after=None if decision.retry_after is None else duration_from(decision.retry_after),
        reservation_id=decision.reservation_id,
        revision=decision.revision,
        degradations=[
            pb.Degradation(reason=DEGRADATION_REASONS[reason], message=DEGRADATION_MESSAGES[reason])
            for reason in decision.degradations
        ],
        request_id=decision.request_id,
        secret=key_pb2.SECRET_UNSPECIFIED if decision.secret is None else SECRETS[decision.secret],
        kept=None
        if decision.kept is None
        else pb.Kept(usable_for=duration_from(decision.kept.usable_for), verifications=decision.kept.verifications),
    )


def test_a_key_that_changed_is_told_as_it_is_now() -> None:
    answers = Answers()
    told = [
        answer(answers, Decision(code=DecisionCode.ALLOWED, request_id="r", key=key))
        for key in (KEY, replace(KEY, metadata={"plan": "pro"}))
    ]
    assert [each.key.metadata["plan"] for each in told] == ["free", "pro"]


def test_keys_that_come_and_go_are_never_taken_for_each_other_and_never_fill_the_memory() -> None:
    answers = Answers()
    for number in range(2 * STARTS_MAX):
        key = replace(KEY, key_id=f"key_{number}")
        told = answer(answers, Decision(code=DecisionCode.ALLOWED, request_id="r", key=key))
        assert told.key.key_id == key.key_id
    assert len(answers._starts) == STARTS_MAX


def test_limits_that_come_and_go_are_never_taken_for_each_other_and_never_fill_the_memory() -> None:
    answers = Answers()
    for used in range(2 * LIMITS_MAX):
        limits = (limit_state(used),)
        for _ in range(2):  # made, and found
            told = answer(answers, Decision(code=DecisionCode.ALLOWED, request_id="r", key=KEY, limits=limits))
            assert [state.used for state in told.limits] == [used]
    assert len(answers._limits) == LIMITS_MAX


def limit_state(used: int) -> LimitState:
    return LimitState(
        name="per-day",
        kind=LimitKind.QUOTA,
        unit="requests",
        limit=1000,
        used=used,
        reset_at=NOW,
        exceeded=False,
        shadow=False,
        scope=LimitScope.KEY,
    )
