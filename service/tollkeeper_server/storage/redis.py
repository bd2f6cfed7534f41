"""Redis or Valkey: one client, and one place where the driver's errors become ours."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.startup import StartupError

CONNECT_SECONDS = 2.0
CLOSE_SECONDS = 1.0
VERSION_MIN = 7

_OPTIONS: dict[str, Any] = {
    "client_name": "tollkeeper",
    "protocol": 2,  # under 3 the driver does not notice that an idle connection was closed
    # A script must never be sent twice: whether the first was run cannot be known.
    "retry": Retry(NoBackoff(), 0),
    # Every method here has a time limit of its own, over all it does.
    "socket_connect_timeout": None,
    "socket_timeout": None,
}

_Client = redis.asyncio.Redis | RedisCluster

_STALL_SECONDS = 0.01
_PIPELINE_MAX = 1_000
_SCAN_COUNT = 1_000

_UNAVAILABLE = (OSError, RedisError, RedisClusterException)  # TimeoutError is an OSError


class Script:
    """A Lua script, which Redis knows by its digest once it was run there.

    A *pinned* one is known only once it was loaded on purpose: that Redis does not know it tells that Redis was
    restarted or replaced since.
    """

    def __init__(self, text: str, *, is_pinned: bool = False) -> None:
        self.text = text
        self.is_pinned = is_pinned
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class ScriptLost(Unavailable):
    """Redis does not know a pinned script; it ran nothing."""


class Redis:
    """A Redis or Valkey, or a cluster of them. Reconnects by itself after it was away."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._is_cluster = isinstance(client, RedisCluster)

    @classmethod
    async def connect(cls, url: str) -> "Redis":
        """Connect to ``url``: redis://, rediss:// (TLS) or unix://. A node of a cluster stands for all of it.

        Raises StartupError if it cannot be reached, does not let us in, or is older than version 7.
        """
        with _startup_errors(url):
            async with asyncio.timeout(CONNECT_SECONDS), AsyncExitStack() as on_failure:
                facts = await _facts(url)
                if facts["server"] == "redis" and int(facts["version"].split(".")[0]) < VERSION_MIN:
                    raise StartupError(
                        f"Redis at {_place(url)} is version {facts['version']}; {VERSION_MIN} or later is needed"
                    )
                client: _Client = (RedisCluster if facts["mode"] == "cluster" else redis.asyncio.Redis).from_url(
                    url, **_OPTIONS
                )
                on_failure.push_async_callback(client.aclose)
                await client.ping()  # so that the first request finds a connection
                on_failure.pop_all()
                return cls(client)

    async def close(self) -> None:
        """Close every connection."""
        async with asyncio.timeout(CLOSE_SECONDS):
            await self._client.aclose()

    async def run(
        self, script: Script, *, keys: Sequence[str], arguments: Sequence[bytes], timeout_seconds: float
    ) -> Any:
        """What ``script`` returns for ``keys``, which share a slot; strings come as bytes.

        Raises Unavailable if Redis refuses, fails, or does not answer within ``timeout_seconds``; in the last case
        the script may have run, or may run later. Raises ScriptLost if it is pinned and not known.
        """
        with _translated():
            async with _time_limit(timeout_seconds):
                try:
                    return await self._client.evalsha(script.digest, len(keys), *keys, *arguments)
                except NoScriptError:
                    if script.is_pinned:
                        raise ScriptLost("Redis was restarted or replaced", reason="REDIS_UNAVAILABLE") from None
                    return await self._client.eval(script.text, len(keys), *keys, *arguments)

    async def load(self, script: Script, *, timeout_seconds: float) -> None:
        """Make ``script`` known, in a cluster to every primary. Raises Unavailable."""
        with _translated():
            async with _time_limit(timeout_seconds):
                await self._client.script_load(script.text)

    async def knows(self, *scripts: Script, timeout_seconds: float) -> bool:
        """Whether all ``scripts`` are known, in a cluster to every primary. Raises Unavailable."""
        with _translated():
            async with _time_limit(timeout_seconds):
                return all(await self._client.script_exists(*[script.digest for script in scripts]))

    async def set_missing(
        self, keys: Sequence[str], value: bytes, *, lifetime_ms: int, timeout_seconds: float
    ) -> list[bytes | None]:
        """Set every key, of whatever slot, to ``value`` for a time unless it is there; gives what was there.

        Raises Unavailable; some may be set then.
        """
        found: list[bytes | None] = []
        with _translated():
            async with _time_limit(timeout_seconds):
                for start in range(0, len(keys), _PIPELINE_MAX):
                    pipeline = self._client.pipeline(transaction=False)
                    for key in keys[start : start + _PIPELINE_MAX]:
                        pipeline.set(key, value, px=lifetime_ms, nx=True, get=True)
                    found += await pipeline.execute()
        return found

    async def hashes(self, keys: Sequence[str], *, timeout_seconds: float) -> list[dict[bytes, bytes]]:
        """What is in each hash, of whatever slot; nothing if there is none. Raises Unavailable."""
        with _translated():
            async with _time_limit(timeout_seconds):
                pipeline = self._client.pipeline(transaction=False)
                for key in keys:
                    pipeline.hgetall(key)
                answers = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, _UNAVAILABLE) and not str(answer).startswith("WRONGTYPE"):
                raise Unavailable("Redis did not answer, or not in time", reason="REDIS_UNAVAILABLE") from answer
        return [answer if isinstance(answer, dict) else {} for answer in answers]

    async def find_hashes(self, pattern: str, *, timeout_seconds: float) -> AsyncIterator[str]:
        """Names of all hashes that match the glob, of every primary in a cluster; some more than once.

        Every key of the store is looked at, some thousands at a time. ``timeout_seconds`` is for each time. Raises
        Unavailable.
        """
        found = self._client.scan_iter(pattern, count=_SCAN_COUNT, _type="HASH")
        while True:
            with _translated():
                async with _time_limit(timeout_seconds):
                    name = await anext(found, None)
            if name is None:
                return
            yield name.decode()

    def slot(self, key: str) -> int:
        """Keys of one slot may go into one script; on a Redis that is no cluster there is one slot only."""
        return key_slot(key.encode()) if self._is_cluster else 0


