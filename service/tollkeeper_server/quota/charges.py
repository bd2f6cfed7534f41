"""What is charged to the counters of limits, and what they answer."""

import enum
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.rate_window import RateDemand, RateOutcome
from tollkeeper_server.core.windows import Window
from tollkeeper_server.usage.hashes import Counted


class RateScope(NamedTuple):
    """What a charge asks of the RATE limits of one key, or of one owner."""

    name: str
    """What their logs are kept under."""
    limits: tuple[str, ...]
    """Names of the limits."""
    demands: tuple[RateDemand, ...]
    """What is asked of each."""


class PoolDemand(NamedTuple):
    """What a charge asks of one QUOTA or SPEND limit."""

    name: str
    """What its pool is kept under."""
    account: str
    """Its account in the ledger."""
    amount: int
    units: int
    shadow: bool
    window: Window


class Charge(NamedTuple):
    """A charge to limits: to all of them, or to none. The names of all its parts share a hash tag."""

    scopes: tuple[RateScope, ...]
    consume: bool
    """False decides as if the charge were made, and charges nothing."""
    pools: tuple[PoolDemand, ...] = ()
    record: str = ""
    """What the charge is remembered under, so that it is made once; empty if it is not."""
    times_max: int = 1
    """How often it may be made at once, for an answer that is kept; only with ``consume``."""
    lead_us: int = 0
    """How much later its units may be used, if it is made more than once."""
    counted: Counted | None = None
    """What it adds to usage, if it is made."""

    @property
    def needs_epoch(self) -> bool:
        """Whether the store must not have lost what it counts for this."""
        return bool(self.pools) or self.counted is not None


class Verdict(enum.Enum):
    """What came of a charge."""

    DENIED = 0
    ADMITTED = 1
    LACKING = 2
    """Pools must be refilled first; nothing was charged."""
    MOVED = 3
    """A window was not the one that the store's clock is in; nothing was charged."""
    REPLAYED = 4
    """Admitted and charged before."""


class PoolStanding(NamedTuple):
    """Where one QUOTA or SPEND limit stands after the charge or, where nothing was charged, as it is."""

    used: int
    """-1 if there is no pool."""
    exceeded: bool
    generation: int
    """Which pool of its account this is; -1 if there is none."""
    received: int
    """Units that the pool has got so far."""
    left: int
    """Units that it still holds."""


class ChargeAnswer(NamedTuple):
    """What the store says to a charge, or to several that are told the same."""

    verdict: Verdict
    now_us: int
    """The store's time."""
    rates: RateOutcome
    """One standing for each RATE limit; it also says whether the charge was admitted, and when it would be."""
    pools: tuple[PoolStanding, ...]
    used_until_us: int = 0
    """When the last of its units is used, if it was made more than once: ``rates.times`` times."""


class Told(NamedTuple):
    """What some of many charges are told, which is the same."""

    positions: Sequence[int]
    answer: ChargeAnswer | Unavailable


class Grant(NamedTuple):
    """A block of units, debited from the ledger, on its way to a pool."""

    name: str
    generation: int
    makes_pool: bool
    units: int
    debited: int
    """What the ledger stands at, of which ``revision`` tells old from new."""
    revision: int
    ends_us: int
    expires_us: int
    """From when on, by the store's clock, the grant is void."""


def home(charge: Charge) -> str:
    """A name that tells the slot of the charge."""
    return charge.scopes[0].name if charge.scopes else charge.pools[0].name


def alike(charges: Sequence[Charge]) -> list[list[int]]:
    """Positions of charges that can be made together, for they are the same but for their records.

    Only the very same parts are taken for the same: whoever makes a charge often keeps them. The charges of answers
    that are kept stay by themselves, as each is made as often as fits.
    """
    groups: dict[Hashable, list[int]] = {}
    for position, charge in enumerate(charges):
        groups.setdefault(_likeness(charge, position), []).append(position)
    return list(groups.values())


def _likeness(charge: Charge, position: int) -> Hashable:
    if charge.times_max > 1:
        return "kept", position
    if charge.record:
        return charge.consume, id(charge.scopes), id(charge.pools), id(charge.counted)
    return id(charge)
