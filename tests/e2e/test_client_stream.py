"""Verifications over the client's stream to a real server: each is answered once and charged once, whatever dies."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess, run
from tests.e2e.under_load import eventually, free_ports
from tollkeeper import AsyncClient, DecisionCode, InvalidArgument, Limit, Unauthenticated, _backlog

pytestmark = pytest.mark.timeout(300)

CALLERS = 16
TURNS = 60
KILLS = 4
TRIES = 5
PER_DAY = Limit.rate("per-day", 10**6, timedelta(days=1))
TIMEOUT = 60.0


class Restarted:
    """A server that is killed and started again on the same address and stores."""

    def __init__(self, stack: ExitStack, data_dir: Path, settings: dict[str, str]) -> None:
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self._stack, self._data_dir, self._settings = stack, data_dir, settings
        self._server = self._started()

    async def kill(self) -> None:
        """End it at once, and start the next one."""
        await asyncio.to_thread(self._server.stop, signal.SIGKILL)
        self._server = await asyncio.to_thread(self._started)

    def _started(self) -> ServerProcess:
        return self._stack.enter_context(ServerProcess(self._data_dir, LISTEN=self.address, **self._settings))


@pytest.fixture
def killed(own_stores: dict[str, str], tmp_path: Path) -> Iterator[tuple[Restarted, str]]:
    token = run("tollkeeper-server", "create-root-key", **own_stores).stdout.strip()
    with ExitStack() as stack:
        yield Restarted(stack, tmp_path, own_stores), token


async def charges_of(killed: tuple[Restarted, str]) -> tuple[int, int]:
    """How many verifications were answered, and how many were charged, with a server that is killed meanwhile."""
    server, token = killed
    answered = 0

    async with AsyncClient(server.address, token=token, timeout=TIMEOUT, verify_timeout=TIMEOUT) as client:
        created = await client.create_key(limits=[PER_DAY])

        async def call() -> None:
            nonlocal answered
            for _ in range(TURNS):
                (await client.verify(created.api_key)).raise_if_denied()
                answered += 1

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(call())
            for kill in range(KILLS):
                due = CALLERS * TURNS * (kill + 1) // (KILLS + 1)
                await eventually(lambda due=due: answered >= due)  # type: ignore[misc]
                await server.kill()
        return answered, (await client.check_quota(key_id=created.key.key_id)).limit("per-day").used


async def test_what_was_under_way_when_a_server_was_killed_is_answered_and_charged_once(
    killed: tuple[Restarted, str],
) -> None:
    answered, charged = await charges_of(killed)
    print(f"\n{answered} verifications answered, {charged} charged, {KILLS} kills")
    assert answered == charged == CALLERS * TURNS


async def test_a_client_that_forgets_the_names_of_what_it_asks_again_is_noticed(
    killed: tuple[Restarted, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_back = _backlog.Backlog.take_back

    def forget(self: _backlog.Backlog) -> None:
        for asked in [asked for batch in self._batches.values() for asked in batch.values()]:
            asked.request.request_id += "again"
        take_back(self)

    monkeypatch.setattr(_backlog.Backlog, "take_back", forget)
    answered = charged = 0
    for _ in range(TRIES):  # a kill may come when nothing was charged that was not answered
        answered, charged = await charges_of(killed)
        print(f"\nnames forgotten: {answered} verifications answered, {charged} charged, {KILLS} kills")
        if charged > answered:
            break
    assert charged > answered


async def test_what_is_wrong_with_one_verification_is_an_error_of_its_caller_alone(server: ServerProcess) -> None:
    async with AsyncClient(server.address, token=server.root_key) as client:
        api_key = (await client.create_key()).api_key
        *good, bad, unknown = await asyncio.gather(
            *(client.verify(api_key) for _ in range(50)),
            client.verify(api_key, client_ip="nowhere", request_id="bad-1"),
            client.verify("tk_unknown"),
            return_exceptions=True,
        )
    assert all(not isinstance(decision, BaseException) and decision.allowed for decision in good)
    assert isinstance(bad, InvalidArgument)
    assert [violation.field for violation in bad.violations] == ["client_ip"]
    assert (bad.method, bad.request_id) == ("Verify", "bad-1")
    assert not isinstance(unknown, BaseException)
    assert unknown.code is DecisionCode.KEY_INVALID


async def test_a_caller_whose_key_is_revoked_verifies_no_more(server: ServerProcess) -> None:
    async with AsyncClient(server.address, token=server.root_key) as root:
        caller = await root.create_key(tenant_id="t1", permissions=["tollkeeper:verify"])
        api_key = (await root.create_key(tenant_id="t1")).api_key
        async with AsyncClient(server.address, token=caller.api_key) as client:
            assert (await client.verify(api_key)).allowed
            await root.revoke_key(caller.key.key_id)
            outcomes = await asyncio.gather(*(client.verify(api_key) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unauthenticated}
