"""The near-cache by itself: what it gives again, to whom, how often, and what ends it."""

import threading
from collections.abc import Mapping
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper import Decision, DecisionCode, KeyIdentity, Verification
from tollkeeper._decisions import Secret
from tollkeeper._near_cache import (
    BLOCK_SECONDS,
    DRIFT,
    KEEP_GROWTH,
    KEEP_MAX,
    REMEMBERED_SECONDS,
    Ask,
    Change,
    NearCache,
    Question,
    SharedNearCache,
    Used,
    question_of,
)
from tollkeeper._requests.verification import verify
from tollkeeper.v1 import verification_service_pb2 as pb

LEASE = 2.0
USABLE_FOR = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> NearCache:
    """A cache with a lease, which has applied ten changes."""
    return leased(NearCache(clock=clock, entries_max=8, tombstones_max=4), clock)


def leased(cache: NearCache, clock: Clock) -> NearCache:
    cache.begin_anew(10)
    cache.renew(sent_at=clock.now, seconds=1_000)
    return cache


def question(name: str = "tk_1") -> Question:
    return question_of(name, "", (), None, None, None)


def allowed(key_id: str = "key_1", *, revision: int = 10, owner_id: str = "") -> Decision:
    key = KeyIdentity(
        key_id=key_id,
        tenant_id="acme",
        owner_id=owner_id,
        name="",
        environment="",
        permissions=(),
        resources=(),
        metadata={},
        expires_at=None,
    )
    return Decision(
        code=DecisionCode.ALLOWED,
        message="",
        key=key,
        limits=(),
        retry_after=None,
        reservation_id="",
        revision=revision,
        degradations=(),
        request_id="r",
        secret=Secret.CURRENT,
    )


def asked(cache: NearCache, name: str = "tk_1", charges: Mapping[str, int] | None = None) -> Ask:
    ask = cache.ask(question(name), charges)
    assert ask is not None
    return ask


def answer(
    cache: NearCache,
    ask: Ask,
    decision: Decision | None = None,
    *,
    block: int = 0,
    usable_for: float = USABLE_FOR,
    reservation_id: str = "",
) -> bool:
    kept = cache.keep(
        ask,
        allowed() if decision is None else decision,
        block=block,
        usable_for=usable_for,
        reservation_id=reservation_id,
    )
    cache.done(ask)
    return kept


def fill(cache: NearCache, decision: Decision | None = None, *, name: str = "tk_1", **kept: Any) -> bool:
    return answer(cache, asked(cache, name), decision, **kept)


def change(cache: NearCache, revision: int, *, key_id: str = "", owner_id: str = "", tenant_id: str = "acme") -> None:
    cache.change([Change(revision, key_id, tenant_id, owner_id)], revision=revision)


# What makes the same question.

QUESTIONS = {
    "api_key": st.sampled_from(["tk_1", "tk_2", ""]),
    "resource": st.sampled_from(["", "a", "b", "read"]),
    "permissions": st.lists(st.sampled_from(["r", "e", "read", "write"]), max_size=3)
    | st.lists(st.sampled_from(["read", "a"]), max_size=2).map(tuple),
    "client_ip": st.sampled_from([None, "192.0.2.1", "192.0.2.2", ip_address("192.0.2.1"), ip_address("::1")]),
    "charges": st.none() | st.dictionaries(st.sampled_from(["requests", "tokens"]), st.integers(0, 2)),
    "tenant_id": st.sampled_from([None, "acme", "other"]),
}


def request(asked: dict[str, Any]) -> bytes:
    return verify(Verification(**asked, request_id="r")).SerializeToString(deterministic=True)


@given(st.fixed_dictionaries(QUESTIONS), st.fixed_dictionaries(QUESTIONS))
def test_questions_that_look_the_same_are_the_same_request(one: dict[str, Any], other: dict[str, Any]) -> None:
    if question_of(**one) == question_of(**other):
        assert request(one) == request(other)


