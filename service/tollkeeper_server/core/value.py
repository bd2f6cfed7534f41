"""Values that are made at every request."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """A dataclass that nobody may change, which the type checker sees to.

    At run time it is not frozen: to make a frozen one takes three times as long.
    """
    return dataclass(slots=True, kw_only=True)(cls)
