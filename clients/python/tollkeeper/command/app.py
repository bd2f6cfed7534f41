"""The command as a whole: what it consists of, and how it ends."""

import sys
from typing import Annotated

import typer

from tollkeeper import (
    Aborted,
    AlreadyExists,
    CallError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    __version__,
)
from tollkeeper.command import audit, keys, owners, usage, verification
from tollkeeper.command.connection import NoServer
from tollkeeper.command.output import complain

HELP = """Manage and check the API keys of a Tollkeeper server.

The server is the one that TOLLKEEPER_ADDRESS and TOLLKEEPER_TOKEN name; if they are not set, the one that runs on the
data directory TOLLKEEPER_DATA_DIR, or on the nearest .tollkeeper directory here or further up. For one that is served
with TLS, TOLLKEEPER_TLS_CA is the file of its authority, or "public", and TOLLKEEPER_TLS_CLIENT_CERT and
TOLLKEEPER_TLS_CLIENT_KEY are your own certificate and key if it asks for them.
"""

EXIT_CODES = """\b
Exit codes:
  0  done; verify: allowed
  1  the call failed, or some of what was asked for; a question was answered no
  2  bad usage, or arguments that the server refuses
  3  verify: denied
  4  no such key, owner or reservation
  5  no server answered, or not in time
  6  audit verify: the log was altered
  7  in conflict with how things are: changed by someone else meanwhile, not
     possible in the key's state, or a request id used for something else
"""

FAILURES: dict[type[CallError], int] = {
    InvalidArgument: 2,
    NotFound: 4,
    Unavailable: 5,
    DeadlineExceeded: 5,
    Aborted: 7,
    AlreadyExists: 7,
    FailedPrecondition: 7,
}
"""Exit codes of failed calls; 1 for all others."""

app = typer.Typer(
    name="tollkeeper",
    help=HELP,
    epilog=EXIT_CODES,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app)
app.add_typer(owners.app)
app.command()(verification.verify)
app.command()(verification.quota)
app.command()(verification.settle)
app.command()(usage.usage)
app.add_typer(audit.app)


def run(arguments: list[str] | None = None) -> int:
    """Runs the command and gives its exit code. Every failure is one line on stderr."""
    try:
        code = app(args=arguments, prog_name="tollkeeper", standalone_mode=False)
    except typer.TyperException as error:
        return complain(error.format_message(), code=2)
    except NoServer as error:
        return complain(str(error), code=2)
    except CallError as error:
        return complain(_text(error), code=FAILURES.get(type(error), 1))
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader, as `head`, has seen enough. Python would complain again when it flushes at exit.
        sys.stdout = None
        return 0
    return code if isinstance(code, int) else 0


def _text(error: CallError) -> str:
    """The error in one line; with every field at fault, where the server's own text names the first few."""
    faults = "; ".join(f"{each.field}: {each.description}" for each in error.violations)
    return f"{faults} [request-id: {error.request_id}]" if faults else str(error)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tollkeeper {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