@given(st.fixed_dictionaries(QUESTIONS), st.sampled_from(sorted(QUESTIONS)), st.data())
def test_another_value_of_any_field_is_another_question(asked: dict[str, Any], field: str, data: st.DataObject) -> None:
    other = asked | {field: data.draw(QUESTIONS[field])}
    if request(asked) != request(other):
        assert question_of(**asked) != question_of(**other)


def test_every_field_of_a_verification_is_part_of_the_question_or_known_not_to_be() -> None:
    fields = set(pb.VerifyRequest.DESCRIPTOR.fields_by_name)
    part = {"required_permissions" if name == "permissions" else name for name in QUESTIONS}
    past_the_cache = {"reserve", "dry_run", "request_id"}
    compared = {"min_revision"}
    made_for_it = {"keep"}
    assert fields == part | past_the_cache | compared | made_for_it


def test_one_string_is_no_list_of_permissions_here_either() -> None:
    with pytest.raises(TypeError, match="sequence of strings"):
        question_of("tk_1", "", "read", None, None, None)


# What is given again, and for how long.


def test_an_answer_is_given_again_as_it_is(cache: NearCache) -> None:
    decision = allowed()
    assert fill(cache, decision)
    assert cache.recall(question()) is decision
    assert cache.recall(question("tk_2")) is None


@pytest.mark.parametrize("code", [code for code in DecisionCode if code is not DecisionCode.ALLOWED])
def test_no_denial_is_kept(cache: NearCache, code: DecisionCode) -> None:
    denial = Decision(**{name: getattr(allowed(), name) for name in Decision.__slots__} | {"code": code})
    assert not fill(cache, denial)
    assert cache.recall(question()) is None


def test_without_a_lease_nothing_is_given_nor_asked_to_be_kept(clock: Clock) -> None:
    cache = NearCache(clock=clock)
    cache.begin_anew(10)
    assert cache.ask(question(), None) is None
    cache.renew(sent_at=clock.now, seconds=LEASE)
    fill(cache)
    clock.now += LEASE * (1 - DRIFT) - 0.001
    assert cache.recall(question()) is not None
    clock.now += 0.002
    assert cache.recall(question()) is None
    assert cache.ask(question(), None) is None


def test_the_lease_counts_from_when_it_was_asked_for_and_a_late_grant_shortens_nothing(clock: Clock) -> None:
    cache = NearCache(clock=clock)
    cache.renew(sent_at=clock.now, seconds=LEASE)
    cache.renew(sent_at=clock.now - 1.5, seconds=LEASE)
    clock.now += LEASE * (1 - DRIFT) - 0.001
    assert cache.holds_lease()
    cache.renew(sent_at=clock.now - LEASE, seconds=LEASE)
    clock.now += 0.002
    assert not cache.holds_lease()


def test_an_answer_ages_from_when_it_was_asked_for_whatever_is_read(cache: NearCache, clock: Clock) -> None:
    ask = asked(cache)
    clock.now += 50
    answer(cache, ask)
    clock.now += 9
    assert cache.recall(question()) is not None
    clock.now += 0.5
    assert cache.recall(question()) is None


def test_a_revision_that_is_not_applied_yet_passes_the_cache(cache: NearCache) -> None:
    fill(cache)
    assert cache.recall(question(), 10) is not None
    assert cache.recall(question(), 11) is None
    change(cache, 11, key_id="key_other")
    assert cache.recall(question(), 11) is not None


# What ends it.


def test_a_change_of_the_key_ends_its_answers_and_no_others(cache: NearCache) -> None:
    fill(cache, allowed("key_1"), name="tk_1")
    fill(cache, allowed("key_2"), name="tk_2")
    change(cache, 11, key_id="key_1")
    assert cache.recall(question("tk_1")) is None
    assert cache.recall(question("tk_2")) is not None


