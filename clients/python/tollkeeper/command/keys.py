"""``tollkeeper keys``: the life of a key."""

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from tollkeeper import Client, KeyState, Limit, LimitKind, RevokeReason
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.limits import GRAMMAR, limit_parser, parse_duration
from tollkeeper.command.output import Json, complain, print_json, print_text
from tollkeeper.command.subject import SUBJECT_HELP, read_subject
from tollkeeper.command.views import print_created, print_key, print_keys, print_revoked

app = typer.Typer(name="keys", help="Create, read, list and revoke keys.", rich_markup_mode=None)

Words = list[str] | None
Limits = list[Limit] | None
Tenant = Annotated[str, typer.Option(metavar="TENANT", help="Whose keys; for root keys.")]


class State(StrEnum):
    """States to filter by, as people write them."""

    ACTIVE = "active"
    DISABLED = "disabled"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Reason(StrEnum):
    """Reasons, as people write them."""

    COMPROMISED = "compromised"
    SUPERSEDED = "superseded"
    UNUSED = "unused"
    OWNER_LEFT = "owner-left"
    POLICY_VIOLATION = "policy-violation"


def parse_time(text: str) -> datetime:
    """A time in RFC 3339, in UTC if it names no zone. Raises typer.BadParameter."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time, as 2027-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@app.callback(invoke_without_command=True)
def keys(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog=GRAMMAR)
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
    rate: Annotated[
        Limits,
        typer.Option(parser=limit_parser(LimitKind.RATE), metavar="LIMIT", help="How fast, at most. See below."),
    ] = None,
    quota: Annotated[
        Limits,
        typer.Option(parser=limit_parser(LimitKind.QUOTA), metavar="LIMIT", help="How much, at most. See below."),
    ] = None,
    spend: Annotated[
        Limits,
        typer.Option(parser=limit_parser(LimitKind.SPEND), metavar="LIMIT", help="How much money. See below."),
    ] = None,
    metadata: Annotated[
        Words, typer.Option(metavar="NAME=VALUE", help="What verifications tell about it. Repeat for more.")
    ] = None,
    expires_at: Annotated[
        datetime | None, typer.Option(parser=parse_time, metavar="TIME", help="When it ends, as 2027-01-31T12:00:00Z.")
    ] = None,
    ttl: Annotated[
        timedelta | None,
        typer.Option(parser=parse_duration, metavar="LENGTH", help="The same from now: 12h, 30d."),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Start of the API key, instead of tk.")] = "",
    length: Annotated[int, typer.Option(metavar="N", help="Characters of the whole API key.", show_default=False)] = 0,
    request_id: Annotated[str, typer.Option(metavar="ID", help="Makes the command safe to repeat.")] = "",
    tenant: Tenant = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the API key and nothing else.")] = False,
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
            limits=_unique([*(rate or ()), *(quota or ()), *(spend or ())]),
            metadata=dict(_pair(text) for text in metadata) if metadata else None,
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


@app.command()
def get(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID")],
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


@app.command("list")
def list_(
    owner: Annotated[str, typer.Option(metavar="OWNER", help="Keys of this owner.")] = "",
    environment: Annotated[str, typer.Option(metavar="LABEL", help="Keys of this environment.")] = "",
    state: Annotated[State | None, typer.Option(help="Keys in this state.")] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Keys whose API key has this prefix.")] = "",
    maximum: Annotated[int, typer.Option("--max", metavar="N", min=1, help="Show so many at most.")] = 100,
    tenant: Tenant = "",
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """List keys, newest first."""
    with connect(address, token_file) as client:
        found = client.list_keys(
            owner_id=owner,
            environment=environment,
            state=KeyState[state.name] if state else KeyState.UNSPECIFIED,
            prefix=prefix,
            page_size=min(maximum + 1, 1000),
            tenant_id=tenant or None,
        )
        keys = list(islice(found, maximum + 1))
    more = len(keys) > maximum
    del keys[maximum:]
    if json:
        print_json({"keys": keys, "more": more})
        return
    if not keys:
        print_text("No keys.")
        return
    print_keys(keys)
    if more:
        sys.stderr.write(f"There are more than these {maximum}: raise --max.\n")


@app.command()
def revoke(
    subject: Annotated[str, typer.Argument(metavar="KEY", help=SUBJECT_HELP)],
    reason: Annotated[Reason | None, typer.Option(help="Why.")] = None,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="Why, in words; kept in the audit log.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """End a key for good, by its key id or by possession of its API key."""
    key_id, api_key = read_subject(subject)
    with connect(address, token_file) as client:
        if not yes:
            _confirm_revocation(client, key_id)
        revoked = client.revoke_key(
            key_id,
            api_key=api_key,
            reason=RevokeReason[reason.name] if reason else RevokeReason.UNSPECIFIED,
            comment=comment,
        )
    if json:
        print_json(revoked)
    else:
        print_revoked(revoked)


def _confirm_revocation(client: Client, key_id: str | None) -> None:
    if not sys.stdin.isatty():
        raise typer.TyperException("revoking cannot be undone: confirm with --yes where nobody can be asked")
    key = client.get_key(key_id) if key_id else None
    what = f"{key.key_id} ({key.name or key.api_key_hint})" if key else "the key of this API key"
    if not typer.confirm(f"Revoke {what}? This cannot be undone.", err=True):
        raise typer.Exit(complain("not revoked", code=1))


def _unique(limits: list[Limit]) -> list[Limit]:
    names = [limit.name for limit in limits]
    for name in names:
        if names.count(name) > 1:
            raise typer.TyperException(f"two limits are called {name}: write NAME=AMOUNT/WINDOW")
    return limits


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value
