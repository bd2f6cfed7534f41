"""The ``tollkeeper`` command: keys, verifications and quotas from a terminal or a script."""

import sys


def main() -> None:
    """Runs the command; exits with the codes that ``tollkeeper --help`` lists."""
    try:
        from tollkeeper.command.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        sys.exit("tollkeeper: the command needs more packages: pip install 'tollkeeper[command]'")
    sys.exit(run())
