"""Leases: permission to answer from memory for a short time, so that a change needs to wait no longer than that.

After Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file cache consistency" (1989).
The holder counts from the moment it *sent* the renewal, the grantor from the moment it *granted* it, which is later; so
the holder stops first, as long as its clock does not run slower than the grantor's by more than ``DRIFT``. Times are
seconds of a clock that never jumps and runs on while the machine sleeps (``CLOCK_BOOTTIME``), read after the question
to be answered arrived: a process that was paused finds its lease over.
"""

DRIFT = 0.01
"""Part of a lease given up to clocks that run at different speeds."""


class Lease:
    """When the holder must stop to answer alone. A new lease has ended already."""

    __slots__ = ("_ends_at",)

    def __init__(self) -> None:
        self._ends_at = float("-inf")

    def renew(self, *, sent_at: float, seconds: float) -> None:
        """Take a grant of ``seconds`` that was asked for at ``sent_at``; a late answer never shortens the lease."""
        self._ends_at = max(self._ends_at, sent_at + seconds * (1 - DRIFT))

    def end(self) -> None:
        """Give the lease up at once."""
        self._ends_at = float("-inf")

    def holds(self, now: float) -> bool:
        """Whether an answer from memory is permitted at ``now``."""
        return now < self._ends_at

    def left(self, now: float) -> float:
        """Seconds that the lease still holds; 0 if it ended."""
        return max(0.0, self._ends_at - now)
