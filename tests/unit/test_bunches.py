"""Calls wait for one another only under load, for two milliseconds at most, and no caller is left waiting."""

import asyncio

import pytest

from tollkeeper_server.api import bunches
from tollkeeper_server.api.bunches import BUNCH_MIN, CREDIT_MAX, REST_CALLS, TRIED_FROM, Bunches

FOR_EVER = 3600.0


@pytest.fixture(autouse=True)
def _nothing_leaves_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test depends on how fast it runs."""
    monkeypatch.setattr(bunches, "WAIT_SECONDS", FOR_EVER)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bunches, "WAIT_SECONDS", 0.0)


async def turn() -> None:
    """Until all that is due in this turn of the event loop is done."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def come(gathering: Bunches, calls: int) -> list[asyncio.Future[int]]:
    """So many calls in one turn, of which each gives its number; those that have to wait."""
    return [place for place in (gathering.join(int, number) for number in range(calls)) if place is not None]


async def under_load() -> Bunches:
    """One that makes calls wait."""
    gathering = Bunches()
    assert not come(gathering, TRIED_FROM)
    await turn()
    return gathering


async def test_calls_that_come_one_by_one_never_wait() -> None:
    gathering = Bunches()
    for _ in range(1000):
        assert gathering.join(int) is None
        await turn()


async def test_few_calls_at_once_never_wait() -> None:
    gathering = Bunches()
    for _ in range(1000):
        assert not come(gathering, TRIED_FROM - 1)
        await turn()


async def test_calls_that_come_together_are_a_sign_of_load() -> None:
    gathering = await under_load()
    assert len(come(gathering, 3)) == 3


async def test_a_bunch_leaves_when_its_time_is_over(quick: None) -> None:
    gathering = await under_load()
    for calls in (BUNCH_MIN, 1, BUNCH_MIN, 3 * BUNCH_MIN):
        told = await asyncio.wait_for(asyncio.gather(*come(gathering, calls)), timeout=10)
        assert told == list(range(calls)), "what came of each, and nobody else's"


async def test_a_bunch_leaves_when_as_many_have_come_as_were_in_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bunches, "WAIT_SECONDS", 0.0)
    gathering = await under_load()
    await asyncio.gather(*come(gathering, BUNCH_MIN + 2))
    monkeypatch.setattr(bunches, "WAIT_SECONDS", FOR_EVER)
    waiting = come(gathering, BUNCH_MIN + 1)
    await turn()
    assert not any(place.done() for place in waiting)
    waiting += come(gathering, 4)
    await turn()
    assert all(place.done() for place in waiting), "those of the same turn, too, though they are more"


@pytest.mark.parametrize("credit", [1, 3, CREDIT_MAX, 3 * CREDIT_MAX])
async def test_it_ends_when_load_has_gone(quick: None, credit: int) -> None:
    gathering = await under_load()
    for _ in range(credit - 1):
        await asyncio.gather(*come(gathering, BUNCH_MIN))
    small = 0
    while waiting := come(gathering, 1):
        await asyncio.gather(*waiting)
        small += 1
    assert small == min(credit, CREDIT_MAX)
    assert not come(gathering, REST_CALLS - 1), "then many calls are handled at once"
    assert not come(gathering, TRIED_FROM)
    await turn()
    assert come(gathering, 1), "and it is tried again"


async def test_a_call_that_is_cancelled_leaves_without_harm_to_the_rest(quick: None) -> None:
    gathering = await under_load()
    leaving, *rest = come(gathering, BUNCH_MIN)
    leaving.cancel()
    await asyncio.wait_for(asyncio.gather(*rest), timeout=10)
    await asyncio.wait_for(asyncio.gather(*come(gathering, BUNCH_MIN)), timeout=10)


async def test_a_call_that_fails_leaves_the_rest_alone(quick: None) -> None:
    gathering = await under_load()
    before = come(gathering, 3)
    failing = gathering.join(int, "no number")
    after = come(gathering, 3)
    assert failing is not None
    with pytest.raises(ValueError, match="no number"):
        await asyncio.wait_for(failing, timeout=10)
    assert await asyncio.gather(*before, *after) == [0, 1, 2, 0, 1, 2]


async def test_a_call_that_is_cancelled_is_not_handled(quick: None) -> None:
    gathering = await under_load()
    handled: list[str] = []
    leaving = gathering.join(handled.append, "leaving")
    staying = gathering.join(handled.append, "staying")
    assert leaving is not None
    assert staying is not None
    leaving.cancel()
    await asyncio.wait_for(staying, timeout=10)
    assert handled == ["staying"]
