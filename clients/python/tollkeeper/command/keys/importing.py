"""``tollkeeper keys import``: takes over keys of another system."""

from tollkeeper import CallError, KeyChange, Propagation
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.key_views import print_effect
from tollkeeper.command.keys.files import FileArgument, read_rows
from tollkeeper.command.keys.import_rows import import_key
from tollkeeper.command.options import RequestId, Tenant
from tollkeeper.command.output import Json, complain, print_json_line, print_text
from tollkeeper.command.progress import progress

FORMAT = """\b
FILE has JSON lines, or CSV with a heading. Exactly one of these in each row:
  raw_api_key        the API key itself, of any shape
  sha256_hex, sha256_base64url, sha512_hex
                     its digest
  hmac_sha256_hex    its HMAC under a pepper of the server, with pepper_version
And any of these, as in `tollkeeper keys create`:
  name, description, owner_id, environment, expires_at, ttl
  permissions, resources, allowed_cidrs, rate, quota, spend
                     in CSV several are separated by ;  in JSON they are lists
  metadata           a JSON object
Nothing is imported if a row cannot be read. With --json there is a line for
each row, in order, with its key_id or its error. Exits with 1 if any row was
refused.
"""

TIMEOUT_SECONDS = 60.0
"""For a batch of 1,000."""


def import_(
    file: FileArgument,
    request_id: RequestId = "",
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> int:
    """Take over keys of another system.

    Nobody needs a new API key then.
    """
    rows = read_rows(file)
    keys = [import_key(row) for row in rows]
    imported: list[KeyChange] = []
    with connect(address, token_file) as client, progress("Importing", len(rows)) as report:
        outcomes = client.import_keys(
            keys, request_id=request_id or None, tenant_id=tenant or None, timeout=TIMEOUT_SECONDS
        )
        for row, outcome in zip(rows, outcomes, strict=True):
            report(1)
            if isinstance(outcome, KeyChange):
                imported.append(outcome)
                result = {"line": row.line, "key_id": outcome.key.key_id, "error": None}
            else:
                why = _why(outcome)
                error = {"status": outcome.status, "reason": outcome.reason, "message": why}
                result = {"line": row.line, "key_id": None, "error": error}
                complain(f"line {row.line}: {why}", code=1)
            if json:
                print_json_line(result)
    if not json:
        _print_summary(imported, len(rows))
    return 0 if len(imported) == len(rows) else 1


def _why(error: CallError) -> str:
    """Why a row was refused, naming fields as the file does: the server counts rows within a batch."""
    faults = [f"{each.field.rpartition('].')[2].removeprefix('key.')}: {each.description}" for each in error.violations]
    return "; ".join(faults) or f"{error.message} ({error.reason})"


def _print_summary(imported: list[KeyChange], total: int) -> None:
    print_text(f"Imported {len(imported)} of {total} keys.", style="bold")
    pending = [change for change in imported if change.propagation is not Propagation.EVERYWHERE]
    if pending:
        print_effect(pending[-1].propagation, pending[-1].effective_at)
