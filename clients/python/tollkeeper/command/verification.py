"""``tollkeeper verify`` and ``tollkeeper quota``: the questions that services ask, asked by hand."""

from typing import Annotated

import typer

from tollkeeper import Decision, QuotaReport, Secret, Settlement
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.output import (
    Json,
    duration,
    print_details,
    print_json,
    print_limit_states,
    print_text,
)
from tollkeeper.command.subject import API_KEY_HELP, SUBJECT_HELP, read_api_key, read_subject

DENIED = 3
"""Exit code of a denial."""

Charges = Annotated[
    list[str] | None,
    typer.Option(metavar="UNIT=AMOUNT", help="What to charge, if not requests=1; money in micro-units."),
]
Tenant = Annotated[str, typer.Option(metavar="TENANT", help="Know keys of this tenant only; for root keys.")]


def verify(
    api_key: Annotated[str, typer.Argument(metavar="API_KEY", help=API_KEY_HELP)],
    resource: Annotated[str, typer.Option(metavar="WORD", help="What the request is for.")] = "",
    permission: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="A permission it needs. Repeat for more.")
    ] = None,
    client_ip: Annotated[str, typer.Option(metavar="ADDRESS", help="Address of the end client.")] = "",
    charge: Charges = None,
    reserve: Annotated[bool, typer.Option("--reserve", help="Hold the charge until it is settled.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, and charge nothing.")] = False,
    min_revision: Annotated[
        int, typer.Option(metavar="N", min=0, show_default=False, help="Reflect changes up to this revision.")
    ] = 0,
    request_id: Annotated[str, typer.Option(metavar="ID", help="Names it, so that it is charged once.")] = "",
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Verify an API key as a service would, and charge the request. Exits with 3 if it is denied."""
    presented = read_api_key(api_key)
    with connect(address, token_file) as client:
        decision = client.verify(
            presented,
            resource=resource,
            permissions=permission or (),
            client_ip=client_ip or None,
            charges=parse_charges(charge),
            reserve=reserve,
            dry_run=dry_run,
            min_revision=min_revision,
            request_id=request_id or None,
            tenant_id=tenant or None,
        )
    if json:
        print_json(decision)
    else:
        _print_decision(decision)
    if not decision.allowed:
        raise typer.Exit(DENIED)


def quota(
    subject: Annotated[str | None, typer.Argument(metavar="[KEY]", help=SUBJECT_HELP)] = None,
    owner: Annotated[str, typer.Option(metavar="OWNER", help="Limits of this owner instead of a key's.")] = "",
    charge: Charges = None,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="The owner's tenant; for root keys.")] = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Show where every limit of a key or an owner stands. Consumes nothing."""
    if (subject is None) == (not owner):
        raise typer.TyperException("give a key or --owner")
    key_id, api_key = read_subject(subject) if subject is not None else (None, None)
    with connect(address, token_file) as client:
        report = client.check_quota(
            key_id=key_id,
            api_key=api_key,
            owner_id=owner or None,
            charges=parse_charges(charge),
            tenant_id=tenant or None,
        )
    if json:
        print_json(report)
    else:
        _print_report(report)


def settle(
    reservation_id: Annotated[str, typer.Argument(metavar="RESERVATION")],
    charge: Charges = None,
    release: Annotated[bool, typer.Option("--release", help="Nothing was used: release the whole hold.")] = False,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Replace what `verify --reserve` holds by what was really used."""
    charges = parse_charges(charge)
    if (charges is None) == (not release):
        raise typer.TyperException("give --charge or --release")
    with connect(address, token_file) as client:
        settlement = client.settle(reservation_id, charges or {})
    if json:
        print_json(settlement)
    else:
        _print_settlement(settlement)


def parse_charges(texts: list[str] | None) -> dict[str, int] | None:
    """Amount by unit of ``UNIT=AMOUNT`` texts; None for none. Raises typer.BadParameter."""
    charges: dict[str, int] = {}
    for text in texts or ():
        unit, _, amount = text.partition("=")
        if not unit or not (amount.isascii() and amount.isdecimal()):
            raise typer.BadParameter(f"{text!r} is not UNIT=AMOUNT with a whole number, as tokens=500")
        charges[unit] = charges.get(unit, 0) + int(amount)
    return charges or None


def _print_decision(decision: Decision) -> None:
    print_text(decision.code.value, style="bold green" if decision.allowed else "bold red")
    print_text(decision.message + _waiting(decision))
    if decision.key:
        name = f" ({decision.key.name})" if decision.key.name else ""
        print_details(
            {
                "key": decision.key.key_id + name,
                "owner": decision.key.owner_id,
                "api key": "the earlier one, which ends with the overlap" if decision.secret is Secret.OLD else "",
                "reservation": decision.reservation_id,
            }
        )
    _print_limits(decision)


def _print_report(report: QuotaReport) -> None:
    if report.allowed:
        print_text("There is room." if report.limits else "There are no limits.", style="bold green")
    else:
        print_text(f"{report.code}.{_waiting(report)}", style="bold red")
    _print_limits(report)


def _print_settlement(settlement: Settlement) -> None:
    print_text("Settled before; nothing was changed." if settlement.already_settled else "Settled.", style="bold")
    if settlement.limits:
        print_text("")
        print_limit_states(settlement.limits)


def _print_limits(answer: Decision | QuotaReport) -> None:
    if answer.limits:
        print_text("")
        print_limit_states(answer.limits)
    for degradation in answer.degradations:
        print_text(f"Degraded: {degradation.message or degradation.reason}", style="yellow")


def _waiting(answer: Decision | QuotaReport) -> str:
    return f" Try again in {duration(answer.retry_after)}." if answer.retry_after is not None else ""
