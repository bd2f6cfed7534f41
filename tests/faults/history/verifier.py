"""A process that verifies all the time, whatever the answers: on a schedule, not when the last one came.

    python -m tests.faults.history.verifier SERVERS FILE [FAULT,...]

SERVERS are as AsyncClient takes them; the token comes in TOLLKEEPER_TOKEN. Reads commands, one JSON array a line:
``["know", number, api_key]``, ``["dead", number]`` and ``["live", number]``, which say where to look most often,
``["forget", number]``. Records every verification in FILE.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.faults.history import client_faults
from tests.faults.history.record import Outcome, Recorder, Way, now
from tollkeeper import AsyncClient, CallError, Decision, Verification
from tollkeeper.v1 import verification_service_pb2 as pb

TICK_SECONDS = 0.02
HITS = 4
"""How often a tick each API key that lives, or has died just now, is verified as users of the client do."""
WATCHED_SECONDS = 0.1
BATCH = 100
BATCH_TICKS = 2
BATCHES_MAX = 2
ONES_MAX = 20
PERMISSIONS = ("write",)
CLIENT_IP = "192.0.2.7"
TIMEOUT_SECONDS = 2.0
PAUSE_SECONDS = 0.1


class Secrets:
    """The API keys to verify."""

    def __init__(self) -> None:
        self.api_keys: dict[int, str] = {}
        self.known: list[int] = []
        self._watched_until: dict[int, float] = {}

    def follow(self, command: str, number: int, api_key: str = "") -> None:
        """Do what the controller says."""
        if command == "know":
            self.api_keys[number] = api_key
            self.known.append(number)
        if command == "forget":
            self.known.remove(number)
            self._watched_until.pop(number, None)
        elif command == "dead":
            self._watched_until[number] = time.monotonic() + WATCHED_SECONDS
        else:
            self._watched_until[number] = math.inf

    def watched(self) -> list[int]:
        """Those that live, or have died just now."""
        now = time.monotonic()
        return [number for number, until in self._watched_until.items() if now < until]


@dataclass(slots=True)
class _Streamed:
    """A batch on its way over a stream."""

    batch_id: int
    secrets: list[int]
    started: int = 0
    answered: int = 0


class Verifier:
    """Asks in every way there is."""

    def __init__(self, servers: str, token: str, recorder: Recorder) -> None:
        self.client = AsyncClient(servers, token=token, verify_timeout=TIMEOUT_SECONDS, near_cache=True)
        self.plain = AsyncClient(servers, token=token, verify_timeout=TIMEOUT_SECONDS)
        self.secrets = Secrets()
        self._recorder = recorder
        self._chance = random.Random(os.getpid())
        self._under_way = Counter[str]()
        self._streamed: dict[int, _Streamed] = {}
        self._to_send: asyncio.Queue[_Streamed | None] = asyncio.Queue()
        self._is_over = False

    async def run(self) -> None:
        """Verify until told to stop; then wait for what is on its way."""
        loop = asyncio.get_running_loop()
        due, tick = loop.time(), 0
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stream())
            while not self._is_over:
                if self.secrets.known:
                    self._tick(group, tick)
                tick += 1
                due = max(due + TICK_SECONDS, loop.time() - 1)  # what was missed in a pause is not made up for
                await asyncio.sleep(due - loop.time())
            self._to_send.put_nowait(None)

    def stop(self) -> None:
        """Begin nothing any more."""
        self._is_over = True

    def _tick(self, group: asyncio.TaskGroup, tick: int) -> None:
        """Start what is due in each way, whether or not what was started before is answered, up to a bound."""
        for secret in self.secrets.watched():
            self._start(group, f"{secret}", self._ask_client, [secret] * HITS, at_most=1)
        self._start(group, "client", self._ask_client, self._draw(1), at_most=ONES_MAX)
        self._start(group, "alone", self._ask_alone, self._draw(1), at_most=ONES_MAX)
        if tick % BATCH_TICKS == 0:
            self._start(group, "batch", self._ask_at_once, self._draw(BATCH), at_most=BATCHES_MAX)
        elif len(self._streamed) + self._to_send.qsize() < BATCHES_MAX:
            self._to_send.put_nowait(_Streamed(tick, self._draw(BATCH)))

    def _start(
        self, group: asyncio.TaskGroup, what: str, ask: Callable[[list[int]], Any], secrets: list[int], *, at_most: int
    ) -> None:
        if self._under_way[what] < at_most:
            self._under_way[what] += 1
            group.create_task(ask(secrets)).add_done_callback(lambda _: self._under_way.subtract([what]))

    def _draw(self, count: int) -> list[int]:
        return self._chance.choices(self.secrets.known, k=count) if self.secrets.known else []

    async def _ask_client(self, secrets: list[int]) -> None:
        """One by one; those that the near-cache knows do not even yield to other tasks."""
        api_keys, verify = self.secrets.api_keys, self.client.verify
        for secret in secrets:
            started = now()
            decision: Decision | CallError
            try:
                decision = await verify(api_keys[secret], permissions=PERMISSIONS, client_ip=CLIENT_IP)
            except CallError as error:
                decision = error
            self._recorder.add(secret, Way.CLIENT, _outcome(decision), started, now())

    async def _ask_alone(self, secrets: list[int]) -> None:
        for secret in secrets:
            started, outcome = now(), Outcome.FAILED
            with contextlib.suppress(grpc.RpcError):
                answer = await self.plain.stubs.verification.Verify(
                    self._request(secret), metadata=self.plain.metadata, timeout=TIMEOUT_SECONDS
                )
                outcome = _outcome_of(answer)
            self._recorder.add(secret, Way.UNARY, outcome, started, now())

    async def _ask_at_once(self, secrets: list[int]) -> None:
        questions = [self._question(secret) for secret in secrets]
        started = now()
        decisions: Sequence[Decision | CallError]
        try:
            decisions = await self.plain.verify_many(questions)
        except CallError as error:
            decisions = [error] * len(secrets)
        ended = now()
        for secret, decision in zip(secrets, decisions, strict=True):
            self._recorder.add(secret, Way.BATCH, _outcome(decision), started, ended)

    def _question(self, secret: int) -> Verification:
        return Verification(self.secrets.api_keys[secret], permissions=PERMISSIONS, client_ip=CLIENT_IP)

    async def _stream(self) -> None:
        """Keep one VerifyStream going, a new one whenever it breaks."""
        while not self._is_over:
            call = self.plain.stubs.verification.VerifyStream(metadata=self.plain.metadata)
            answering = asyncio.create_task(self._answers(call))
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                while (batch := await self._to_send.get()) is not None:
                    batch.started = now()
                    self._streamed[batch.batch_id] = batch
                    requests = map(self._request, batch.secrets)
                    await call.write(pb.VerifyStreamRequest(batch_id=batch.batch_id, requests=requests))
                await call.done_writing()
            await answering
            self._streamed.clear()
            await asyncio.sleep(PAUSE_SECONDS)

    def _request(self, secret: int) -> pb.VerifyRequest:
        api_key = self.secrets.api_keys[secret]
        return pb.VerifyRequest(api_key=api_key, required_permissions=PERMISSIONS, client_ip=CLIENT_IP)

    async def _answers(self, call: Any) -> None:
        with contextlib.suppress(grpc.RpcError):
            async for answer in call:
                self._answered(answer)

    def _answered(self, answer: pb.VerifyStreamResponse) -> None:
        ended = now()
        batch = self._streamed[answer.batch_id]
        for position, result in zip(answer.positions or range(BATCH), answer.results, strict=True):
            outcome = _outcome_of(result.response) if result.HasField("response") else Outcome.FAILED
            self._recorder.add(batch.secrets[position], Way.STREAM, outcome, batch.started, ended)
        batch.answered += len(answer.results)
        if batch.answered == len(batch.secrets):
            del self._streamed[answer.batch_id]


def _outcome(decision: Decision | CallError) -> Outcome:
    if isinstance(decision, CallError):
        return Outcome.FAILED
    return Outcome.ALLOWED if decision.allowed else Outcome.DENIED


def _outcome_of(answer: pb.VerifyResponse) -> Outcome:
    return Outcome.ALLOWED if answer.code == pb.DECISION_CODE_ALLOWED else Outcome.DENIED


async def main(servers: str, file: Path) -> None:
    """Verify until standard input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with Recorder(file) as recorder:
        verifier = Verifier(servers, os.environ["TOLLKEEPER_TOKEN"], recorder)
        async with verifier.client, verifier.plain, asyncio.TaskGroup() as group:
            group.create_task(verifier.run())
            while line := await reader.readline():
                verifier.secrets.follow(*json.loads(line))
            verifier.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client_faults.plant(sys.argv[3] if len(sys.argv) > 3 else "")
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
