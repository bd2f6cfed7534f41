"""Key identifiers, page tokens and the fingerprints of requests: what holds of them whatever goes in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import InvalidArgument
from tollkeeper_server.core.key import Key, KeyState
from tollkeeper_server.keys.commands import ListKeys
from tollkeeper_server.keys.ids import KEY_ID_PATTERN, first_key_id, new_key_id
from tollkeeper_server.keys.pages import Cursor, cursor, page_token
from tollkeeper_server.keys.requests import Request

MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 1),
    max_value=datetime(9000, 1, 1),
    timezones=st.just(UTC),
)
WORDS = st.text(max_size=20)
QUERIES = st.builds(
    ListKeys,
    owner_id=WORDS,
    environment=WORDS,
    prefix=WORDS,
    state=st.none() | st.sampled_from(KeyState),
    expires_before=st.none() | MOMENTS,
    created_before=st.none() | MOMENTS,
    api_key_created_before=st.none() | MOMENTS,
)
CALLER = Caller(key_id="key_1", tenant_id="acme", permissions=())


@given(MOMENTS, MOMENTS)
def test_key_ids_sort_by_creation(one: datetime, other: datetime) -> None:
    first, second = new_key_id(one), new_key_id(other)
    assert KEY_ID_PATTERN.fullmatch(first)
    if one != other:
        assert (first < second) == (one < other)


def test_key_ids_of_one_moment_differ() -> None:
    now = datetime.now(UTC)
    assert len({new_key_id(now) for _ in range(1000)}) == 1000


@given(MOMENTS, MOMENTS)
def test_a_moment_divides_the_key_ids_made_before_from_those_made_later(moment: datetime, made_at: datetime) -> None:
    assert (new_key_id(made_at) < first_key_id(moment)) == (made_at < moment)


@given(QUERIES, WORDS, MOMENTS, MOMENTS)
def test_a_page_token_gives_back_where_the_page_ended(
    query: ListKeys, tenant_id: str, created_at: datetime, expires_at: datetime
) -> None:
    last = key(created_at, expires_at)
    token = page_token(query, tenant_id=tenant_id, last=last)
    expected = Cursor(last.key_id, None if query.expires_before is None else expires_at)
    assert cursor(replace(query, page_token=token), tenant_id=tenant_id) == expected


@given(QUERIES, QUERIES, WORDS, WORDS)
def test_a_page_token_is_refused_with_other_filters(one: ListKeys, other: ListKeys, mine: str, theirs: str) -> None:
    now = datetime.now(UTC)
    token = page_token(one, tenant_id=mine, last=key(now, now))
    if (one, mine) != (other, theirs):
        with pytest.raises(InvalidArgument):
            cursor(replace(other, page_token=token), tenant_id=theirs)


@given(st.text(min_size=1) | st.binary(min_size=1).map(lambda junk: junk.decode("latin-1")))
def test_garbage_is_no_page_token(token: str) -> None:
    with pytest.raises(InvalidArgument) as fault:
        cursor(ListKeys(page_token=token), tenant_id="acme")
    assert [violation.field for violation in fault.value.violations] == ["page_token"]


def test_requests_have_equal_fingerprints_only_if_they_ask_for_the_same() -> None:
    contents: list[dict[str, object]] = [
        {},
        {"name": "a"},
        {"description": "a"},
        {"permissions": ("a", "b")},
        {"permissions": ("ab",)},
        {"metadata": {"a": 1}},
        {"metadata": {"a": "1"}},
        {"ttl": timedelta(seconds=1)},
        {"ttl": timedelta(seconds=2)},
    ]
    fingerprints = [fingerprint(content) for content in contents]
    assert len(set(fingerprints)) == len(contents)
    assert fingerprint({"name": "", "metadata": {}, "expires_at": None}) == fingerprint({})
    assert fingerprint({"metadata": {"a": 1, "b": 2}}) == fingerprint({"metadata": {"b": 2, "a": 1}})


def fingerprint(content: dict[str, object]) -> bytes:
    return Request.by(CALLER, "CreateKey", request_id="r", content=content).fingerprint


def key(created_at: datetime, expires_at: datetime) -> Key:
    return Key(
        key_id=new_key_id(created_at),
        tenant_id="acme",
        created_at=created_at,
        updated_at=created_at,
        expires_at=expires_at,
    )
