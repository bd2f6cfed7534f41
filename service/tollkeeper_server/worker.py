"""One of several processes that serve: ``python -m tollkeeper_server.worker``, which only ``workers`` starts.

It is told by lines on its standard input, and tells once, by a line of JSON on its standard output, where it serves or
why it does not; empty lines show that it is not stuck. If its parent is gone it leaves as well: that ends the input.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from tollkeeper_server.api.logs import configure_logging
from tollkeeper_server.app import application
from tollkeeper_server.departure import Departure
from tollkeeper_server.servers import serving
from tollkeeper_server.settings import Settings, load_settings
from tollkeeper_server.startup import StartupError, spare_the_collector
from tollkeeper_server.workers import BEAT, BEAT_SECONDS, HURRY

_PARENT = os.dup(sys.stdout.fileno())
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what is printed is for no parent


def main() -> None:
    """Serve as the worker of the number that is the first argument; a second one is the file of the secrets."""
    number, *secrets_files = sys.argv[1:]
    try:
        settings = load_settings(secrets_file=Path(secrets_files[0]) if secrets_files else None)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(settings, number=int(number)))
    except StartupError as error:
        _tell(error=str(error))
        sys.exit(1)


async def work(settings: Settings, *, number: int) -> None:
    """Serve until the parent says so or is gone, or by SIGTERM alone, while the other workers stay."""
    configure_logging(log_format=settings.log_format, level=settings.log_level, fields={"worker": number})
    departure = Departure(alone=True)
    with departure.ends_this():
        async with (
            _listening_to_the_parent(departure),
            application(settings, settings.given_stores()) as parts,
            serving(parts, settings, departure=departure, shares_port=True) as listening,
        ):
            spare_the_collector()
            _tell(**listening.log_fields())
            await asyncio.get_running_loop().create_future()


@contextlib.asynccontextmanager
async def _listening_to_the_parent(departure: Departure) -> AsyncIterator[None]:
    lines = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    listening = asyncio.create_task(_follow(lines, departure), name="parent")
    beating = asyncio.create_task(_beat(), name="beat")
    try:
        yield
    finally:
        listening.cancel()
        beating.cancel()
        await asyncio.wait([listening, beating])
        transport.close()


async def _follow(lines: asyncio.StreamReader, departure: Departure) -> None:
    """Leave at the first line, or at the end of them, with all the others; hurry if told so."""
    while line := await lines.readline():
        if line == HURRY:
            departure.hurry.set()
        departure.together.set()
        departure.begin()
    departure.together.set()
    departure.begin()


async def _beat() -> None:
    """Show the parent that the event loop turns, as long as this runs and there is a parent."""
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(_PARENT, BEAT)
            await asyncio.sleep(BEAT_SECONDS)


def _tell(**fields: str) -> None:
    os.write(_PARENT, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    main()
