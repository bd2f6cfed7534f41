"""What is filled into an answer never breaks it, and never says more than its place allows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.edge.templates import BodyTemplate, TemplateError, TextTemplate

KNOWN = {"name", "count"}
anything = st.text(st.characters(exclude_categories=["Cs"]))


def body(text: str) -> BodyTemplate:
    return BodyTemplate.compile(text, known=KNOWN, numbers={"count"})


@given(name=anything, count=st.integers())
def test_a_body_stays_json_and_says_exactly_what_was_filled_in(name: str, count: int) -> None:
    template = body('{"whole": "${name}", "part": "<${name}>", "count": ${count}, "text": "${count}"}')
    assert json.loads(template.render({"name": name, "count": count})) == {
        "whole": name,
        "part": f"<{name}>",
        "count": count,
        "text": str(count),
    }


def test_what_is_not_there_is_null_or_nothing() -> None:
    template = body('{"whole": "${name}", "part": "<${name}>", "count": ${count}}')
    assert json.loads(template.render({"name": None, "count": None})) == {"whole": None, "part": "<>", "count": None}


def test_around_its_placeholders_a_body_stays_as_written_to_the_byte() -> None:
    written = '{ "a" :\n\t["\\u00e9\\"", 1e2,"${name}"]  }\n'
    assert body(written).render({"name": "x", "count": 0}) == written.replace("${name}", "x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": "${nobody}"}', "not a placeholder here; known are count, name"),
        ('{"a": ${name}}', "is text; put it inside quotes"),
        ('{"a": 1', "is not JSON"),
        ('{"${name}": 1}', "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_a_body_that_could_go_wrong_is_refused(text: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=problem):
        body(text)


@given(name=anything)
def test_no_value_can_add_a_line_to_a_header(name: str) -> None:
    rendered = TextTemplate.compile("id=${name}; v=1", known=KNOWN).render({"name": name, "count": None})
    assert rendered.startswith("id=")
    assert rendered.isascii()
    assert rendered.isprintable()


@pytest.mark.parametrize("text", ["${nobody}", "${name", "a ${}"])
def test_a_header_with_a_placeholder_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        TextTemplate.compile(text, known=KNOWN)
