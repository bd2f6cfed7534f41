"""A path means one thing, or it is refused; a route matches what an upstream would serve, however it is spelled."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.edge.routes import PathTemplate, Route, first_match, unambiguous
from tollkeeper_server.edge.templates import TemplateError

AMBIGUOUS = [
    *("", "*", "api", "//api", "/api//a", "/api/a//", "/.", "/..", "/api/./a", "/api/../b", "/api/.."),
    *("/api/%2e%2e/b", "/api/.%2E/b", "/api%2fa", "/api%2Fa", "/api%5ca", "/api\\a", "/api/a%00", "/api/a\x00"),
    *("/api/%252e%252e/b", "/api/%25%32%66", "/api/a%252525252fb", "/api/a;v=1", "/api/..;/b", "/api/a%3bv=1"),
    *(
        "/api/%",
        "/api/%g0",
        "/api/%2",
        "/api/%ff",
        "/api/%c0%ae",
        "/api/é",
        "/api/a b",
        "/api/a\tb",
        "/api/a%0ab",
        "/a#b",
    ),
]


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_a_path_that_can_be_read_in_two_ways_is_refused(path: str) -> None:
    assert unambiguous(path) is None


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/", "/a.b/..c/d..", "/K", "/s", "/v1/chat:complete", "/100%25", "/a%20b"]
)
def test_an_ordinary_path_is_none_of_these(path: str) -> None:
    assert unambiguous(path) == unquote(path)


@given(st.text(min_size=1))
def test_a_path_that_is_accepted_has_the_segments_that_it_seems_to_have(text: str) -> None:
    path = "/" + quote(text, safe="") + "/x"
    plain = unambiguous(path)
    if plain is not None:
        assert plain == f"/{text}/x"
        assert len(plain.split("/")) == 3
        assert not {"", ".", ".."} & set(plain.split("/")[1:])


@pytest.mark.parametrize(
    ("template", "path", "names"),
    [
        ("/", "/", {}),
        ("/v1/models", "/v1/models", {}),
        ("/v1/models", "/v1/models/", {}),
        ("/v1/models", "/v1/%6dodels", {}),
        ("/v1/models", "/v1/Models", None),
        ("/v1/models", "/v1/models/x", None),
        ("/api/{product}", "/api/widgets", {"product": "widgets"}),
        ("/api/{product}", "/api/*", None),
        ("/api/{product}", "/api/a%20b", None),
        ("/api/{product}/**", "/api/widgets", {"product": "widgets"}),
        ("/api/{product}/**", "/api/widgets/1/2", {"product": "widgets"}),
        ("/api/{product}/**", "/apix/widgets", None),
        ("/*/items", "/anything/items", {}),
        ("/*/items", "/a/b/items", None),
        ("/**", "/whatever/there/is", {}),
        ("/a.b", "/axb", None),
    ],
)
def test_a_template_matches_paths_segment_by_segment(template: str, path: str, names: dict[str, str] | None) -> None:
    plain = unambiguous(path)
    assert plain is not None
    assert PathTemplate.compile(template).match(plain) == names


@pytest.mark.parametrize(
    "template", ["", "api", "/api//a", "/api/", "/**/a", "/{a}/{a}", "/{A}", "/a{b}", "/a b", "/a/***"]
)
def test_a_template_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        PathTemplate.compile(template)


def test_the_first_route_for_method_and_path_counts() -> None:
    post = Route(path=PathTemplate.compile("/v1/{name}"), methods=frozenset({"POST"}), permissions=("write",))
    any_method = Route(path=PathTemplate.compile("/v1/**"), permissions=("read",))
    assert first_match([post, any_method], method="POST", path="/v1/a") == (post, {"name": "a"})
    assert first_match([post, any_method], method="GET", path="/v1/a") == (any_method, {})
    assert first_match([post, any_method], method="GET", path="/v2") is None
