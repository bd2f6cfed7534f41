"""YAML documents read strictly: every fault is found in one go, with its file, its line and its remedy."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import yaml

T = TypeVar("T")

DOCUMENT_BYTES_MAX = 256 * 1024

_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER_TAG = "tag:yaml.org,2002:int"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong: where, what, and what to do about it."""

    file: str
    line: int
    """From 1."""
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Faulty(Exception):
    """Nothing was read, because of at least one fault; carries all that were found, in order of their places."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Value:
    """A node of a document that knows where it stands, and where to report what is wrong with it."""

    node: yaml.Node
    file: str
    faults: list[Fault]

    def fault(self, text: str) -> None:
        """Report that something is wrong here. ``text`` says what, and what to do."""
        self.faults.append(Fault(self.file, self.node.start_mark.line + 1, text))

    def beside(self, node: yaml.Node) -> "Value":
        """Another node of the same document."""
        return Value(node, self.file, self.faults)


Read = Callable[[Value], T]
"""Reads one value. What is wrong it reports, and gives any value of its type: nothing is built of a faulty document."""


def read_document(path: Path, read: Callable[[Value], T], *, name: str) -> T:
    """What ``read`` makes of the one YAML document in ``path``, which faults call ``name``.

    Raises Faulty if anything is wrong with it.
    """
    faults: list[Fault] = []
    node = _compose(path, name)
    document = read(Value(node, name, faults))
    if faults:
        raise Faulty(faults)
    return document


def _compose(path: Path, name: str) -> yaml.Node:
    try:
        content = path.read_bytes()
        if len(content) > DOCUMENT_BYTES_MAX:
            raise Faulty([Fault(name, 1, f"is larger than {DOCUMENT_BYTES_MAX} bytes; split it")])
        node = yaml.compose(content.decode(), Loader=_Loader)
    except OSError as error:
        raise Faulty([Fault(name, 1, f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise Faulty([Fault(name, 1, "is not UTF-8; save it as UTF-8")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Faulty([Fault(name, mark.line + 1 if mark else 1, f"is not YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise Faulty([Fault(name, 1, f"is not YAML: {str(error).splitlines()[0]}")]) from None
    if node is None:
        raise Faulty([Fault(name, 1, "is empty; describe a profile or remove the file")])
    return node


class Section:
    """A mapping whose keys are all known: whatever was not asked for inside the ``with`` block is a fault."""

    def __init__(self, value: Value) -> None:
        self._value = value
        self._entries: dict[str, Value] = {}
        self._names: dict[str, Value] = {}
        self._asked: list[str] = []
        if not isinstance(value.node, yaml.MappingNode):
            value.fault("must be a mapping of keys to values")
            return
        for name_node, node in value.node.value:
            name = str(name_node.value)
            if name in self._entries:
                value.beside(name_node).fault(f'"{name}" is given twice; keep one')
            self._entries[name] = value.beside(node)
            self._names[name] = value.beside(name_node)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def fault(self, text: str, *, at: str | None = None) -> None:
        """Report that something is wrong with the whole section, or ``at`` one of its keys."""
        self._names.get(at or "", self._value).fault(text)

    def need(self, name: str, read: Read[T], stand_in: T) -> T:
        """The value of a key that must be there; ``stand_in`` after a fault."""
        self._asked.append(name)
        if name in self._entries:
            return read(self._entries[name])
        if isinstance(self._value.node, yaml.MappingNode):
            self._value.fault(f'"{name}" is missing; add it')
        return stand_in

    def take(self, name: str, read: Read[T], default: T) -> T:
        """The value of a key that may be left out."""
        self._asked.append(name)
        return read(self._entries[name]) if name in self._entries else default

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, value in self._names.items():
            if name in self._asked:
                continue
            similar = difflib.get_close_matches(name, self._asked, n=1)
            remedy = f'did you mean "{similar[0]}"?' if similar else f"known are {', '.join(self._asked)}"
            value.fault(f'"{name}" is not known here; {remedy}')


def text(value: Value) -> str:
    """Any text."""
    if isinstance(value.node, yaml.ScalarNode):
        return str(value.node.value)
    value.fault("must be a text")
    return ""


def matching(pattern: str, allowed: str) -> Read[str]:
    """Text that matches ``pattern`` as a whole; ``allowed`` says in words what that is."""
    matches = re.compile(pattern).fullmatch

    def read(value: Value) -> str:
        if not isinstance(value.node, yaml.ScalarNode) or not matches(value.node.value):
            value.fault(f"must be {allowed}")
            return ""
        return str(value.node.value)

    return read


def one_of(*allowed: str) -> Read[str]:
    """One of the given words."""
    return matching("|".join(map(re.escape, allowed)), " or ".join(allowed))


def integer(lowest: int, highest: int) -> Read[int]:
    """A whole number within bounds, both included."""

    def read(value: Value) -> int:
        node = value.node
        digits = node.value if isinstance(node, yaml.ScalarNode) and node.tag == _INTEGER_TAG else ""
        if not re.fullmatch(r"-?[0-9]{1,19}", digits) or not lowest <= int(digits) <= highest:
            value.fault(f"must be a whole number from {lowest} to {highest}")
            return lowest
        return int(digits)

    return read


def boolean(value: Value) -> bool:
    """True or false, and no other word for them."""
    return one_of("true", "false")(value) == "true"


def sequence(read_item: Read[T], *, at_most: int, at_least: int = 0) -> Read[tuple[T, ...]]:
    """So many items, each read by ``read_item``."""

    def read(value: Value) -> tuple[T, ...]:
        node = value.node
        if not isinstance(node, yaml.SequenceNode) or not at_least <= len(node.value) <= at_most:
            value.fault(f"must be a list of {at_least} to {at_most} items")
            return ()
        return tuple(read_item(value.beside(item)) for item in node.value)

    return read


def mapping(read_name: Read[str], read_item: Read[T], *, at_most: int, at_least: int = 0) -> Read[Mapping[str, T]]:
    """So many entries with names of the writer's choice."""

    def read(value: Value) -> Mapping[str, T]:
        node = value.node
        if not isinstance(node, yaml.MappingNode) or not at_least <= len(node.value) <= at_most:
            value.fault(f"must be a mapping with {at_least} to {at_most} entries")
            return {}
        entries: dict[str, T] = {}
        for name_node, item in node.value:
            name = read_name(value.beside(name_node))
            if name in entries:
                value.beside(name_node).fault(f'"{name}" is given twice; keep one')
            entries[name] = read_item(value.beside(item))
        return entries

    return read
