"""The controller: takes away from API keys what they were allowed, in every way there is, and gives it back."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from tests.faults.history.checker import Checker, Span
from tests.faults.history.record import now
from tollkeeper import AsyncClient, CallError, Limit, Propagation

TENANT = "acme"
KEYS_PER_OWNER = 4
UNLIMITED = Limit.rate("ample", 10**9, timedelta(minutes=1))
RETRY_SECONDS = 0.05
FORGET_SECONDS = 10.0
RETURN_SECONDS_MAX = 60.0
PENDING_SECONDS = 2.0
"""An answer that took longer may be PENDING for so long."""
EVERYONE = "0.0.0.0/0"
ELSEWHERE = "10.0.0.0/8"

_LOST = {"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "UNKNOWN"}
"""Statuses of calls whose outcome is not known, or that no server took."""

Change = Callable[[AsyncClient, str], Awaitable[Any]]
"""Makes a change through a client, under a request id."""


class Answer(Protocol):
    """What mutations answer with."""

    propagation: Propagation
    effective_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """How one mutation that took something away went."""

    kind: str
    sent: int
    returned: int
    holds_from: int
    """When it held everywhere: its return, or its ``effective_at`` if that is later."""
    pending: bool
    failures: int
    """Answers that were lost before one came."""


@dataclass(slots=True)
class Key:
    """One key, and the API key by which it is verified at present."""

    key_id: str
    owner_id: str
    secret: int
    is_whole: bool = False
    """Nothing is taken from it that it does not have back, its owner aside."""


@dataclass(slots=True)
class Controller:
    """Changes keys through any of ``servers``, a while of ``pause_seconds`` in between, and tells everybody."""

    servers: Sequence[AsyncClient]
    checker: Checker
    tell: Callable[[str], None]
    """Gives a command to every verifying process."""
    log: Path
    chance: random.Random
    pause_seconds: float
    returned: list[Returned] = field(default_factory=list)
    _secrets: int = 0
    _requests: int = 0
    _lives: dict[str, list[Key]] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)
    _suspended: set[str] = field(default_factory=set)
    _alive: dict[int, Span] = field(default_factory=dict)

    async def run(self, *, owners: int) -> None:
        """Change keys until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(owners):
                owner_id = f"owner-{number}"
                self._lives[owner_id] = []
                for _ in range(KEYS_PER_OWNER):
                    group.create_task(self._lead_lives(owner_id, group))
                group.create_task(self._suspend_now_and_then(owner_id))

    async def _lead_lives(self, owner_id: str, group: asyncio.TaskGroup) -> None:
        """Make a key, change it until it is revoked; and so on."""
        while True:
            created, _ = await self._ask(self._create(owner_id))
            key = Key(created.key.key_id, owner_id, self._know(created.api_key))
            self._lives[owner_id].append(key)
            is_alive = True
            while is_alive:
                self._is_whole(key, since=now())
                await self._pause()
                key.is_whole = False
                is_alive = await self.chance.choice(_CHANGES)(self, key, group)
            self._lives[owner_id].remove(key)

    def _create(self, owner_id: str) -> Change:
        limits = [UNLIMITED] if self.chance.random() < 0.5 else []
        return lambda server, request_id: server.create_key(
            tenant_id=TENANT,
            owner_id=owner_id,
            permissions=["read", "write"],
            limits=limits,
            request_id=request_id,
        )

    async def _disable(self, key: Key, _: asyncio.TaskGroup) -> bool:
        return await self._take_and_give_back(
            key,
            "disable",
            lambda server, request_id: server.disable_key(key.key_id, request_id=request_id),
            lambda server, request_id: server.enable_key(key.key_id, request_id=request_id),
        )

    async def _narrow(self, key: Key, _: asyncio.TaskGroup) -> bool:
        return await self._take_and_give_back(
            key,
            "narrow",
            lambda server, request_id: server.update_key(key.key_id, permissions=["read"], request_id=request_id),
            lambda server, request_id: server.update_key(
                key.key_id, permissions=["read", "write"], request_id=request_id
            ),
        )

    async def _bind(self, key: Key, _: asyncio.TaskGroup) -> bool:
        return await self._take_and_give_back(
            key,
            "bind to a network",
            lambda server, request_id: server.update_key(key.key_id, allowed_cidrs=[ELSEWHERE], request_id=request_id),
            lambda server, request_id: server.update_key(key.key_id, allowed_cidrs=[EVERYONE], request_id=request_id),
        )

    async def _rotate(self, key: Key, group: asyncio.TaskGroup) -> bool:
        rotated = await self._take(
            [key.secret], "rotate", lambda server, request_id: server.rotate_key(key.key_id, request_id=request_id)
        )
        self._end(key.secret, group)
        key.secret = self._know(rotated[0].api_key)
        return True

    async def _revoke(self, key: Key, group: asyncio.TaskGroup) -> bool:
        await self._take(
            [key.secret], "revoke", lambda server, request_id: server.revoke_key(key.key_id, request_id=request_id)
        )
        self._end(key.secret, group)
        return False

    async def _suspend_now_and_then(self, owner_id: str) -> None:
        while True:
            await self._pause(times=8)
            self._suspended.add(owner_id)
            secrets = [key.secret for key in self._lives[owner_id]]
            _, deaths = await self._take(secrets, "suspend", self._set_owner(owner_id, suspended=True))
            await self._pause()
            since = await self._give_back(deaths, self._set_owner(owner_id, suspended=False))
            self._suspended.discard(owner_id)
            for key in self._lives[owner_id]:
                if key.is_whole:
                    self._is_whole(key, since=since)

    def _set_owner(self, owner_id: str, *, suspended: bool) -> Change:
        return lambda server, request_id: server.set_owner(
            owner_id, suspended=suspended, tenant_id=TENANT, request_id=request_id
        )

    async def _take_and_give_back(self, key: Key, kind: str, take: Change, give: Change) -> bool:
        _, deaths = await self._take([key.secret], kind, take)
        await self._pause()
        await self._give_back(deaths, give)
        if self.chance.random() < 0.3:  # at once again: whoever still reads what was given back must not keep it
            _, deaths = await self._take([key.secret], f"{kind} again", take)
            await self._give_back(deaths, give)
        return True

    async def _take(self, secrets: list[int], kind: str, change: Change) -> tuple[Any, dict[int, Span]]:
        """Make a change after which ``secrets`` must be denied."""
        sent = now()
        for secret in self._alive.keys() & set(secrets):
            self._alive.pop(secret).until = sent
        answer, failures = await self._ask(change)
        returned = now()
        holds_from = returned + _left_ns(answer)
        deaths = {secret: self.checker.died(secret, kind, since=holds_from) for secret in secrets}
        for secret in secrets:
            self._tell("dead", secret)
        self.returned.append(
            Returned(
                kind=kind,
                sent=sent,
                returned=returned,
                holds_from=holds_from,
                pending=holds_from > returned,
                failures=failures,
            )
        )
        self._write(kind, secrets, sent, returned, holds_from)
        return answer, deaths

    def _is_whole(self, key: Key, *, since: int) -> None:
        """From ``since`` on the key has all that it ever had; so it must be allowed, if its owner is not suspended."""
        key.is_whole = True
        if key.owner_id not in self._suspended:
            self._alive[key.secret] = self.checker.lives(key.secret, "it lives", since=since)

    async def _give_back(self, deaths: dict[int, Span], change: Change) -> int:
        """Make a change after which the API keys may be allowed again; and when they must be."""
        sent = now()
        for death in deaths.values():
            death.until = sent
        await self._ask(change)
        for secret in deaths.keys() - self._ended:
            self._tell("live", secret)
        self._write("give back", list(deaths), sent, now(), sent)
        if now() - sent > PENDING_SECONDS * 1e9:  # not every answer says whether it was PENDING
            await asyncio.sleep(PENDING_SECONDS)
        return now()

    async def _ask(self, change: Change) -> tuple[Any, int]:
        """Make a change through any server, again and again until it is answered; and how often it was not."""
        self._requests += 1
        request_id, failures = f"request-{self._requests}", 0
        async with asyncio.timeout(RETURN_SECONDS_MAX):
            while True:
                try:
                    return await change(self.chance.choice(self.servers), request_id), failures
                except CallError as error:
                    if error.status not in _LOST:
                        raise
                failures += 1
                await asyncio.sleep(RETRY_SECONDS)

    async def _pause(self, *, times: float = 1.0) -> None:
        await asyncio.sleep(self.chance.expovariate(1 / (self.pause_seconds * times)))

    def _know(self, api_key: str) -> int:
        self._secrets += 1
        self.tell(json.dumps(["know", self._secrets, api_key]))
        return self._secrets

    def _end(self, secret: int, group: asyncio.TaskGroup) -> None:
        self._ended.add(secret)
        group.create_task(self._forget_later(secret))

    async def _forget_later(self, secret: int) -> None:
        await asyncio.sleep(FORGET_SECONDS)
        self._tell("forget", secret)

    def _tell(self, command: str, secret: int) -> None:
        self.tell(json.dumps([command, secret]))

    def _write(self, kind: str, secrets: list[int], sent: int, returned: int, holds_from: int) -> None:
        with self.log.open("a") as log:
            log.write(json.dumps([kind, secrets, sent, returned, holds_from]) + "\n")


_CHANGES = (Controller._disable, Controller._narrow, Controller._bind, Controller._rotate, Controller._revoke)


def _left_ns(answer: Answer) -> int:
    """How long it still takes until the change holds everywhere."""
    if answer.propagation is Propagation.EVERYWHERE:
        return 0
    assert answer.effective_at is not None
    return max(0, int((answer.effective_at - datetime.now(UTC)) / timedelta(microseconds=1) * 1000))
