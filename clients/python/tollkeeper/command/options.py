"""Options that several commands take, and how their texts are read."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from tollkeeper import Limit, LimitKind, RevokeReason
from tollkeeper.command.limits import limit_parser, parse_duration

V = TypeVar("V")


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


def parse_past(text: str) -> datetime:
    """A time, or a length of time before now, as ``24h``. Raises typer.BadParameter."""
    if text[:4].isdecimal() and "-" in text:
        return parse_time(text)
    return now_less(parse_duration(text))


def now_less(length: timedelta) -> datetime:
    """So long ago. Raises typer.BadParameter for what was before the calendar."""
    try:
        return datetime.now(UTC) - length
    except OverflowError:
        raise typer.BadParameter(f"{length.days} days is too long") from None


def now_plus(length: timedelta) -> datetime:
    """So far from now. Raises typer.BadParameter for what is beyond the calendar."""
    return now_less(-length)


Words = list[str] | None
Limits = list[Limit] | None

Rate = Annotated[
    Limits, typer.Option(parser=limit_parser(LimitKind.RATE), metavar="LIMIT", help="How fast, at most. See below.")
]
Quota = Annotated[
    Limits, typer.Option(parser=limit_parser(LimitKind.QUOTA), metavar="LIMIT", help="How much, at most. See below.")
]
Spend = Annotated[
    Limits, typer.Option(parser=limit_parser(LimitKind.SPEND), metavar="LIMIT", help="How much money. See below.")
]
Metadata = Annotated[Words, typer.Option(metavar="NAME=VALUE", help="What is kept with it. Repeat for more.")]
RemoveLimit = Annotated[Words, typer.Option(metavar="NAME", help="Remove this limit. Repeat for more.")]
RemoveMetadata = Annotated[Words, typer.Option(metavar="NAME", help="Remove this metadata. Repeat for more.")]
ExpiresAt = Annotated[
    datetime | None, typer.Option(parser=parse_time, metavar="TIME", help="When it ends, as 2027-01-31T12:00:00Z.")
]
Ttl = Annotated[
    timedelta | None, typer.Option(parser=parse_duration, metavar="LENGTH", help="The same from now: 12h, 30d.")
]
Tenant = Annotated[str, typer.Option(metavar="TENANT", help="Whose, if not your own; for root keys.")]
RequestId = Annotated[str, typer.Option(metavar="ID", help="Makes the command safe to repeat.")]
Etag = Annotated[str, typer.Option(metavar="ETAG", help="Change nothing if it has another etag by now.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the API key and nothing else.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Why = Annotated[Reason | None, typer.Option(help="Why.")]
Comment = Annotated[str, typer.Option(metavar="TEXT", help="Why, in words; kept in the audit log.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID")]


def revoke_reason(reason: Reason | None) -> RevokeReason:
    """The reason for the client; UNSPECIFIED for none."""
    return RevokeReason[reason.name] if reason else RevokeReason.UNSPECIFIED


def limits_of(*given: Limits) -> list[Limit]:
    """All limits that were given. Raises typer.TyperException if two have the same name."""
    limits = [limit for each in given for limit in each or ()]
    names = [limit.name for limit in limits]
    for name in names:
        if names.count(name) > 1:
            raise typer.TyperException(f"two limits are called {name}: write NAME=AMOUNT/WINDOW")
    return limits


def pairs_of(texts: Words) -> dict[str, str]:
    """Values by name of ``NAME=VALUE`` texts. Raises typer.BadParameter."""
    pairs = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def words_of(texts: list[str]) -> list[str]:
    """The words that replace others; none for a single empty one."""
    return [] if texts == [""] else texts


def merged(present: Mapping[str, V], given: Mapping[str, V], removed: Words, *, what: str) -> dict[str, V]:
    """What there is by name, with what is given in its place or added. Raises typer.TyperException for what is not."""
    for name in removed or ():
        if name not in present:
            raise typer.TyperException(f"there is no {what} {name} to remove")
    return {name: value for name, value in (*present.items(), *given.items()) if name not in (removed or ())}


def by_name(limits: Iterable[Limit]) -> dict[str, Limit]:
    """Limits by their names."""
    return {limit.name: limit for limit in limits}


def group(name: str, help_text: str) -> typer.Typer:
    """A group of commands that shows its help if none of them is named."""
    app = typer.Typer(name=name, help=help_text, rich_markup_mode=None)

    def show(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    app.callback(invoke_without_command=True)(show)
    return app
