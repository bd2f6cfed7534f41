"""What requests may contain, said as values: a rule per field, a ``Rules`` table per message.

A rule takes a field's value and returns its problems: none, or pairs of where (below the field) and what is allowed.
No text repeats what was sent, so that a secret in the wrong field stays out of errors and logs.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tollkeeper_server.core.errors import InvalidArgument, Violation

Problems = Sequence[tuple[str, str]]
Rule = Callable[[Any], Problems]

NONE: Problems = ()
_BYTES_PER_CHARACTER_MAX = 4
_NANOS_PER_SECOND = 10**9
_TIMESTAMP_SECONDS = (-62_135_596_800, 253_402_300_799)  # years 1 to 9999


class Rules:
    """The rules of one message: one for each field, and some for fields that depend on each other.

    A field that knows its absence is looked at only where it is there.
    """

    def __init__(self, message: type[Message], fields: Mapping[str, Rule], *, across: Sequence[Rule] = ()) -> None:
        known = message.DESCRIPTOR.fields_by_name
        empty = message()
        self.message = message
        self.names = frozenset(fields)
        self._by_number = {known[name].number: (name, rule) for name, rule in fields.items()}
        self._required = [
            (name, rule(getattr(empty, name)))
            for name, rule in fields.items()
            if not known[name].has_presence and rule(getattr(empty, name))
        ]
        self._across = tuple(across)

    def problems(self, message: Message) -> Problems:
        """Every problem of the message, with its path from the message."""
        found: list[tuple[str, str]] = []
        for field, value in message.ListFields():  # most requests leave most fields out
            name, rule = self._by_number[field.number]
            if problems := rule(value):
                found += _below(name, problems)
        for name, problems in self._required:
            if not getattr(message, name):
                found += _below(name, problems)
        for rule in self._across:
            found += rule(message)
        return found

    def check(self, message: Message, *, at: str = "") -> None:
        """Raise InvalidArgument with every violation of the message, which itself is found ``at`` the request."""
        if problems := self.problems(message):
            raise InvalidArgument([Violation(at + path, allowed) for path, allowed in problems])


def anything(_: Any) -> Problems:
    """For fields whose type says all that there is to say."""
    return NONE


def text(*, at_most: int) -> Rule:
    """Free text of so many characters."""
    problem = (("", f"must be at most {at_most} characters, none of them NUL"),)
    return lambda value: problem if len(value) > at_most or "\0" in value else NONE


def matching(pattern: str, allowed: str, *, or_empty: bool = False) -> Rule:
    """Text that matches ``pattern`` as a whole."""
    matches = re.compile(pattern).fullmatch
    problem = (("", allowed + (", or empty" if or_empty else "")),)
    if or_empty:
        return lambda value: NONE if not value or matches(value) else problem
    return lambda value: NONE if matches(value) else problem


def at_most_bytes(bound: int, *, at_least: int = 0) -> Rule:
    """Text of so many bytes in UTF-8."""
    problem = (("", f"must be {at_least} to {bound} bytes"),)
    always_fits = bound // _BYTES_PER_CHARACTER_MAX

    def rule(value: str) -> Problems:
        if at_least <= len(value) <= always_fits or at_least <= len(value.encode()) <= bound:
            return NONE
        return problem

    return rule


def between(lowest: int, highest: int) -> Rule:
    """A whole number within bounds, both included."""
    problem = (("", f"must be {lowest} to {highest}"),)
    return lambda value: NONE if lowest <= value <= highest else problem


def one_of(numbers: Iterable[int], allowed: str) -> Rule:
    """One of the numbers of an enum."""
    known = frozenset(numbers)
    problem = (("", f"must be {allowed}"),)
    return lambda value: NONE if value in known else problem


def each(rule: Rule, *, at_most: int, at_least: int = 0) -> Rule:
    """So many items, each of which follows ``rule``."""
    problem = (("", f"must be {at_least} to {at_most} items"),)

    def check(values: Sequence[Any]) -> Problems:
        if not at_least <= len(values) <= at_most:
            return problem
        return [(f"[{index}]{path}", allowed) for index, value in enumerate(values) for path, allowed in rule(value)]

    return check


def nested(rules: Rules) -> Rule:
    """A message that follows its own rules."""
    return lambda message: [(f".{path}", allowed) for path, allowed in rules.problems(message)]


def span(*, shortest_seconds: int, longest_seconds: int, allowed: str, whole_seconds: bool = False) -> Rule:
    """A span of time within bounds, both included; to the second where asked for."""
    problem = (("", allowed),)

    def rule(value: Duration) -> Problems:
        nanos = value.seconds * _NANOS_PER_SECOND + value.nanos
        valid = abs(value.nanos) < _NANOS_PER_SECOND and value.seconds * value.nanos >= 0
        within = shortest_seconds * _NANOS_PER_SECOND <= nanos <= longest_seconds * _NANOS_PER_SECOND
        return NONE if valid and within and not (whole_seconds and value.nanos) else problem

    return rule


def moment(value: Timestamp) -> Problems:
    """A moment that a calendar knows."""
    earliest, latest = _TIMESTAMP_SECONDS
    if earliest <= value.seconds <= latest and 0 <= value.nanos < _NANOS_PER_SECOND:
        return NONE
    return (("", "must be a moment in the years 1 to 9999"),)


def exactly_one(oneof: str, allowed: str) -> Rule:
    """One member of the oneof is given."""
    problem = ((oneof, f"must be exactly one of {allowed}"),)
    return lambda message: NONE if message.WhichOneof(oneof) else problem


def _below(name: str, problems: Problems) -> Problems:
    return [(name + path, allowed) for path, allowed in problems]
