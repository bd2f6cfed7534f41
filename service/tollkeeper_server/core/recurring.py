"""What recurs: values that are worth remembering only for what comes again."""

from typing import Generic, TypeVar

from tollkeeper_server.core.bounded import Bounded

Value = TypeVar("Value")


class Recurring(Generic[Value]):
    """Values by place, for places that were seen before. Bounded; what was stored, or seen, longest ago goes first.

    So what never recurs costs no more than a look and a note of its place.
    """

    def __init__(self, *, values_max: int, seen_max: int) -> None:
        self._values = Bounded[bytes, Value](values_max)
        self._seen = Bounded[bytes, None](seen_max)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, place: bytes) -> Value | None:
        """The value that is remembered at ``place``."""
        return self._values.get(place)

    def recurs(self, place: bytes) -> bool:
        """Whether ``place`` was seen before; now it was."""
        if place in self._seen:
            return True
        self._seen.put(place, None)
        return False

    def put(self, place: bytes, value: Value) -> None:
        """Remember ``value`` at ``place``, instead of what was there."""
        self._values.put(place, value)
