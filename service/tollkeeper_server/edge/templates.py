"""Texts with placeholders, compiled once: headers, and JSON bodies that stay JSON whatever is filled in.

A placeholder is ``${name}``. In a body it stands either inside a JSON string, where its value is escaped, or bare,
where it is a number. A value that is not there is an empty text; a string that is nothing but the placeholder, and a
bare one, become ``null``.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

Values = Mapping[str, str | int | None]
"""What to fill in, by placeholder. Every placeholder that a template knows is there."""

_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_UNSAFE_IN_HEADER = re.compile(r"[^\x20-\x7e]")


class TemplateError(ValueError):
    """A text is not a template; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """Plain text, as in a header."""

    _parts: tuple[str, ...]
    """Literal text and names of placeholders in turn, literal text first and last."""

    @classmethod
    def compile(cls, text: str, *, known: Collection[str]) -> "TextTemplate":
        """Raises TemplateError for a placeholder that is not ``known``."""
        parts = tuple(_PLACEHOLDER.split(text))
        _check_known(parts[1::2], known)
        if any("${" in literal for literal in parts[::2]):
            raise TemplateError('has a "${" without its "}"; close it')
        return cls(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders in it."""
        return self._parts[1::2]

    def render(self, values: Values) -> str:
        """The text. What a header could not carry becomes ``?``, so that no value can start a line of its own."""
        if len(self._parts) == 1:
            return self._parts[0]
        filled = [_text(values[part]) if index % 2 else part for index, part in enumerate(self._parts)]
        return _UNSAFE_IN_HEADER.sub("?", "".join(filled))


NO_TEXT = TextTemplate(("",))


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a value goes into a body."""

    name: str
    bare: bool
    """A number outside any string."""
    whole: bool
    """The string is nothing but this; its quotes belong to the slot."""

    def fill(self, value: str | int | None) -> str:
        if value is None:
            return "null" if self.bare or self.whole else ""
        if self.bare:
            return str(value)
        escaped = json.dumps(str(value), ensure_ascii=False)
        return escaped if self.whole else escaped[1:-1]


@dataclass(frozen=True, slots=True)
class BodyTemplate:
    """A JSON text; whatever its placeholders become, the rest stays as written, to the byte."""

    _parts: tuple[str | _Slot, ...]

    @classmethod
    def compile(cls, text: str, *, known: Collection[str], numbers: Collection[str]) -> "BodyTemplate":
        """Placeholders are ``known`` names; only ``numbers`` may be bare. Raises TemplateError."""
        template = cls(tuple(_body_parts(text)))
        names = [part.name for part in template._parts if isinstance(part, _Slot)]
        _check_known(names, known)
        bare = [part.name for part in template._parts if isinstance(part, _Slot) and part.bare]
        texts = [name for name in bare if name not in numbers]
        if texts:
            raise TemplateError(f'"${{{texts[0]}}}" is text; put it inside quotes')
        try:
            json.loads(template.render(dict.fromkeys(names, 1)))
            json.loads(template.render(dict.fromkeys(names)))
        except ValueError as error:
            raise TemplateError(f"is not JSON: {error}") from None
        return template

    def render(self, values: Values) -> str:
        """The body."""
        return "".join([part if isinstance(part, str) else part.fill(values[part.name]) for part in self._parts])


def _body_parts(text: str) -> Iterator[str | _Slot]:
    position = 0
    for string in _JSON_STRING.finditer(text):
        yield from _split(text[position : string.start()], bare=True)
        yield from _string_parts(string[0])
        position = string.end()
    yield from _split(text[position:], bare=True)


def _string_parts(string: str) -> Iterator[str | _Slot]:
    whole = _PLACEHOLDER.fullmatch(string[1:-1])
    if whole:
        yield _Slot(whole[1], bare=False, whole=True)
    else:
        yield from _split(string, bare=False)


def _split(text: str, *, bare: bool) -> Iterator[str | _Slot]:
    for index, part in enumerate(_PLACEHOLDER.split(text)):
        yield _Slot(part, bare=bare, whole=False) if index % 2 else part


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _check_known(names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise TemplateError(f'"${{{name}}}" is not a placeholder here; known are {", ".join(sorted(known))}')
