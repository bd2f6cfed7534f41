"""Verifications: what is asked, and how to tell that it was allowed before and still is."""

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from tollkeeper_server.core.policy import Use
from tollkeeper_server.core.value import value
from tollkeeper_server.keys.lookup import SecretRecord

_NEVER = datetime.max.replace(tzinfo=UTC)


@value
class Verification:
    """The question: may this API key be used so, now, at this cost?"""

    api_key: str = field(repr=False)
    """As the end client sent it; empty if it sent none."""
    tenant_id: str | None
    """Only this tenant's keys are known; None knows every tenant's."""
    use: Use
    charges: Mapping[str, int]
    """Amount by unit; empty charges nothing and looks at no limit."""
    consume: bool = True
    """False decides as if the charge were made, charges nothing and leaves no trace in the usage."""
    reserve: bool = False
    """Hold the charge until it is settled."""
    keep: int = 0
    """To how many verifications like this one the answer may be given, this one included; 0 if it is not kept."""
    once_id: str = ""
    """Under it the key is charged once, however often it is asked; empty if the request named none."""
    by_caller: bool = False
    """The API key is that of a caller of this server: its use is noted, and counts as no verification."""
    min_revision: int = 0
    request_id: str = ""

    def is_charged_to(self, record: SecretRecord) -> bool:
        """Whether limits have a say: some sit on the key or its owner, or the answer is to be held or kept."""
        if not self.charges:
            return False
        owner = record.owner
        return bool(record.key.limits or (owner is not None and owner.limits) or self.reserve or self.keep)


class Precedent(NamedTuple):
    """A verification of which the rules allowed everything but the charge.

    They would again, for they look at nothing but the record and the time: as long as the directory still has, and may
    answer with, the very record that was found, and until that ends. It holds no API key, and no
    ids.
    """

    verification: Verification
    record: SecretRecord
    ends_at: datetime
    """When the key expires, or the overlap of its rotation is over."""
    is_charged: bool
    """Whether limits are left to be charged."""

    @classmethod
    def of(cls, verification: Verification, record: SecretRecord) -> "Precedent":
        """That the rules allow ``verification`` of the API key behind which ``record`` was found."""
        ends = [moment for moment in (record.expires_at, record.key.expires_at) if moment is not None]
        nameless = replace(verification, api_key="", request_id="", once_id="")
        return cls(nameless, record, min(ends, default=_NEVER), verification.is_charged_to(record))