async def _facts(url: str) -> dict[str, str]:
    """What Redis tells of itself to anyone it lets in: server, version, mode and more."""
    async with redis.asyncio.Redis.from_url(url, **_OPTIONS) as client:
        answer: list[bytes | int] = await client.execute_command("HELLO")  # type: ignore[no-untyped-call]
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in answer]
    return dict(zip(words[::2], words[1::2], strict=True))


@asynccontextmanager
async def _time_limit(seconds: float) -> AsyncIterator[None]:
    """As asyncio.timeout, but a stall of this process is not taken for one of Redis.

    After a stall the loop sees that time is up before it sees the answer that has long arrived.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    timer: asyncio.TimerHandle

    def expire() -> None:
        nonlocal timer
        stalled = loop.time() - due > _STALL_SECONDS
        timer = loop.call_later(_STALL_SECONDS if stalled else 0, limit.reschedule, 0)

    async with asyncio.timeout(None) as limit:
        timer = loop.call_at(due, expire)
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _UNAVAILABLE as error:
        raise Unavailable("Redis did not answer, or not in time", reason="REDIS_UNAVAILABLE") from error


@contextmanager
def _startup_errors(url: str) -> Iterator[None]:
    """One line for the operator, without the password. A malformed URL is not quoted at all, for it may be in there."""
    try:
        yield
    except TimeoutError as error:
        raise StartupError(f"no answer from Redis at {_place(url)} in {CONNECT_SECONDS:.0f} seconds") from error
    except ValueError as error:
        expected = "redis://user:password@host:port/0, rediss:// for TLS, or unix:///path"
        raise StartupError(f"the Redis URL is not valid; expected {expected}") from error
    except _UNAVAILABLE as error:
        raise StartupError(f"cannot use Redis at {_place(url)}: {_line(error)}") from error


def _line(error: Exception) -> str:
    cause = error.__context__  # the driver's text repeats the address
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return str(error).partition("\n")[0] or type(error).__name__


def _place(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
