"""What is made of an object that stays in memory is made once, and found by which object it is."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from tollkeeper_server.core.bounded import Bounded

Value = TypeVar("Value")


class MadeOnce(Generic[Value]):
    """Values by the very object that they were made of, and by what else went into them. Bounded, oldest out first."""

    def __init__(self, *, values_max: int) -> None:
        self._made = Bounded[tuple[Hashable, ...], tuple[object, Value]](values_max)

    def __len__(self) -> int:
        return len(self._made)

    def get(self, source: object, *more: Hashable) -> Value | None:
        """What was made of ``source`` and ``more``, and is still remembered."""
        made = self._made.get((id(source), *more))
        return made[1] if made is not None and made[0] is source else None

    def put(self, value: Value, source: object, *more: Hashable) -> Value:
        """Remember ``value``, made of ``source`` and ``more``, and give it."""
        self._made.put((id(source), *more), (source, value))  # to hold the source keeps its id from being another's
        return value