def test_a_change_of_the_owner_ends_the_answers_about_all_of_its_keys(cache: NearCache) -> None:
    fill(cache, allowed("key_1", owner_id="owner"), name="tk_1")
    fill(cache, allowed("key_2", owner_id="owner"), name="tk_2")
    change(cache, 11, owner_id="owner", tenant_id="other")
    assert cache.recall(question("tk_1")) is not None
    change(cache, 12, owner_id="owner")
    assert cache.recall(question("tk_1")) is None
    assert cache.recall(question("tk_2")) is None


def test_an_answer_that_reflects_less_than_the_last_change_comes_too_late(cache: NearCache) -> None:
    ask = asked(cache)
    change(cache, 11, key_id="key_1")
    assert not answer(cache, ask, allowed(revision=10))
    assert cache.recall(question()) is None
    assert fill(cache, allowed(revision=11))
    assert cache.recall(question()) is not None


def test_an_answer_that_reflects_a_change_already_outlives_its_telling(cache: NearCache) -> None:
    fill(cache, allowed(revision=11))
    change(cache, 11, key_id="key_1")
    assert cache.recall(question()) is not None
    change(cache, 12, key_id="key_1")
    assert cache.recall(question()) is None


def test_bounded_tombstones_never_let_an_old_answer_through(cache: NearCache) -> None:
    asks = {number: asked(cache, f"tk_{number}") for number in range(20)}
    for number in range(20):
        change(cache, 11 + number, key_id=f"key_{number}")
    for number, ask in asks.items():
        assert not answer(cache, ask, allowed(f"key_{number}", revision=10 + number))


def test_who_begins_anew_forgets_everything_and_keeps_nothing_that_was_asked_before(cache: NearCache) -> None:
    fill(cache)
    ask = asked(cache, "tk_2")
    cache.begin_anew(5)
    assert cache.recall(question()) is None
    assert not answer(cache, ask, allowed(revision=100))
    assert not fill(cache, allowed(revision=4))
    assert fill(cache, allowed(revision=5))


def test_the_cache_is_bounded_and_drops_what_is_not_used(cache: NearCache) -> None:
    for number in range(8):
        fill(cache, name=f"tk_{number}")
    assert cache.recall(question("tk_0")) is not None
    fill(cache, name="tk_8")
    assert len(cache) == 8
    assert cache.recall(question("tk_0")) is not None
    assert cache.recall(question("tk_1")) is None


def test_a_closed_cache_gives_nothing_and_takes_no_lease(cache: NearCache, clock: Clock) -> None:
    fill(cache)
    cache.close()
    cache.renew(sent_at=clock.now, seconds=LEASE)
    assert not cache.holds_lease()
    assert cache.recall(question()) is None


def test_a_forked_process_gives_nothing_and_settles_nothing(cache: NearCache) -> None:
    fill(cache, block=10, reservation_id="res")
    cache.abandon()
    assert cache.recall(question()) is None
    assert cache.take_used() == []


# Blocks: what was charged in advance.


def test_a_block_is_spent_to_the_last_and_not_once_more(cache: NearCache) -> None:
    fill(cache, block=5, reservation_id="res")
    assert sum(cache.recall(question()) is not None for _ in range(20)) == 4  # and the one that asked
    assert cache.take_used() == [Used("res", 5, {"requests": 5})]
    assert cache.take_used() == []


def test_what_is_left_of_a_block_goes_back_when_it_is_too_old_or_a_change_ends_it(
    cache: NearCache, clock: Clock
) -> None:
    ask = asked(cache, charges={"tokens": 7})
    answer(cache, ask, block=5, usable_for=1.0, reservation_id="res_1")
    cache.recall(question())
    assert cache.take_used() == []
    clock.now += 1.0
    assert cache.take_used() == [Used("res_1", 2, {"tokens": 14})]
    fill(cache, block=5, reservation_id="res_2")
    change(cache, 11, key_id="key_1")
    assert cache.take_used() == [Used("res_2", 1, {"requests": 1})]
    fill(cache, allowed(revision=11), block=5, reservation_id="res_3")
    cache.close()
    assert cache.take_used() == [Used("res_3", 1, {"requests": 1})]


