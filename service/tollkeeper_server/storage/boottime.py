"""The clock of leases."""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds since the machine started: never jumps, and runs on while the machine sleeps (where it can)."""
    return time.clock_gettime(_CLOCK)
