"""What every middleware does: find the API key, ask, and refuse whatever is not ALLOWED."""

import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from tollkeeper._async.client import AsyncClient
from tollkeeper._decisions import Decision, DecisionCode, Settlement
from tollkeeper._errors import CallError
from tollkeeper._limits import LimitState

API_KEY_LENGTH_MAX = 4096
UNDECIDED = "UNAVAILABLE"
RETRY_AFTER = timedelta(seconds=1)
"""When to come back if the service that could not be asked does not say."""

AUTHORIZATION = "authorization"
_BEARER = "bearer "

_log = logging.getLogger("tollkeeper.middleware")
_current: ContextVar[tuple[Decision, AsyncClient]] = ContextVar("tollkeeper_decision")
"""By which the request under way was let in, and who decided it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a request needs its API key for; the fields mean what they mean in ``AsyncClient.verify``."""

    resource: str = ""
    permissions: Sequence[str] = ()
    charges: Mapping[str, int] | None = field(default=None, hash=False)
    """Amount by unit; None charges one of ``requests``, an empty mapping nothing."""
    reserve: bool = False
    """Holds the charge until the handler calls :func:`settle`."""


class Refusal(enum.Enum):
    """Why a request is refused, as protocols tell it."""

    UNAUTHENTICATED = enum.auto()
    FORBIDDEN = enum.auto()
    LIMITED = enum.auto()
    UNDECIDED = enum.auto()


class Refused(Exception):
    """A request is not to be let through. Never carries an API key."""

    def __init__(
        self,
        refusal: Refusal,
        code: str,
        message: str,
        *,
        retry_after: timedelta | None = None,
        limits: Sequence[LimitState] = (),
    ) -> None:
        super().__init__(code, message)
        self.refusal = refusal
        self.code = code
        """The decision code; UNAVAILABLE if there is no decision."""
        self.message = message
        self.retry_after = retry_after
        self.limits = limits


_REFUSALS = {
    DecisionCode.KEY_MISSING: Refusal.UNAUTHENTICATED,
    DecisionCode.KEY_INVALID: Refusal.UNAUTHENTICATED,
    DecisionCode.KEY_REVOKED: Refusal.UNAUTHENTICATED,
    DecisionCode.KEY_DISABLED: Refusal.UNAUTHENTICATED,
    DecisionCode.KEY_EXPIRED: Refusal.UNAUTHENTICATED,
    DecisionCode.IP_DENIED: Refusal.FORBIDDEN,
    DecisionCode.RESOURCE_DENIED: Refusal.FORBIDDEN,
    DecisionCode.PERMISSION_DENIED: Refusal.FORBIDDEN,
    DecisionCode.RATE_LIMITED: Refusal.LIMITED,
    DecisionCode.QUOTA_EXCEEDED: Refusal.LIMITED,
    DecisionCode.SPEND_LIMIT_EXCEEDED: Refusal.LIMITED,
    DecisionCode.UNSPECIFIED: Refusal.FORBIDDEN,
}


class Source:
    """The client that decides: one that is given, or one that is made when it is first needed, and then owned."""

    def __init__(self, given: AsyncClient | Callable[[], AsyncClient]) -> None:
        self._given = given
        self._made: AsyncClient | None = None

    def client(self) -> AsyncClient:
        """The client; call it in the event loop that serves."""
        if isinstance(self._given, AsyncClient):
            return self._given
        if self._made is None:
            self._made = self._given()
        return self._made

    async def close(self) -> None:
        """Close the client if it was made here."""
        made, self._made = self._made, None
        if made is not None:
            await made.close()


async def admit(client: AsyncClient, api_key: str, needs: Needs, *, client_ip: str | None) -> Decision:
    """The ALLOWED decision, which is the current one from now on. Raises Refused for everything else."""
    if not api_key:
        raise Refused(Refusal.UNAUTHENTICATED, DecisionCode.KEY_MISSING, "an API key is needed")
    if len(api_key) > API_KEY_LENGTH_MAX or not api_key.isascii() or not api_key.isprintable():
        raise Refused(Refusal.UNAUTHENTICATED, DecisionCode.KEY_INVALID, "the API key is not valid")
    try:
        decision = await client.verify(
            api_key,
            resource=needs.resource,
            permissions=needs.permissions,
            client_ip=client_ip,
            charges=needs.charges,
            reserve=needs.reserve,
        )
    except CallError as error:
        _log.warning("an API key could not be checked, and its request is refused: %s", error)
        raise Refused(
            Refusal.UNDECIDED,
            UNDECIDED,
            "the API key could not be checked; try again later",
            retry_after=error.retry_after or RETRY_AFTER,
        ) from None
    if not decision.allowed:
        raise Refused(
            _REFUSALS.get(decision.code, Refusal.FORBIDDEN),
            decision.code,
            decision.message,
            retry_after=decision.retry_after,
            limits=decision.limits,
        )
    _current.set((decision, client))
    return decision


def current_decision() -> Decision:
    """The decision by which the request under way was let in.

    Raises LookupError outside of such a request, and where no API key was needed.
    """
    return _current.get()[0]


async def settle(charges: Mapping[str, int]) -> Settlement:
    """Replaces what was held for the request under way, which ``reserve`` asked for, by what was really used.

    Raises LookupError if there is no such request, ValueError if nothing was held for it, and what
    ``AsyncClient.settle`` raises.
    """
    decision, client = _current.get()
    if not decision.reservation_id:
        raise ValueError("nothing is held for this request: it needs reserve=True")
    return await client.settle(decision.reservation_id, charges)


def shown_api_key(values: Sequence[str], *, header: str) -> str:
    """The API key among the values of ``header``, a lower-case name; empty unless there is exactly one.

    ``authorization`` carries it as ``Bearer <API key>``, any other header plain.
    """
    if len(values) != 1:
        return ""
    value = values[0]
    if header == AUTHORIZATION:
        if value[: len(_BEARER)].lower() != _BEARER:
            return ""
        value = value[len(_BEARER) :]
    return value.strip(" \t")


def client_address(peer: str | None, forwarded: Sequence[str], *, trusted_proxies: int) -> str | None:
    """The end client's IP address: of the peer, or what the outermost of so many trusted proxies added.

    ``forwarded`` are the values of ``x-forwarded-for``. None if there is none, or what should be one is not: keys that
    are bound to networks are denied then.
    """
    if trusted_proxies:
        addresses = [address for value in forwarded for address in value.split(",")]
        peer = addresses[-trusted_proxies] if len(addresses) >= trusted_proxies else None
    return None if peer is None else _address(peer.strip(" \t"))


@lru_cache(maxsize=4096)
def _address(text: str) -> str | None:
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return str(address)
