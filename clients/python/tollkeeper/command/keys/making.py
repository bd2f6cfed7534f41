"""Commands that make API keys, and end those that were replaced."""

from datetime import timedelta
from typing import Annotated

import typer

from tollkeeper.command.asking import confirm
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.key_views import print_created, print_key_change, print_rotated
from tollkeeper.command.limits import parse_duration
from tollkeeper.command.options import (
    ExpiresAt,
    KeyId,
    Metadata,
    Quiet,
    Quota,
    Rate,
    RequestId,
    Spend,
    Tenant,
    Ttl,
    Words,
    Yes,
    limits_of,
    pairs_of,
)
from tollkeeper.command.output import Json, print_json


def create(
    name: Annotated[str, typer.Option(metavar="TEXT", help="A name for people.")] = "",
    description: Annotated[str, typer.Option(metavar="TEXT", help="Free text for people.")] = "",
    owner: Annotated[str, typer.Option(metavar="OWNER", help="Customer, user or organization that it acts for.")] = "",
    environment: Annotated[str, typer.Option(metavar="LABEL", help="A label, as production.")] = "",
    permission: Annotated[Words, typer.Option(metavar="WORD", help="What the key may do. Repeat for more.")] = None,
    resource: Annotated[
        Words, typer.Option(metavar="WORD", help="What it may be used for; all, if none. Repeat for more.")
    ] = None,
    cidr: Annotated[
        Words, typer.Option(metavar="CIDR", help="Network it may be used from; all, if none. Repeat for more.")
    ] = None,
    rate: Rate = None,
    quota: Quota = None,
    spend: Spend = None,
    metadata: Metadata = None,
    expires_at: ExpiresAt = None,
    ttl: Ttl = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Start of the API key, instead of tk.")] = "",
    length: Annotated[int, typer.Option(metavar="N", help="Characters of the whole API key.", show_default=False)] = 0,
    request_id: RequestId = "",
    tenant: Tenant = "",
    quiet: Quiet = False,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Create a key and show its API key, this once."""
    if expires_at and ttl:
        raise typer.TyperException("give --expires-at or --ttl, not both")
    with connect(address, token_file) as client:
        created = client.create_key(
            name=name,
            description=description,
            owner_id=owner,
            environment=environment,
            permissions=permission or (),
            resources=resource or (),
            allowed_cidrs=cidr or (),
            limits=limits_of(rate, quota, spend),
            metadata=pairs_of(metadata),
            expires_at=expires_at,
            ttl=ttl,
            prefix=prefix,
            length=length,
            request_id=request_id or None,
            tenant_id=tenant or None,
        )
    if json:
        print_json(created)
    elif quiet:
        typer.echo(created.api_key)
    else:
        print_created(created)


def rotate(
    key_id: KeyId,
    overlap: Annotated[
        timedelta | None,
        typer.Option(parser=parse_duration, metavar="LENGTH", help="How long the present API key works on, as 1d."),
    ] = None,
    request_id: RequestId = "",
    yes: Yes = False,
    quiet: Quiet = False,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Give a key a new API key and show it.

    It is shown this once. Without --overlap the present one ends at once.
    """
    with connect(address, token_file) as client:
        if not (overlap or yes):
            confirm(f"End the present API key of {key_id} at once?")
        rotated = client.rotate_key(key_id, overlap=overlap or timedelta(), request_id=request_id or None)
    if json:
        print_json(rotated)
    elif quiet:
        typer.echo(rotated.api_key)
    else:
        print_rotated(rotated)


def end_overlap(
    key_id: KeyId,
    yes: Yes = False,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """End the overlap of a rotation early.

    The earlier API key works no more.
    """
    with connect(address, token_file) as client:
        if not yes:
            confirm(f"End the earlier API key of {key_id}?")
        change = client.end_overlap(key_id)
    if json:
        print_json(change)
    else:
        print_key_change("Only the current API key is left of", change)
