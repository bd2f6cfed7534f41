"""The server's command with faults planted: python -m tests.faults.history.server FAULT,... serve."""

import sys

from tests.faults.history import server_faults
from tollkeeper_server import cli

if __name__ == "__main__":
    server_faults.plant(sys.argv.pop(1))
    cli.main()
