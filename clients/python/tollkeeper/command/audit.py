"""``tollkeeper audit``: who did what, and whether the log of it is whole."""

import sys
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from tollkeeper import AuditEvent, AuditHead, AuditVerifier
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.options import parse_time
from tollkeeper.command.output import Json, complain, moment, print_json, print_table, print_text

app = typer.Typer(name="audit", help="Read the audit log, and verify that nobody altered it.", rich_markup_mode=None)

ALTERED = 6
"""Exit code of a log that was altered."""
PAGE_SIZE = 1000

Tenant = Annotated[str, typer.Option(metavar="TENANT", help="Whose log; for root keys.")]
Time = datetime | None


@app.callback(invoke_without_command=True)
def audit(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_(
    key: Annotated[str, typer.Option(metavar="KEY_ID", help="Events about this key.")] = "",
    owner: Annotated[str, typer.Option(metavar="OWNER", help="Events about this owner and its keys.")] = "",
    actor: Annotated[str, typer.Option(metavar="ACTOR", help="Events by this caller: a key id, or a user.")] = "",
    action: Annotated[str, typer.Option(metavar="ACTION", help="Events of this action, as CreateKey.")] = "",
    since: Annotated[
        Time, typer.Option(parser=parse_time, metavar="TIME", help="Events from then on, as 2027-01-31T12:00:00Z.")
    ] = None,
    until: Annotated[Time, typer.Option(parser=parse_time, metavar="TIME", help="Events before then.")] = None,
    maximum: Annotated[int, typer.Option("--max", metavar="N", min=1, help="Show so many at most.")] = 100,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """List events, newest first. --json shows each with the record before and after it."""
    with connect(address, token_file) as client:
        found = client.list_audit_events(
            key_id=key,
            owner_id=owner,
            actor=actor,
            action=action,
            start_time=since,
            end_time=until,
            page_size=min(maximum + 1, PAGE_SIZE),
            tenant_id=tenant or None,
        )
        events = list(islice(found, maximum + 1))
    more = len(events) > maximum
    del events[maximum:]
    if json:
        print_json({"events": events, "more": more})
        return
    if not events:
        print_text("No events.")
        return
    _print_events(events)
    if more:
        sys.stderr.write(f"There are more than these {maximum}: raise --max.\n")


@app.command()
def head(
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> int:
    """Print where the log stands: tenant, sequence and hash. Keep it where whoever runs the database cannot write."""
    with connect(address, token_file) as client:
        page = client.list_audit_events_page(page_size=1, tenant_id=tenant or None)
    if not page.events:
        return complain("the log is empty", code=4)
    newest = page.events[0].head
    if json:
        print_json(newest)
    else:
        print_text(f"{newest.tenant_id} {newest.sequence} {newest.hash}")
    return 0


@app.command()
def verify(
    head: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `audit head` printed, any number of lines: finds a cut-off tail too."),
    ] = None,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> int:
    """Read a whole log and verify that no event was edited, removed, inserted or moved."""
    heads = _read_heads(head) if head else []
    with connect(address, token_file) as client:
        events = client.list_audit_events(page_size=PAGE_SIZE, tenant_id=tenant or None)
        newest = next(events, None)
        of_tenant = newest.tenant_id if newest else tenant
        kept = [each for each in heads if each.tenant_id == of_tenant]
        if heads and not kept:
            raise typer.TyperException(f"{head} has no head of {of_tenant or 'this tenant'}")
        verifier = AuditVerifier(heads=kept)
        if newest:
            verifier.add(newest)
        for event in events:
            verifier.add(event)
        verifier.finish()
    if json:
        print_json({"intact": not verifier.problems, "events": verifier.events, "problems": verifier.problems})
    elif not verifier.problems:
        against = f", and as it was at event {max(each.sequence for each in kept)}" if kept else ""
        print_text(f"Intact: {verifier.events} {'event' if verifier.events == 1 else 'events'}{against}.")
    for problem in verifier.problems:
        complain(problem, code=ALTERED)
    return ALTERED if verifier.problems else 0


def _read_heads(path: Path) -> list[AuditHead]:
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
        heads = [AuditHead(tenant_id, int(sequence), digest) for tenant_id, sequence, digest in lines]
    except OSError as error:
        raise typer.TyperException(f"cannot read {path}: {(error.strerror or 'error').lower()}") from None
    except ValueError:
        raise typer.TyperException(f"{path} is not what `tollkeeper audit head` printed") from None
    if not heads:
        raise typer.TyperException(f"{path} is empty")
    return heads


def _print_events(events: list[AuditEvent]) -> None:
    print_table(
        ("SEQUENCE", "WHEN", "ACTOR", "FROM", "ACTION", "KEY ID", "OWNER", "REQUEST ID"),
        [
            (
                str(event.sequence),
                moment(event.occurred_at),
                event.actor,
                event.actor_ip,
                event.action,
                event.key_id,
                event.owner_id,
                event.request_id,
            )
            for event in events
        ],
        right=("SEQUENCE",),
    )
