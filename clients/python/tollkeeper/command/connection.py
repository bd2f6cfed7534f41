"""Which server the command talks to, and as whom."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from tollkeeper import Client, Unavailable
from tollkeeper._tls import credentials_from_env

DATA_DIRECTORY = ".tollkeeper"
TIMEOUT_SECONDS = 5.0

Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Server to talk to. Else TOLLKEEPER_ADDRESS, else the one found here."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File that holds your own API key. Else TOLLKEEPER_TOKEN, else the root key."),
]


class NoServer(Exception):
    """No server, or no token for it, was given or found; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and the API key to call it with."""

    address: str
    token: str = field(repr=False)


@contextmanager
def connect(address: str | None, token_file: Path | None) -> Iterator[Client]:
    """A client of the server that the options, the environment or the nearest data directory name.

    Raises NoServer. A person waits for the answer, so a server that is down is told at once.
    """
    server = find_server(address, token_file)
    try:
        client = Client(
            server.address,
            token=server.token,
            credentials=credentials_from_env(),
            timeout=TIMEOUT_SECONDS,
            verify_timeout=TIMEOUT_SECONDS,
            wait_for_ready=False,
        )
    except ValueError as error:
        raise NoServer(str(error)) from None
    with client:
        try:
            yield client
        except Unavailable as error:
            if error.reason:
                raise
            cause = error.message.rpartition(": ")[2]
            raise Unavailable(
                error.method, error.status, f"no server answers at {server.address} ({cause}); is it running?"
            ) from None


def find_server(address: str | None, token_file: Path | None) -> Server:
    """The server and the token. Raises NoServer.

    The root key of a data directory is sent to the server of that data directory only.
    """
    address = address or os.environ.get("TOLLKEEPER_ADDRESS")
    token = _read(token_file) if token_file else os.environ.get("TOLLKEEPER_TOKEN")
    if address and token:
        return Server(address, token)
    if address:
        raise NoServer(f"no token for {address}: set TOLLKEEPER_TOKEN or give --token-file")
    directory = _data_directory()
    if directory is None:
        raise NoServer(
            "no server found: run `make serve` and come back to its directory, or set TOLLKEEPER_ADDRESS"
            " and TOLLKEEPER_TOKEN"
        )
    return Server(_read(directory / "address"), token or _root_key(directory / "root-key"))


def _data_directory() -> Path | None:
    """TOLLKEEPER_DATA_DIR, or the nearest ``.tollkeeper`` here or further up, in which a server has run."""
    named = os.environ.get("TOLLKEEPER_DATA_DIR")
    here = Path.cwd()
    candidates = [Path(named)] if named else [each / DATA_DIRECTORY for each in (here, *here.parents)]
    return next((directory for directory in candidates if (directory / "address").is_file()), None)


def _root_key(path: Path) -> str:
    token = _read(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise NoServer(f"others may read {path}: chmod 600 it, or give another token with --token-file")
    return token


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise NoServer(f"cannot read {path}: {(error.strerror or 'error').lower()}") from None
    except UnicodeDecodeError:
        raise NoServer(f"cannot read {path}: not a text of ASCII characters") from None
