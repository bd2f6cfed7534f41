"""Commands that read keys."""

import sys
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from tollkeeper import Key, KeyState
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.key_views import print_key, print_keys
from tollkeeper.command.limits import parse_duration
from tollkeeper.command.options import KeyId, Tenant, now_less, now_plus
from tollkeeper.command.output import Json, print_json, print_text
from tollkeeper.command.progress import progress

PAGE_SIZE = 1000


class State(StrEnum):
    """States to filter by, as people write them."""

    ACTIVE = "active"
    DISABLED = "disabled"
    EXPIRED = "expired"
    REVOKED = "revoked"


Length = timedelta | None


def get(
    key_id: KeyId,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Show the record of a key. The API key itself is not part of it."""
    with connect(address, token_file) as client:
        key = client.get_key(key_id)
    if json:
        print_json(key)
    else:
        print_key(key)


def list_(
    owner: Annotated[str, typer.Option(metavar="OWNER", help="Keys of this owner.")] = "",
    environment: Annotated[str, typer.Option(metavar="LABEL", help="Keys of this environment.")] = "",
    state: Annotated[State | None, typer.Option(help="Keys in this state.")] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Keys whose API key has this prefix.")] = "",
    expiring_within: Annotated[
        Length,
        typer.Option(
            parser=parse_duration, metavar="LENGTH", help="Keys that end so soon, as 30d; active ones, unless --state."
        ),
    ] = None,
    older_than: Annotated[
        Length, typer.Option(parser=parse_duration, metavar="LENGTH", help="Keys created longer ago, as 90d.")
    ] = None,
    unrotated_for: Annotated[
        Length, typer.Option(parser=parse_duration, metavar="LENGTH", help="Keys whose API key is older, as 90d.")
    ] = None,
    maximum: Annotated[int, typer.Option("--max", metavar="N", min=1, help="Show so many at most.")] = 100,
    every: Annotated[bool, typer.Option("--all", help="Show all there are.")] = False,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """List keys, newest first.

    With --expiring-within those that end first come first.
    """
    wanted = None if every else maximum + 1
    if expiring_within and not state:
        state = State.ACTIVE
    keys: list[Key] = []
    with connect(address, token_file) as client, progress("Listing", None) as report:
        found = client.list_keys(
            owner_id=owner,
            environment=environment,
            state=KeyState[state.name] if state else KeyState.UNSPECIFIED,
            prefix=prefix,
            expires_before=now_plus(expiring_within) if expiring_within else None,
            created_before=now_less(older_than) if older_than else None,
            api_key_created_before=now_less(unrotated_for) if unrotated_for else None,
            page_size=min(wanted or PAGE_SIZE, PAGE_SIZE),
            tenant_id=tenant or None,
        )
        for key in islice(found, wanted):
            keys.append(key)
            report(1)
    more = wanted is not None and len(keys) == wanted
    if more:
        keys.pop()
    if json:
        print_json({"keys": keys, "more": more})
    elif keys:
        print_keys(keys)
    else:
        print_text("No keys.")
    if more and not json:
        sys.stderr.write(f"There are more than these {maximum}: raise --max, or give --all.\n")
