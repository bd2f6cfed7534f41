"""Memory of a bounded size, for what can be made anew."""

from collections.abc import Hashable
from typing import TypeVar

Place = TypeVar("Place", bound=Hashable)
Value = TypeVar("Value")


class Bounded(dict[Place, Value]):
    """A dict of at most ``at_most`` values, if they are stored with ``put``; what was stored longest ago goes first."""

    def __init__(self, at_most: int) -> None:
        super().__init__()
        self._at_most = at_most

    def put(self, place: Place, value: Value) -> Value:
        """Store ``value`` at ``place``, instead of what was there, and give it."""
        self.pop(place, None)
        if len(self) >= self._at_most:
            del self[next(iter(self))]
        self[place] = value
        return value
