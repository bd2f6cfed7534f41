"""Outcomes that come late: each belongs to its own question, whatever the order in which they come."""

import asyncio
import itertools

import pytest

from tollkeeper_server.core.decision import Decision, DecisionCode
from tollkeeper_server.verify.begun import Outcome, as_they_come


def outcome(number: int) -> Outcome:
    return Decision(code=DecisionCode.ALLOWED, request_id=f"question-{number}")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_what_ends_at_the_same_moment_is_told_in_the_order_of_the_questions(order: tuple[int, ...]) -> None:
    """A part that answers the whole batch goes without positions, so its order says whose each answer is."""
    outcomes = [asyncio.get_running_loop().create_future() for _ in order]

    async def late(number: int) -> Outcome:
        found: Outcome = await outcomes[number]
        return found

    parts = as_they_come([late(number) for number in range(3)])
    first = asyncio.ensure_future(anext(parts))
    for _ in range(3):
        await asyncio.sleep(0)  # until each of them waits
    for number in order:
        outcomes[number].set_result(outcome(number))
    assert list((await first).items()) == [(number, outcome(number)) for number in range(3)]
    await parts.aclose()
