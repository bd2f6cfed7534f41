"""How a client asks for what it keeps: for one at first, for blocks when it pays, for none where it cannot be."""

from typing import Any

import pytest

from tests.unit.test_near_cache import Clock, leased
from tollkeeper import DeadlineExceeded, Decision, Unavailable
from tollkeeper._async.verification import AsyncVerificationCalls
from tollkeeper._near_cache import KEEP_GROWTH, NO_BLOCKS_SECONDS, NearCache
from tollkeeper.v1 import verification_service_pb2 as pb


class Asking(AsyncVerificationCalls):
    """A client whose server allows everything, keeps nothing, and remembers what it was asked."""

    def __init__(self, clock: Clock) -> None:
        self._near_cache = leased(NearCache(clock=clock), clock)
        self.asked: list[pb.VerifyRequest] = []
        self.fault: Exception | None = None
        """Raised when a block is asked for."""

    async def _verify(self, request: pb.VerifyRequest, timeout: float | None) -> pb.VerifyResponse:
        asked = pb.VerifyRequest()
        asked.CopyFrom(request)
        self.asked.append(asked)
        if self.fault is not None and request.keep > 1:
            raise self.fault
        return pb.VerifyResponse(code=pb.DECISION_CODE_ALLOWED, revision=10, key={"key_id": "key_1"})  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> Asking:
    return Asking(clock)


async def ask(client: Asking, clock: Clock, times: int, **question: Any) -> list[int]:
    """Verify so often within a hundredth of a second; gives what was asked to be kept."""
    before = len(client.asked)
    for _ in range(times):
        assert isinstance(await client.verify("tk_1", **question), Decision)
        clock.now += 0.01 / times
    return [request.keep for request in client.asked[before:]]


async def test_a_block_is_asked_for_once_it_pays(client: Asking, clock: Clock) -> None:
    keeps = await ask(client, clock, 6)
    assert keeps == [1, 1, KEEP_GROWTH * 3, KEEP_GROWTH * 4, KEEP_GROWTH * 5, KEEP_GROWTH * 6]


async def test_a_block_that_cannot_be_had_is_asked_for_as_one_under_the_same_request_id(
    client: Asking, clock: Clock
) -> None:
    await ask(client, clock, 3)
    client.fault = Unavailable("Verify", "POSTGRES_UNAVAILABLE", "the database did not answer")
    keeps = await ask(client, clock, 3)
    assert keeps == [KEEP_GROWTH * 4, 0, 1, 1], "and then for none for a while"
    assert client.asked[3].request_id == client.asked[4].request_id
    clock.now += NO_BLOCKS_SECONDS
    client.fault = None
    assert max(await ask(client, clock, 5)) > 1


async def test_a_question_that_failed_can_be_asked_again(client: Asking, clock: Clock) -> None:
    await ask(client, clock, 3)
    client.fault = DeadlineExceeded("Verify", "DEADLINE_EXCEEDED", "too late")
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await client.verify("tk_1")
    client.fault = None
    assert (await ask(client, clock, 1))[0] > 1


@pytest.mark.parametrize("question", [{"reserve": True}, {"dry_run": True}, {"request_id": "r-1"}])
async def test_what_passes_the_cache_asks_to_keep_nothing(
    client: Asking, clock: Clock, question: dict[str, Any]
) -> None:
    assert await ask(client, clock, 5, **question) == [0] * 5
