"""One call, as everything that it passes through knows it."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from tollkeeper_server.api.metadata import Metadata
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.decision import DecisionCode


class Call:
    """One call under way: what its handler may know of it, and what the access log will tell."""

    __slots__ = (
        "_caller",
        "address",
        "code",
        "decision",
        "draining",
        "ended_at",
        "metadata",
        "method",
        "place",
        "readmit",
        "reason",
        "request_id",
        "seconds",
        "started",
        "verifications",
    )

    draining: asyncio.Event
    """Of streams: set once the server is about to go. A stream then finishes what was asked of it, and ends."""
    readmit: Callable[[], Coroutine[Any, Any, None]]
    """Of streams: makes sure that the caller may still call, and raises as at the beginning if not. A stream lives on
    while its caller's key is revoked, so it asks again before each answer."""
    ended_at: float

    def __init__(self, method: str, address: str) -> None:
        self.started = perf_counter()
        self.method = method
        self.address = address
        """Network address that the call comes from; empty if it has none."""
        self.request_id = ""
        self.code = "OK"
        self.reason = ""
        self.seconds = 0.0
        """How long it took, once it has ended."""
        self.decision: DecisionCode | None = None
        """What Verify decided."""
        self.verifications = 0
        """How many came in batches."""
        self.metadata: Metadata = ()
        """What came with it."""
        self.place: bytes | None = None
        """Where to remember it, if that is worth while; see ``Repeats``."""
        self._caller: Caller | None = None

    @property
    def caller(self) -> Caller:
        """Who calls; no handler runs before that is known."""
        assert self._caller is not None
        return self._caller

    @caller.setter
    def caller(self, caller: Caller) -> None:
        self._caller = caller

    def names(self) -> dict[str, str]:
        """What tells it from others."""
        names = {"request_id": self.request_id}
        if self._caller is not None:
            names |= {"caller": self._caller.name, "tenant": self._caller.tenant_id}
        return names

    def log_fields(self) -> dict[str, Any]:
        """What is told of it once it has ended: what was known of it by then, and only that."""
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(self.ended_at, UTC),
            "method": self.method,
            "code": self.code,
            "duration_ms": round(self.seconds * 1000, 3),
            "peer": self.address,
            **self.names(),
        }
        if self.decision is not None:
            fields["decision"] = self.decision.value
        if self.verifications:
            fields["verifications"] = self.verifications
        if self.reason:
            fields["reason"] = self.reason
        return fields
