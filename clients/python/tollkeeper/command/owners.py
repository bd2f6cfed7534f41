"""``tollkeeper owners``: the customers, users or organizations that keys act for."""

from typing import Annotated, Any

import typer

from tollkeeper import Client, NotFound, Owner, OwnerChange
from tollkeeper.command.asking import confirm
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.key_views import print_effect
from tollkeeper.command.limits import GRAMMAR, describe
from tollkeeper.command.options import (
    Comment,
    Etag,
    Metadata,
    Quota,
    Rate,
    RemoveLimit,
    RemoveMetadata,
    Spend,
    Tenant,
    Why,
    Yes,
    by_name,
    group,
    limits_of,
    merged,
    pairs_of,
    revoke_reason,
)
from tollkeeper.command.output import Json, moment, print_details, print_json, print_text

RULES = """\b
What is not named stays as it is. A limit or a value replaces the one of its
name, or is added.
"""

app = group("owners", "Limits shared by all keys of an owner, and suspension.")

OwnerId = Annotated[str, typer.Argument(metavar="OWNER")]


@app.command()
def get(
    owner_id: OwnerId,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Show what is known of an owner."""
    with connect(address, token_file) as client:
        owner = client.get_owner(owner_id, tenant_id=tenant or None)
    if json:
        print_json(owner)
    else:
        _print_owner(owner)


@app.command("set", epilog=f"{RULES}\n{GRAMMAR}")
def set_(
    owner_id: OwnerId,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="A name for people.")] = None,
    rate: Rate = None,
    quota: Quota = None,
    spend: Spend = None,
    remove_limit: RemoveLimit = None,
    metadata: Metadata = None,
    remove_metadata: RemoveMetadata = None,
    etag: Etag = "",
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Create an owner, or change it."""
    limits, values = limits_of(rate, quota, spend), pairs_of(metadata)
    with connect(address, token_file) as client:
        owner = _read(client, owner_id, tenant)
        change = _write(
            client,
            owner_id,
            owner,
            tenant,
            display_name=name if name is not None else owner.display_name if owner else "",
            limits=merged(by_name(owner.limits if owner else ()), by_name(limits), remove_limit, what="limit").values(),
            metadata=merged(owner.metadata if owner else {}, values, remove_metadata, what="metadata"),
            **({"etag": etag} if etag else {}),
        )
    if json:
        print_json(change)
    else:
        _print_change("Set" if owner else "Created", change)
        _print_owner(change.owner)


@app.command()
def suspend(
    owner_id: OwnerId,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Deny all keys of an owner with KEY_DISABLED, until it is resumed."""
    with connect(address, token_file) as client:
        owner = _read(client, owner_id, tenant)
        change = _write(client, owner_id, owner, tenant, suspended=True)
    if json:
        print_json(change)
    else:
        _print_change("Suspended" if owner else "Created and suspended", change)


@app.command()
def resume(
    owner_id: OwnerId,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """Let the keys of a suspended owner work again."""
    with connect(address, token_file) as client:
        owner = client.get_owner(owner_id, tenant_id=tenant or None)
        change = _write(client, owner_id, owner, tenant, suspended=False)
    if json:
        print_json(change)
    else:
        _print_change("Resumed", change)


@app.command("revoke-keys")
def revoke_keys(
    owner_id: OwnerId,
    reason: Why = None,
    comment: Comment = "",
    yes: Yes = False,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """End all keys of an owner for good."""
    with connect(address, token_file) as client:
        if not yes:
            confirm(f"Revoke all keys of {owner_id}?")
        revoked = client.revoke_keys(owner_id, reason=revoke_reason(reason), comment=comment, tenant_id=tenant or None)
    if json:
        print_json(revoked)
        return
    count = len(revoked.key_ids)
    print_text(f"Revoked {count} key{'' if count == 1 else 's'} of {owner_id}.", style="bold")
    for key_id in revoked.key_ids:
        print_text(f"  {key_id}")
    if count:
        print_effect(revoked.propagation, revoked.effective_at, everywhere="No verification from now on is allowed.")


def _read(client: Client, owner_id: str, tenant: str) -> Owner | None:
    """What is known of the owner. None if it was never set: it may have keys all the same."""
    try:
        return client.get_owner(owner_id, tenant_id=tenant or None)
    except NotFound:
        return None


def _write(client: Client, owner_id: str, owner: Owner | None, tenant: str, **changes: Any) -> OwnerChange:
    """Replaces the owner by what was read of it with these changes, unless somebody else changed it meanwhile."""
    present: dict[str, Any] = {}
    if owner:
        present = {
            "display_name": owner.display_name,
            "limits": owner.limits,
            "suspended": owner.suspended,
            "metadata": owner.metadata,
            "etag": owner.etag,
        }
    return client.set_owner(owner_id, **present | changes, tenant_id=tenant or None)


def _print_change(done: str, change: OwnerChange) -> None:
    print_text(f"{done} {change.owner.owner_id} at revision {change.revision}.", style="bold")
    print_effect(change.propagation, change.effective_at)


def _print_owner(owner: Owner) -> None:
    print_details(
        {
            "owner": owner.owner_id,
            "tenant": owner.tenant_id,
            "name": owner.display_name,
            "suspended": "yes: all of its keys are denied" if owner.suspended else "no",
            "limits": [f"{limit.name}: {describe(limit)} ({limit.kind})" for limit in owner.limits] or "none",
            "metadata": [f"{name}={value}" for name, value in owner.metadata.items()],
            "created": moment(owner.created_at),
            "updated": moment(owner.updated_at),
            "revision": str(owner.revision),
            "etag": owner.etag,
        }
    )