def test_a_block_that_came_too_late_goes_back_but_for_the_verification_that_asked(cache: NearCache) -> None:
    ask = asked(cache)
    change(cache, 11, key_id="key_1")
    assert not answer(cache, ask, block=5, reservation_id="res")
    assert cache.take_used() == [Used("res", 1, {"requests": 1})]


def test_an_answer_that_is_charged_alone_is_plainly_not_given_again(cache: NearCache) -> None:
    fill(cache, block=1)
    assert cache.recall(question()) is None
    assert cache.take_used() == []


def test_the_next_block_is_as_large_as_the_rate_asks_for_and_grows_by_steps(cache: NearCache, clock: Clock) -> None:
    sizes = []
    for _ in range(9):
        ask = asked(cache)
        sizes.append(ask.keep)
        clock.now += ask.keep / 20_000
        answer(cache, ask, block=ask.keep, usable_for=1.0)
        while cache.recall(question()) is not None:
            pass
    assert sizes[:3] == [1, 1, KEEP_GROWTH * 3]
    assert sizes[3:] == sorted(sizes[3:])
    assert all(later <= KEEP_GROWTH * (earlier + 1) for earlier, later in pairwise(sizes[2:]))
    assert sizes[-1] == KEEP_MAX


def test_a_question_that_is_seldom_asked_is_charged_alone(cache: NearCache, clock: Clock) -> None:
    fill(cache, block=1)
    clock.now += 2 * BLOCK_SECONDS
    assert asked(cache).keep == 1


def test_only_one_asks_for_a_block_and_the_others_go_on_without(cache: NearCache) -> None:
    ask = asked(cache)
    assert cache.ask(question(), None) is None
    assert cache.ask(question("tk_2"), None) is not None
    cache.done(ask)
    assert cache.ask(question(), None) is not None


def test_what_is_over_is_forgotten_after_a_while(cache: NearCache, clock: Clock) -> None:
    fill(cache, usable_for=1.0)
    clock.now += 1.0 + REMEMBERED_SECONDS
    cache.take_used()
    assert len(cache) == 0


# Usage of what no limit counts.


def test_uses_are_told_once_with_their_units(cache: NearCache, clock: Clock) -> None:
    fill(cache, allowed("key_1"), name="tk_1")
    answer(cache, asked(cache, "tk_2", {"tokens": 5}), allowed("key_2"))
    for _ in range(3):
        cache.recall(question("tk_1"))
    cache.recall(question("tk_2"))
    assert cache.take_uses(at_most=10) == {"key_1": (3, {"requests": 3}), "key_2": (1, {"tokens": 5})}
    assert cache.take_uses(at_most=10) == {}
    cache.recall(question("tk_1"))
    change(cache, 11, key_id="key_1")
    assert cache.take_uses(at_most=10) == {"key_1": (1, {"requests": 1})}


def test_uses_come_in_messages_of_bounded_size(cache: NearCache) -> None:
    for number in range(5):
        fill(cache, allowed(f"key_{number}"), name=f"tk_{number}")
        cache.recall(question(f"tk_{number}"))
    told = [len(cache.take_uses(at_most=2)) for _ in range(4)]
    assert told == [2, 2, 1, 0]


def test_threads_together_spend_a_block_exactly(clock: Clock) -> None:
    cache = leased(SharedNearCache(clock=clock), clock)
    fill(cache, block=20_000, reservation_id="res")
    given: list[int] = []

    def spend() -> None:
        count = 0
        while cache.recall(question()) is not None:
            count += 1
        given.append(count)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(given) == 19_999
    assert cache.take_used() == [Used("res", 20_000, {"requests": 20_000})]
