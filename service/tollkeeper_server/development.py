"""The data directory of a development server: its secrets, its root key, and where it is found."""

import base64
import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tollkeeper_server.core.credential import SECRET_BYTES
from tollkeeper_server.settings import PREFIX, Address
from tollkeeper_server.startup import StartupError


class DataDirectory:
    """Files that only their owner may read; each is there as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create the directory if need be and hold it, by a lock that dies with this process.

        Raises StartupError if it cannot be written, or if another server holds it.
        """
        with _writing_to(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "another"
                raise StartupError(f"the data directory {self.path} is in use by process {holder}") from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    @property
    def secrets_file(self) -> Path:
        """Peppers and tag keys, as the environment would name them."""
        return self.path / "secrets.env"

    @property
    def root_key_file(self) -> Path:
        """The API key of the root key."""
        return self.path / "root-key"

    def ensure_secrets(self) -> None:
        """Generate peppers and tag keys if there are none yet.

        Raises StartupError if there is a database whose secrets are gone: new ones would make every key in it invalid.
        """
        if self.secrets_file.exists():
            return
        if (self.path / "postgres").exists():
            raise StartupError(
                f"{self.secrets_file} is gone, and without it no API key of this data directory works: "
                f"put it back, or remove {self.path} to start over"
            )
        lines = (
            f"{PREFIX}{name}=1:{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}\n"
            for name in ("PEPPERS", "TAG_KEYS")
        )
        self._write(self.secrets_file, "".join(lines))

    def keep_root_key(self, api_key: str) -> None:
        """Write the API key of the root key where the ``tollkeeper`` command finds it."""
        self._write(self.root_key_file, f"{api_key}\n")

    @contextlib.contextmanager
    def address_published(self, address: Address) -> Iterator[None]:
        """Tell clients on this machine where the server is, for as long as it is there."""
        file = self.path / "address"
        self._write(file, f"{address.reachable}\n")
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    def _write(self, file: Path, text: str) -> None:
        with _writing_to(self.path), tempfile.NamedTemporaryFile("w", dir=self.path, delete=False) as unfinished:
            unfinished.write(text)
            unfinished.flush()
            os.fsync(unfinished.fileno())
            Path(unfinished.name).replace(file)


@contextlib.contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartupError(f"cannot write to the data directory {path}: {error.strerror}") from error


def greeting(data: DataDirectory, address: Address, metrics: Sequence[Address], *, new_root_key: str | None) -> str:
    """What whoever started the server may want to know and try."""
    pages = " and ".join(f"http://{each}/metrics" for each in metrics)
    command = _command("tollkeeper")
    root_key = f"\nThe root key, shown this once and kept in {_from_here(data.root_key_file)}:\n\n    {new_root_key}\n"
    return f"""\
Tollkeeper serves gRPC on {address} and metrics on {pages}. Ctrl-C stops it.
{root_key if new_root_key else ""}
Try this in another terminal:

    KEY=$({command} keys create --name demo --permission read --resource billing --rate 5/minute --quiet)
    {command} verify "$KEY" --permission read --resource billing
    {command} quota "$KEY"
    {command} keys list
"""


def _command(name: str) -> str:
    """How to call a command of this environment."""
    path = Path(sys.executable).with_name(name)
    return name if shutil.which(name) == str(path) else _from_here(path)


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
