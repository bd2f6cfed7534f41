"""``tollkeeper usage``: who uses what, and what is unusual about it."""

from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from tollkeeper import Granularity
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.options import Tenant, parse_past
from tollkeeper.command.output import Json, print_json
from tollkeeper.command.usage_views import print_findings, print_usage

FINDINGS_MAX = 20

Time = datetime | None


class By(StrEnum):
    """Lengths of a bucket, as people write them."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


def usage(
    key_id: Annotated[str | None, typer.Argument(metavar="[KEY_ID]")] = None,
    owner: Annotated[str, typer.Option(metavar="OWNER", help="All keys of this owner instead of one key.")] = "",
    by: Annotated[By, typer.Option(help="How long each stretch of time is.")] = By.HOUR,
    since: Annotated[
        Time,
        typer.Option(
            parser=parse_past,
            metavar="TIME",
            help="From then on: a time, or how long ago, as 7d. Else 60 minutes, 24 hours or 30 days ago.",
        ),
    ] = None,
    until: Annotated[
        Time, typer.Option(parser=parse_past, metavar="TIME", help="Before then: a time, or how long ago.")
    ] = None,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Show what a key or an owner was used for, and what was unusual. Times are in UTC."""
    if (key_id is None) == (not owner):
        raise typer.TyperException("give a key id or --owner")
    with connect(address, token_file) as client:
        usage = client.get_usage(
            key_id=key_id,
            owner_id=owner or None,
            start_time=since,
            end_time=until,
            granularity=Granularity[by.name],
            tenant_id=tenant or None,
        )
        found = client.list_findings(
            key_id=key_id, owner_id=owner or None, start_time=since, end_time=until, tenant_id=tenant or None
        )
        findings = list(islice(found, FINDINGS_MAX))
    if json:
        totals = {"allowed": usage.allowed, "denied": usage.denied, "units": usage.units}
        print_json({"buckets": usage.buckets, "totals": totals, "findings": findings})
        return
    print_usage(usage)
    print_findings(findings, of_owner=bool(owner))
