"""A process with a near-cache, for tests that stop it: says what it decides, a line each.

    python -m tests.e2e.near_cache_client ADDRESS {async,sync}

Reads the token and an API key, writes ``kept`` once an answer comes from memory, and then the code of a verification
for each further line.
"""

import asyncio
import sys
import time

from tollkeeper import AsyncClient, Client


def main() -> None:
    """The command line."""
    address, kind = sys.argv[1:]
    token, api_key = (sys.stdin.readline().strip() for _ in range(2))
    if kind == "sync":
        _in_threads(address, api_key, token)
    else:
        asyncio.run(_in_a_loop(address, api_key, token))


def _in_threads(address: str, api_key: str, token: str) -> None:
    client = Client(address, token=token, near_cache=True)
    before = client.verify(api_key)
    while (decision := client.verify(api_key)) is not before:
        before = decision
        time.sleep(0.01)
    print("kept", flush=True)
    while sys.stdin.readline():
        print(client.verify(api_key).code, flush=True)
    # Not closed: the end of the interpreter does that.


async def _in_a_loop(address: str, api_key: str, token: str) -> None:
    async with AsyncClient(address, token=token, near_cache=True) as client:
        before = await client.verify(api_key)
        while (decision := await client.verify(api_key)) is not before:
            before = decision
            await asyncio.sleep(0.01)
        print("kept", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print((await client.verify(api_key)).code, flush=True)


if __name__ == "__main__":
    main()
