"""The connection to Redis: alone, as a cluster, cut off, and not let in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from tests.integration.valkey_process import ValkeyProcess, valkey_cluster, valkey_process
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.redis import Redis, Script

COUNT = Script("return redis.call('INCR', KEYS[1])")
PASSWORD = "correct-horse"


async def count(connection: Redis, key: str = "counter") -> int:
    return int(await connection.run(COUNT, keys=[key], arguments=[], timeout_seconds=5))


class CuttingProxy:
    """Passes everything on to a Unix socket; once told so, it passes on a command and hangs up before the answer."""

    def __init__(self, target: Path) -> None:
        self.cuts = False
        self._target = target

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, commands = await asyncio.open_unix_connection(self._target)
        with contextlib.closing(writer), contextlib.closing(commands):
            while command := await reader.read(65_536):
                commands.write(command)
                answer = await answers.read(65_536)
                if self.cuts:
                    return
                writer.write(answer)


@pytest.fixture
async def proxy(redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[CuttingProxy, str]]:
    proxy = CuttingProxy(Path(redis_url.removeprefix("unix://")))
    async with await asyncio.start_unix_server(proxy.serve, tmp_path / "proxy.sock"):
        yield proxy, f"unix://{tmp_path}/proxy.sock"


async def test_a_script_is_never_sent_twice_when_its_answer_is_lost(proxy: tuple[CuttingProxy, str]) -> None:
    cutter, url = proxy
    connection = await Redis.connect(url)
    assert await count(connection) == 1
    cutter.cuts = True
    with pytest.raises(Unavailable):
        await count(connection)
    cutter.cuts = False
    assert await count(connection) == 3
    await connection.close()


async def test_a_node_of_a_cluster_stands_for_all_of_it(tmp_path: Path) -> None:
    async with valkey_cluster(tmp_path) as url:
        connection = await Redis.connect(url)
        assert await count(connection, "{a}:one") == 1
        assert await count(connection, "{b}:two") == 1
        assert connection.slot("{a}:one") == connection.slot("{a}:two") != connection.slot("{b}:one")
        await connection.close()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    async with valkey_process(tmp_path) as process:
        async with redis.asyncio.from_url(process.url) as client:
            await client.config_set("requirepass", PASSWORD)
        yield process


async def test_a_password_in_the_url_lets_us_in(guarded: ValkeyProcess) -> None:
    connection = await Redis.connect(guarded.url.replace("unix://", f"unix://:{PASSWORD}@"))
    assert await count(connection) == 1
    await connection.close()


@pytest.mark.parametrize("userinfo", ["", ":wrong-staple@", f"wrong-user:{PASSWORD}@"])
async def test_who_is_not_let_in_is_told_so_in_one_line_without_the_password(
    guarded: ValkeyProcess, userinfo: str
) -> None:
    with pytest.raises(StartupError) as refused:
        await Redis.connect(guarded.url.replace("unix://", f"unix://{userinfo}"))
    text = str(refused.value)
    assert text.startswith(f"cannot use Redis at {guarded.url.removeprefix('unix://')}: ")
    assert "\n" not in text
    assert "wrong-staple" not in text
    assert PASSWORD not in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///nowhere/redis.sock", "cannot use Redis at /nowhere/redis.sock: No such file or directory"),
        ("redis://127.0.0.1:1/0", "cannot use Redis at 127.0.0.1:1: Connection refused"),
        ("http://127.0.0.1", "the Redis URL is not valid"),
        ("redis://u:secret@127.0.0.1:port", "the Redis URL is not valid"),
        ("127.0.0.1:6379", "the Redis URL is not valid"),
    ],
)
async def test_a_url_that_leads_nowhere_is_one_line(url: str, expected: str) -> None:
    with pytest.raises(StartupError) as refused:
        await Redis.connect(url)
    assert str(refused.value).startswith(expected)
    assert "secret" not in str(refused.value)


async def test_a_redis_that_is_too_old_is_refused(tmp_path: Path) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while command := await reader.read(65_536):
                hello = b"$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n6.2.6\r\n"
                writer.write(b"*4\r\n" + hello if b"HELLO" in command else b"+OK\r\n" * command.count(b"*"))

    async with await asyncio.start_unix_server(old, tmp_path / "old.sock"):
        with pytest.raises(StartupError, match=r"is version 6\.2\.6; 7 or later is needed"):
            await Redis.connect(f"unix://{tmp_path}/old.sock")


async def test_a_redis_that_does_not_answer_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollkeeper_server.storage.redis.CONNECT_SECONDS", 0.1)
    async with valkey_process(tmp_path) as process:
        process.pause()
        with pytest.raises(StartupError, match="no answer from Redis at"):
            await Redis.connect(process.url)
