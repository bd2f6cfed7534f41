"""The ``tollkeeper-server`` command."""

import asyncio
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from tollkeeper_server.serve import serve
from tollkeeper_server.settings import load_settings
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage import migrate

HELP = """Run the Tollkeeper API-key authorization service.

Settings are environment variables; README.md lists them. Without TOLLKEEPER_POSTGRES_URL and TOLLKEEPER_REDIS_URL a
development server runs on a private Postgres and Valkey below .tollkeeper/.
"""

app = typer.Typer(
    name="tollkeeper-server",
    help=HELP,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command. What went wrong, if it could be expected, is one line on stderr, and the exit code 1."""
    try:
        app()
    except StartupError as error:
        sys.exit(f"tollkeeper-server: {error}")


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=lambda wanted: _show_version(wanted), is_eager=True)
    ] = False,
) -> None: ...


@app.command(name="serve")
def serve_command(
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes that serve, one a core; else TOLLKEEPER_WORKERS, else 1."),
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain and stop."""
    _run(serve(load_settings(workers=workers), tell=_tell))


@app.command(name="migrate")
def migrate_command() -> None:
    """Bring the database of TOLLKEEPER_POSTGRES_URL to the schema of this version; harmless if it is there already."""
    _run(migrate.migrate(load_settings().given_postgres_url()))


@app.command(name="create-root-key")
def create_root_key_command() -> None:
    """Create a key that may do everything, and print its API key: the first one of a new database, or one more."""
    from tollkeeper_server.bootstrap import create_root_key

    settings = load_settings()
    typer.echo(_run(create_root_key(settings, settings.given_postgres_url())))


profiles_app = typer.Typer(help="Look after the profiles of public APIs.", no_args_is_help=True)
app.add_typer(profiles_app, name="profiles")


@profiles_app.callback()
def profiles() -> None: ...


@profiles_app.command(name="check")
def check_profiles_command(
    directory: Annotated[
        Path | None, typer.Argument(help="Where the profiles are; else TOLLKEEPER_PROFILES.", show_default=False)
    ] = None,
) -> None:
    """Read all profiles as the server would. Each fault is told with its file and line; exit code 1 if there is any."""
    from tollkeeper_server.edge.document import Faulty
    from tollkeeper_server.edge.library import read_profiles

    try:
        found = read_profiles(directory or load_settings().given_profiles())
    except Faulty as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(code=1) from None
    typer.echo(f"{len(found)} profiles: {', '.join(found.names)}")


@app.command(name="canary")
def canary_command(
    address: Annotated[list[str], typer.Option(help="A server, host:port; give it once for each.")],
    edge_address: Annotated[
        list[str] | None, typer.Option(help="Where a server answers gateways; give it once for each.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="The profile by which gateways ask; its API key is in Authorization: Bearer.")
    ] = "canary",
    tenant: Annotated[
        str | None, typer.Option(help="Whose keys the canary makes, for root callers; else the caller's own.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between the keys that it makes.")] = 10.0,
) -> None:
    """Make, verify and revoke keys over all paths until SIGTERM, and report every revoked key that is allowed.

    The caller is TOLLKEEPER_TOKEN, an API key with tollkeeper:keys.write and tollkeeper:verify. Metrics are served at
    TOLLKEEPER_METRICS_LISTEN.
    """
    from tollkeeper_server.canary.command import Watched, watch

    watched = Watched(
        addresses=address,
        edge_addresses=edge_address or [],
        profile=profile,
        tenant_id=tenant,
        interval_seconds=interval,
    )
    _run(watch(load_settings(), watched))


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _tell(text: str) -> None:
    print(text, flush=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tollkeeper-server {version('tollkeeper-server')}")
        raise typer.Exit
