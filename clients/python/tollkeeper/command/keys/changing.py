"""Commands that change what is known of keys, and switch them off and on."""

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.key_views import print_enabled, print_key_change
from tollkeeper.command.options import (
    Etag,
    ExpiresAt,
    KeyId,
    Metadata,
    Quota,
    Rate,
    RemoveLimit,
    RemoveMetadata,
    RequestId,
    Spend,
    Ttl,
    Words,
    by_name,
    limits_of,
    merged,
    now_plus,
    pairs_of,
    words_of,
)
from tollkeeper.command.output import Json, print_json

RULES = """\b
What is not named stays as it is.
  --permission, --resource, --cidr   replace all there are; '' alone leaves none
  --rate, --quota, --spend           add a limit, or replace the one of that name
  --metadata                         adds a value, or replaces the one of that name
"""


def update(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="A name for people.")] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="Free text for people.")] = None,
    permission: Annotated[Words, typer.Option(metavar="WORD", help="What it may do. Repeat for more.")] = None,
    resource: Annotated[Words, typer.Option(metavar="WORD", help="What it may be used for; all, if none.")] = None,
    cidr: Annotated[Words, typer.Option(metavar="CIDR", help="Network it may be used from; all, if none.")] = None,
    rate: Rate = None,
    quota: Quota = None,
    spend: Spend = None,
    remove_limit: RemoveLimit = None,
    metadata: Metadata = None,
    remove_metadata: RemoveMetadata = None,
    expires_at: ExpiresAt = None,
    ttl: Ttl = None,
    no_expiry: Annotated[bool, typer.Option("--no-expiry", help="It never ends.")] = False,
    etag: Etag = "",
    request_id: RequestId = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Change a key."""
    words = {"permissions": permission, "resources": resource, "allowed_cidrs": cidr}
    fields: dict[str, Any] = {name: words_of(given) for name, given in words.items() if given is not None}
    fields |= {field: text for field, text in {"name": name, "description": description}.items() if text is not None}
    fields |= _expiry(expires_at, ttl, no_expiry=no_expiry)
    limits, values = limits_of(rate, quota, spend), pairs_of(metadata)
    if not (fields or limits or remove_limit or values or remove_metadata):
        raise typer.TyperException("nothing to change: see `tollkeeper keys update --help`")
    with connect(address, token_file) as client:
        if limits or remove_limit or values or remove_metadata:
            key = client.get_key(key_id)
            if limits or remove_limit:
                fields["limits"] = merged(by_name(key.limits), by_name(limits), remove_limit, what="limit").values()
            if values or remove_metadata:
                fields["metadata"] = merged(key.metadata, values, remove_metadata, what="metadata")
            etag = etag or key.etag  # what was read must still hold when it is written
        change = client.update_key(key_id, **fields, etag=etag, request_id=request_id or None)
    if json:
        print_json(change)
    else:
        print_key_change("Updated", change, details=True)


def disable(
    key_id: KeyId,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Switch a key off until it is enabled again."""
    with connect(address, token_file) as client:
        change = client.disable_key(key_id)
    if json:
        print_json(change)
    else:
        print_key_change("Disabled", change)


def enable(
    key_id: KeyId,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Switch a disabled key on again."""
    with connect(address, token_file) as client:
        enabled = client.enable_key(key_id)
    if json:
        print_json(enabled)
    else:
        print_enabled(enabled)


def _expiry(expires_at: datetime | None, ttl: timedelta | None, *, no_expiry: bool) -> dict[str, datetime | None]:
    if (expires_at is not None) + (ttl is not None) + no_expiry > 1:
        raise typer.TyperException("give one of --expires-at, --ttl and --no-expiry")
    if no_expiry:
        return {"expires_at": None}
    expires_at = now_plus(ttl) if ttl else expires_at
    return {"expires_at": expires_at} if expires_at else {}
