"""Keys as people see them."""

import typer

from tollkeeper import CreatedKey, Key, KeyChange, Propagation
from tollkeeper.command.limits import describe
from tollkeeper.command.output import moment, print_details, print_table, print_text


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


def print_revoked(revoked: KeyChange) -> None:
    """Prints what became of a key that was revoked."""
    print_text(f"Revoked {revoked.key.key_id} at revision {revoked.revision}.", style="bold")
    if revoked.propagation is Propagation.EVERYWHERE:
        print_text("No verification from now on is allowed.")
    else:
        print_text(f"It is dead everywhere from {moment(revoked.effective_at)} on.")


def print_keys(keys: list[Key]) -> None:
    """Prints keys, one a line."""
    print_table(
        ("KEY ID", "NAME", "OWNER", "ENVIRONMENT", "API KEY", "STATE", "EXPIRES", "LAST USED"),
        [
            (
                key.key_id,
                key.name,
                key.owner_id,
                key.environment,
                key.api_key_hint,
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
        "expires": moment(key.expires_at) or "never",
        "revoked": revoked,
        "last used": moment(key.last_used_at),
        "revision": str(key.revision),
    }
