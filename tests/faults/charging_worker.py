"""A server as far as charging goes, in a process of its own, so that it can be killed.

    python -m tests.faults.charging_worker POSTGRES_URL REDIS_URL FILE [FAULT]

Reads one JSON object a line: ``key_id``, ``amount``, ``charges``, ``callers``; makes so many charges of 1 by so many
callers at once, and answers a line. For each that was allowed it appends one byte to FILE, which outlives it.
"""

import asyncio
import json
import os
import sys

from tests.faults.planted import plant
from tests.integration.quota_support import charge, key, quota, server
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import Unavailable


async def main(postgres_url: str, redis_url: str, tally: int) -> None:
    """Serve until standard input ends."""
    async with server(postgres_url, redis_url, timeout_seconds=1.0) as charger:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            subject = key(quota(asked["amount"]), key_id=asked["key_id"])
            left = iter(range(asked["charges"]))

            async def caller() -> None:
                for _ in left:  # noqa: B023
                    try:
                        code = await charge(charger, subject)  # noqa: B023
                    except Unavailable:
                        await asyncio.sleep(0.01)
                        continue
                    if code is DecisionCode.ALLOWED:
                        os.write(tally, b".")

            await asyncio.gather(*(caller() for _ in range(asked["callers"])))
            print("done", flush=True)


if __name__ == "__main__":
    plant(sys.argv[4] if len(sys.argv) > 4 else "")
    file = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    asyncio.run(main(sys.argv[1], sys.argv[2], file))
