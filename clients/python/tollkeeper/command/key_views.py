"""Keys as people see them."""

from datetime import datetime

import typer

from tollkeeper import CreatedKey, EnabledKey, Key, KeyChange, Propagation, RotatedKey
from tollkeeper.command.limits import describe
from tollkeeper.command.output import moment, print_details, print_table, print_text

HOLDS = "In effect everywhere."


def print_key(key: Key) -> None:
    """Prints the record of a key."""
    print_details(_details(key))


def print_created(created: CreatedKey) -> None:
    """Prints a new key: its record, and last, alone on its line, the API key."""
    print_text(f"Created {created.key.key_id}.", style="bold")
    print_details(_details(created.key) | {"fingerprint": f"sha256 {created.fingerprint}"})
    print_text("")
    print_text("The API key, shown this once:", style="bold")
    print_text("")
    typer.echo(created.api_key)


def print_rotated(rotated: RotatedKey) -> None:
    """Prints a key that was rotated, when the earlier API key ends, and last, alone on its line, the new one."""
    print_text(f"Rotated {rotated.key.key_id} at revision {rotated.revision}.", style="bold")
    if rotated.key.rotation:
        print_text(f"The earlier API key works until {moment(rotated.key.rotation.overlap_ends_at)}.")
    else:
        print_effect(rotated.propagation, rotated.effective_at, everywhere="The earlier API key works no more.")
    print_details({"api key": rotated.key.api_key_hint, "fingerprint": f"sha256 {rotated.fingerprint}"})
    print_text("")
    print_text("The new API key, shown this once:", style="bold")
    print_text("")
    typer.echo(rotated.api_key)


def print_key_change(done: str, change: KeyChange, *, everywhere: str = HOLDS, details: bool = False) -> None:
    """Prints what was done to a key, and since when that holds."""
    print_text(f"{done} {change.key.key_id} at revision {change.revision}.", style="bold")
    print_effect(change.propagation, change.effective_at, everywhere=everywhere)
    if details:
        print_details(_details(change.key))


def print_enabled(enabled: EnabledKey) -> None:
    """Prints that a key was switched on."""
    print_text(f"Enabled {enabled.key.key_id} at revision {enabled.revision}.", style="bold")


def print_effect(propagation: Propagation, effective_at: datetime | None, *, everywhere: str = HOLDS) -> None:
    """Prints since when a change holds."""
    if propagation is Propagation.EVERYWHERE:
        print_text(everywhere)
    else:
        print_text(f"Not confirmed everywhere yet: in effect from {moment(effective_at)} on.", style="yellow")


def print_keys(keys: list[Key]) -> None:
    """Prints keys, one a line."""
    print_table(
        ("KEY ID", "NAME", "OWNER", "ENVIRONMENT", "API KEY", "MADE", "STATE", "EXPIRES", "LAST USED"),
        [
            (
                key.key_id,
                key.name,
                key.owner_id,
                key.environment,
                key.api_key_hint,
                f"{key.api_key_created_at:%Y-%m-%d}" if key.api_key_created_at else "",
                key.state.value,
                f"{key.expires_at:%Y-%m-%d}" if key.expires_at else "",
                f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "",
            )
            for key in keys
        ],
    )


def _details(key: Key) -> dict[str, str | list[str]]:
    revoked = f"{moment(key.revoked_at)}, {key.revoke_reason}" if key.revoked_at else ""
    return {
        "key id": key.key_id,
        "tenant": key.tenant_id,
        "owner": key.owner_id,
        "name": key.name,
        "description": key.description,
        "environment": key.environment,
        "api key": key.api_key_hint,
        "state": key.state.value,
        "permissions": ", ".join(key.permissions),
        "resources": ", ".join(key.resources) or "all",
        "networks": ", ".join(key.allowed_cidrs) or "all",
        "limits": [f"{limit.name}: {describe(limit)} ({limit.kind})" for limit in key.limits] or "none",
        "metadata": [f"{name}={value}" for name, value in key.metadata.items()],
        "created": f"{moment(key.created_at)} by {key.created_by}",
        "api key made": moment(key.api_key_created_at),
        "expires": moment(key.expires_at) or "never",
        "revoked": revoked,
        "last used": moment(key.last_used_at),
        "rotation": _rotation(key),
        "revision": str(key.revision),
        "etag": key.etag,
    }


def _rotation(key: Key) -> list[str]:
    if key.rotation is None:
        return []
    used = f", last used {moment(key.rotation.old_last_used_at)}" if key.rotation.old_last_used_at else ""
    return [f"the earlier API key works until {moment(key.rotation.overlap_ends_at)}{used}"]
