"""How many calls are taken on at once, and which are refused first when they are too many.

A call that waits for a store costs little, but thousands that wait for a slow one cost memory, and their answers come
too late. So what can wait is refused while there is still room for what cannot: first management, then quota checks,
then verifications. What ends a key counts with these: a leaked one may be what makes the load.
"""

from datetime import timedelta

from tollkeeper_server.core.errors import ResourceExhausted

CALLS_MAX = 2_000
RETRY_AFTER = timedelta(seconds=1)

_LAST = frozenset(
    {
        "Verify",
        "BatchVerify",
        "Settle",
        "Check",
        "ShouldRateLimit",
        "DisableKey",
        "RevokeKey",
        "RevokeKeys",
        "ReportLeakedKeys",
    }
)
"""Methods that are refused last."""
_SECOND = frozenset({"CheckQuota"})


class Admission:
    """Counts the unary calls under way in this process; streams bound what they take on by themselves."""

    __slots__ = ("_calls_max", "under_way")

    def __init__(self, calls_max: int = CALLS_MAX) -> None:
        self._calls_max = calls_max
        self.under_way = 0

    def room_for(self, method: str) -> int:
        """So many calls may be under way, of all methods together, for one of ``method`` to be taken on."""
        if method in _LAST:
            return self._calls_max
        return self._calls_max * 3 // 4 if method in _SECOND else self._calls_max // 2


def overloaded() -> ResourceExhausted:
    """Why a call is not taken on."""
    return ResourceExhausted("too many calls are under way", reason="OVERLOADED", retry_after=RETRY_AFTER)
