"""A server as far as charging goes, in a process of its own, so that it can be killed.

    python -m tests.faults.charging_worker POSTGRES_URL REDIS_URL FILE [FAULT]

Reads one JSON object a line: ``key_id``, ``amount``, ``created_at``, ``charges``, ``callers``; makes so many charges by
so many callers at once, and answers a line. For each that was allowed it appends one byte to FILE, which outlives it.
With ``first``, each charge is made once, as request ``first``, ``first`` + 1 and so on, and asked for up to thrice.
With ``keep``, each answer is given to so many verifications, as far as it may be, or to fewer, and then settled.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from uuid import uuid4

from tests.faults.planted import plant
from tests.integration.quota_support import charge, key, quota, server
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.key import Key
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.demands import ChargeOutcome


async def main(postgres_url: str, redis_url: str, tally: int) -> None:
    """Serve until standard input ends."""
    async with server(postgres_url, redis_url, timeout_seconds=1.0) as charger:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            created_at = datetime.fromisoformat(asked["created_at"])  # servers that disagree have windows of their own
            subject = key(quota(asked["amount"]), key_id=asked["key_id"], created_at=created_at)
            requests = list(_requests(asked["charges"], asked.get("first")))
            call = partial(_keep, keep=asked["keep"]) if asked.get("keep") else _call
            await asyncio.gather(*(call(charger, subject, requests, tally) for _ in range(asked["callers"])))
            print("done", flush=True)


def units_of(request: int) -> int:
    """What the request charges."""
    return 1 + request % 5


def _requests(charges: int, first: int | None) -> Iterator[tuple[str, int]]:
    """Request id and units of each charge."""
    if first is None:
        yield from (("", 1) for _ in range(charges))
        return
    for number in range(first, first + charges):
        for _ in range(1 + number % 3):
            yield f"request-{number}", units_of(number)


async def _call(charger: Charger, subject: Key, requests: list[tuple[str, int]], tally: int) -> None:
    while requests:
        request_id, units = requests.pop()
        try:
            code = await charge(charger, subject, units, request_id=request_id)
        except Unavailable:
            if request_id:
                requests.append((request_id, units))  # it may have been charged: only an answer tells
            await asyncio.sleep(0.01)
            continue
        if code is DecisionCode.ALLOWED:
            os.write(tally, b".")


async def _keep(charger: Charger, subject: Key, requests: list[tuple[str, int]], tally: int, *, keep: int) -> None:
    while requests:
        _, units = requests.pop()
        try:
            outcome = await charger.charge(
                subject, charges={"requests": units}, consume=True, request_id=uuid4().hex, keep=keep
            )
            uses = _uses(outcome)
            os.write(tally, b"." * uses * units)
            if outcome.reservation_id:
                charges = {"requests": uses * units}
                await charger.settle(outcome.reservation_id, tenant_id=None, charges=charges, verifications=uses)
        except Unavailable:
            await asyncio.sleep(0.01)


def _uses(outcome: ChargeOutcome) -> int:
    """How many verifications an answer is given to."""
    if outcome.code is not DecisionCode.ALLOWED:
        return 0
    if outcome.kept is None:
        return 1
    return random.choice((outcome.kept.verifications, random.randint(1, outcome.kept.verifications)))


if __name__ == "__main__":
    plant(sys.argv[4] if len(sys.argv) > 4 else "")
    file = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    asyncio.run(main(sys.argv[1], sys.argv[2], file))
