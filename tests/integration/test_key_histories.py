"""Random histories of a few keys and their owners: the service on Postgres and a model in memory never differ."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.integration.keys_support import KEYRING, ROOT, Keys, keys_on
from tollkeeper_server.core.errors import Aborted, FailedPrecondition, TollkeeperError
from tollkeeper_server.core.key import Secret
from tollkeeper_server.core.policy import Use, judge
from tollkeeper_server.keys.commands import CreatedKey, CreateKey, ListKeys, NameKey, RevokeKey, RotateKey, UpdateKey
from tollkeeper_server.keys.import_commands import Credential, ImportKey, ImportKeys, LeakedKey, ReportLeakedKeys
from tollkeeper_server.keys.lookup import find_by_digests
from tollkeeper_server.keys.owner_commands import RevokeKeys, SetOwner

HISTORIES = 500
STEPS = 10
HOUR = timedelta(hours=1)

T = TypeVar("T")

picks = st.integers(0, 99)
owners = st.sampled_from(["", "o", "p"])
names = st.sampled_from(["a", "b"])
spans = st.sampled_from([timedelta(), HOUR, 3 * HOUR])


@dataclass
class Modelled:
    """What a key must be like."""

    key_id: str
    owner_id: str
    name: str
    expires_at: datetime | None
    revision: int
    state: str = "ACTIVE"
    ends: dict[str, datetime | None] = field(default_factory=dict)
    """When each of its API keys ends; None is the current one."""

    def shown(self, now: datetime) -> str:
        expired = self.state == "ACTIVE" and self.expires_at is not None and now >= self.expires_at
        return "EXPIRED" if expired else self.state

    def secret(self, api_key: str, now: datetime) -> Secret | None:
        ends_at = self.ends[api_key]
        if ends_at is None:
            return Secret.CURRENT
        return Secret.OLD if now < ends_at else None

    def end_old(self, now: datetime) -> bool:
        """End the earlier API key; whether there was one."""
        old = [api_key for api_key in self.ends if self.secret(api_key, now) is Secret.OLD]
        self.ends |= dict.fromkeys(old, now)
        return bool(old)


class Histories(RuleBasedStateMachine):
    """One history, in a tenant of its own."""

    keys: Keys
    runner: asyncio.Runner
    tenants = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.tenant = f"tenant-{next(self.tenants)}"
        self.model: list[Modelled] = []
        self.suspended: dict[str, bool] = {}
        self.repeat: Callable[[], Coroutine[Any, Any, Any]] | None = None
        self.answer: Any = None
        self.requests = itertools.count()

    def do(self, ask: Callable[[str], Coroutine[Any, Any, T]]) -> T | TollkeeperError:
        """What the service answers, which it is asked again later."""
        request_id = f"{self.tenant}-{next(self.requests)}"
        try:
            answer = self.runner.run(ask(request_id))
        except TollkeeperError as fault:
            return fault
        self.repeat, self.answer = lambda: ask(request_id), answer
        return answer

    def pick(self, number: int) -> Modelled:
        return self.model[number % len(self.model)]

    def api_key(self, number: int) -> tuple[Modelled, str]:
        every = [(key, api_key) for key in self.model for api_key in key.ends]
        return every[number % len(every)]

    def changed(self, key: Modelled, answer: Any, *, state: str | None = None) -> None:
        key.revision += 1
        key.state = state or key.state
        assert answer.revision > 0, answer

    @initialize(owner=owners)
    def begin(self, owner: str) -> None:
        self.create(owner, "a", HOUR)

    @rule(owner=owners, name=names, ttl=spans)
    def create(self, owner: str, name: str, ttl: timedelta) -> None:
        service = self.keys.service
        answer: Any = self.do(
            lambda request_id: service.create(
                ROOT,
                CreateKey(tenant_id=self.tenant, owner_id=owner, name=name, ttl=ttl or None, request_id=request_id),
            )
        )
        assert isinstance(answer, CreatedKey), answer
        key = Modelled(answer.key.key_id, owner, name, answer.key.created_at + ttl if ttl else None, 1)
        key.ends[answer.api_key] = None
        self.model.append(key)

    @rule(owner=owners, number=st.integers(0, 3))
    def take(self, owner: str, number: int) -> None:
        raw = f"{self.tenant}-imported-{number}"
        item = ImportKey(key=CreateKey(owner_id=owner, name="a"), credential=Credential(raw_api_key=raw))
        answer: Any = self.do(
            lambda request_id: self.keys.service.imports.run(
                ROOT, ImportKeys(tenant_id=self.tenant, items=(item,), request_id=request_id)
            )
        )
        (result,) = answer.results
        if any(raw in key.ends for key in self.model):
            assert result.reason == "API_KEY_TAKEN"
        else:
            self.model.append(Modelled(result.key_id, owner, "a", None, 1, ends={raw: None}))

    @rule(number=picks, name=names, is_stale=st.booleans())
    def rename(self, number: int, name: str, is_stale: bool) -> None:
        key = self.pick(number)
        etag = "0" * 16 if is_stale else ""
        answer = self.do(
            lambda request_id: self.keys.service.update(
                ROOT, UpdateKey(key_id=key.key_id, changes={"name": name}, etag=etag, request_id=request_id)
            )
        )
        if key.state == "REVOKED":
            assert isinstance(answer, FailedPrecondition)
        elif is_stale:
            assert isinstance(answer, Aborted)
        elif name != key.name:
            key.name = name
            self.changed(key, answer)

    @rule(number=picks, ttl=spans)
    def extend(self, number: int, ttl: timedelta) -> None:
        key = self.pick(number)
        expires_at = self.keys.clock.now + HOUR + ttl if ttl else None
        answer = self.do(
            lambda request_id: self.keys.service.update(
                ROOT, UpdateKey(key_id=key.key_id, changes={"expires_at": expires_at}, request_id=request_id)
            )
        )
        if key.state == "REVOKED":
            assert isinstance(answer, FailedPrecondition)
        elif expires_at != key.expires_at:
            key.expires_at = expires_at
            self.changed(key, answer)

    @rule(number=picks, on=st.booleans())
    def switch(self, number: int, on: bool) -> None:
        key = self.pick(number)
        method = self.keys.service.enable if on else self.keys.service.disable
        answer = self.do(lambda request_id: method(ROOT, NameKey(key_id=key.key_id, request_id=request_id)))
        wanted = "ACTIVE" if on else "DISABLED"
        if key.state == "REVOKED":
            assert isinstance(answer, FailedPrecondition)
        elif key.state != wanted:
            self.changed(key, answer, state=wanted)

    @rule(number=picks, overlap=spans)
    def rotate(self, number: int, overlap: timedelta) -> None:
        key = self.pick(number)
        answer: Any = self.do(
            lambda request_id: self.keys.service.rotate(
                ROOT, RotateKey(key_id=key.key_id, overlap=overlap, request_id=request_id)
            )
        )
        now = self.keys.clock.now
        if key.shown(now) in ("REVOKED", "EXPIRED"):
            assert isinstance(answer, FailedPrecondition)
            return
        key.end_old(now)
        (current,) = (api_key for api_key, ends_at in key.ends.items() if ends_at is None)
        key.ends |= {current: answer.key.updated_at + overlap, answer.api_key: None}
        self.changed(key, answer)

    @rule(number=picks)
    def end_overlap(self, number: int) -> None:
        key = self.pick(number)
        answer = self.do(
            lambda request_id: self.keys.service.end_overlap(ROOT, NameKey(key_id=key.key_id, request_id=request_id))
        )
        if key.state != "REVOKED" and key.end_old(self.keys.clock.now):
            self.changed(key, answer)

    @rule(number=picks, by_name=st.booleans())
    def revoke(self, number: int, by_name: bool) -> None:
        key, api_key = self.api_key(number)
        key_id, shown = (key.key_id, "") if by_name else ("", api_key)
        answer = self.do(
            lambda request_id: self.keys.service.revoke(
                ROOT, RevokeKey(key_id=key_id, api_key=shown, request_id=request_id)
            )
        )
        if not by_name and key.secret(api_key, self.keys.clock.now) is None:
            assert isinstance(answer, TollkeeperError)
            assert answer.reason == "KEY_NOT_FOUND"
        elif key.state != "REVOKED":
            self.changed(key, answer, state="REVOKED")

    @rule(number=picks)
    def leak(self, number: int) -> None:
        key, api_key = self.api_key(number)
        answer: Any = self.do(
            lambda request_id: self.keys.service.leaks.report(
                ROOT, ReportLeakedKeys(leaked_keys=(LeakedKey(api_key=api_key),), request_id=request_id)
            )
        )
        is_ours = key.secret(api_key, self.keys.clock.now) is not None
        assert answer.ours == (is_ours,)
        if is_ours and key.state != "REVOKED":
            key.revision, key.state = key.revision + 1, "REVOKED"

    @rule(owner=st.sampled_from(["o", "p"]))
    def revoke_all(self, owner: str) -> None:
        answer: Any = self.do(
            lambda request_id: self.keys.service.owners.revoke_keys(
                ROOT, RevokeKeys(tenant_id=self.tenant, owner_id=owner, request_id=request_id)
            )
        )
        living = [key for key in self.model if key.owner_id == owner and key.state != "REVOKED"]
        assert sorted(answer.key_ids) == sorted(key.key_id for key in living)
        for key in living:
            key.revision, key.state = key.revision + 1, "REVOKED"

    @rule(owner=st.sampled_from(["o", "p"]), suspended=st.booleans())
    def suspend(self, owner: str, suspended: bool) -> None:
        answer: Any = self.do(
            lambda request_id: self.keys.service.owners.set(
                ROOT, SetOwner(tenant_id=self.tenant, owner_id=owner, suspended=suspended, request_id=request_id)
            )
        )
        assert answer.owner.suspended is suspended
        self.suspended[owner] = suspended

    @rule(span=spans)
    def wait(self, span: timedelta) -> None:
        self.keys.clock.now += span

    @rule()
    def ask_again(self) -> None:
        """Whatever has happened since, the first answer comes again, and nothing changes."""
        if self.repeat is not None:
            again: Any = self.runner.run(self.repeat())
            for part in ("key", "api_key", "results", "ours", "key_ids", "owner", "revision"):
                assert str(getattr(again, part, None)) == str(getattr(self.answer, part, None))

    @invariant()
    def nothing_differs(self) -> None:
        if self.model:
            self.runner.run(self.compare())

    async def compare(self) -> None:
        now = self.keys.clock.now
        page = await self.keys.service.list(ROOT, ListKeys(tenant_id=self.tenant, page_size=1000))
        stored = {key.key_id: key for key in page.keys}
        assert stored.keys() == {key.key_id for key in self.model}
        digests = {api_key: KEYRING.digest(api_key) for key in self.model for api_key in key.ends}
        async with self.keys.postgres.connection() as connection:
            records, _ = await find_by_digests(connection, list(digests.values()))
        events = await self.keys.rows(
            "SELECT key_id, count(*) FROM audit_events WHERE tenant_id = $1 GROUP BY key_id", self.tenant
        )
        audited = {event["key_id"]: event["count"] for event in events}
        for key in self.model:
            found = stored[key.key_id]
            assert (found.state_at(now), found.name, found.expires_at) == (key.shown(now), key.name, key.expires_at)
            assert audited[key.key_id] == key.revision
            for api_key in key.ends:
                self.compare_secret(key, api_key, records.get(digests[api_key]), now)

    def compare_secret(self, key: Modelled, api_key: str, record: Any, now: datetime) -> None:
        expected = key.secret(api_key, now)
        if record is not None and record.expires_at is not None and now >= record.expires_at:
            record = None
        assert (None if record is None else record.secret) is expected
        if record is None:
            return
        state = key.shown(now)
        code = "ALLOWED" if state == "ACTIVE" else f"KEY_{state}"
        if self.suspended.get(key.owner_id) and key.state != "REVOKED":
            code = "KEY_DISABLED"
        assert judge(record.key, Use(), now=now, owner=record.owner) == code


@pytest.mark.timeout(600)
def test_no_history_makes_service_and_model_differ(postgres_url: str) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        keys = runner.run(stack.enter_async_context(keys_on(postgres_url)))
        try:
            machine = type("Machine", (Histories,), {"keys": keys, "runner": runner})
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=HISTORIES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())
