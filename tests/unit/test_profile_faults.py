"""A profile is taken whole or refused with everything that is wrong: where, what, and what to do."""

from pathlib import Path

import pytest

from tollkeeper_server.edge.document import Faulty
from tollkeeper_server.edge.library import read_profiles
from tollkeeper_server.edge.profile_reader import read_profile

GOOD = """\
profile: api
hosts: [api.example.com]
credentials:
  - header: Authorization
    scheme: Bearer
key:
  prefix: tk
  length: 43
routes:
  - path: /api/{product}/**
    methods: [GET]
    resource: ${product}
    permissions: [read]
    charges: {requests: 1, tokens: 10}
limit_headers:
  on: every_answer
  unknown: "0"
  show:
    X-Left: per-minute.remaining
answers:
  - codes: [KEY_MISSING, KEY_INVALID, KEY_REVOKED, KEY_DISABLED, KEY_EXPIRED, CREDENTIALS_CONFLICT]
    status: 401
    headers: {www-authenticate: Bearer}
    body: '{"error": "${message}"}'
  - codes: [IP_DENIED, RESOURCE_DENIED, PERMISSION_DENIED, PATH_AMBIGUOUS, ROUTE_UNKNOWN]
    status: 403
  - codes: [RATE_LIMITED, QUOTA_EXCEEDED, SPEND_LIMIT_EXCEEDED]
    status: 429
    body: '{"wait": ${retry_after}}'
"""


def faults(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "api.yaml"
    file.write_text(text)
    try:
        read_profile(file, name="api.yaml")
    except Faulty as error:
        return list(map(str, error.faults))
    return []


def test_a_good_profile_has_no_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        ("profile: api", "profile: My API", '1: must be a name of a-z, 0-9 and "-", at most 63 characters'),
        ("profile: api", "profil: api", '1: "profil" is not known here; did you mean "profile"?'),
        ("profile: api\n", "", '1: "profile" is missing; add it'),
        ("hosts: [api.example.com]", "hosts: api.example.com", "2: must be a list of 0 to 100 items"),
        ("hosts: [api.example.com]", "hosts: [API.example.com]", '2: must be a host name in lower case, "*." and'),
        ("hosts: [api.example.com]", "profile: api", '2: "profile" is given twice; keep one'),
        ("    scheme: Bearer\n", "    cookie: c\n", '4: must have exactly one of "header", "query" and "cookie"'),
        ("  - header: Authorization", "  - query: key", '5: only a header has a scheme; remove it, or add "header"'),
        ("header: Authorization", "header: X-Tollkeeper-Key-Id", "4: is kept for what Tollkeeper tells the upstream"),
        ("  length: 43", "  length: long", "8: must be a whole number from 16 to 4096"),
        ("  length: 43", "  length: 8", "8: must be a whole number from 16 to 4096"),
        ("path: /api/{product}/**", "path: api/{product}", '10: must start with "/"'),
        ("resource: ${product}", "resource: ${prodct}", '12: "${prodct}" is not a placeholder here; known are product'),
        ("permissions: [read]", "permissions: [read all]", "13: must be a permission: 1 to 64 of"),
        ("permissions: [read]", "permision: [read]", '13: "permision" is not known here; did you mean "permissions"?'),
        ("tokens: 10}", "tokens: -1}", "14: must be a whole number from 0 to 1000000000000000"),
        ("on: every_answer", "on: always", "16: must be charged or every_answer"),
        ("per-minute.remaining", "per-minute.left", "19: must be the name of a limit, a dot, and one of limit, used"),
        ("KEY_MISSING, ", "KEY_MISING, ", "21: must be KEY_MISSING or KEY_INVALID or"),
        ("KEY_MISSING, ", "", "21: nothing answers KEY_MISSING; add them to the codes of an answer"),
        ("[IP_DENIED,", "[KEY_MISSING, IP_DENIED,", "21: KEY_MISSING is answered twice; keep one"),
        ("status: 401", "status: 200", "22: must be a whole number from 400 to 599"),
        ("headers: {www-authenticate: Bearer}", "headers: {content-length: '3'}", "23: content-length belong to HTTP"),
        ("headers: {www-authenticate: Bearer}", "headers: {'a b': c}", "23: must be a name as HTTP allows it"),
        ('"${message}"', '"${reason}"', '24: body "${reason}" is not a placeholder here; known are code, expired_at'),
        ('"${message}"', "${message}", '24: body "${message}" is text; put it inside quotes'),
        ("${retry_after}}", "${retry_after}", "29: body is not JSON:"),
    ],
)
def test_each_fault_names_its_line_and_its_remedy(tmp_path: Path, good: str, bad: str, fault: str) -> None:
    assert GOOD.count(good) == 1
    found = faults(tmp_path, GOOD.replace(good, bad))
    assert any(each.startswith(f"api.yaml:{fault}") for each in found), found


def test_all_faults_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    bad = GOOD.replace("length: 43", "length: 1").replace("status: 403", "status: no").replace("[GET]", "[get]")
    assert [each.split(":")[1] for each in faults(tmp_path, bad)] == ["8", "11", "26"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "api.yaml:1: is empty"),
        ("a: ]", "api.yaml:1: is not YAML: "),
        ("a: 1\n\tb: 2\n", "api.yaml:2: is not YAML: "),
        ("a: 1\n--- \nb: 2\n", "api.yaml:2: is not YAML: "),
        ("- a\n", "api.yaml:1: must be a mapping"),
        ("a: \ufeff\x01", "api.yaml:1: is not YAML: "),
    ],
)
def test_what_is_no_profile_at_all_is_refused_the_same_way(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text)[0].startswith(fault)


def test_a_file_that_is_not_text_or_far_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "api.yaml"
    for content, problem in ((b"\xff\xfe", "is not UTF-8"), (b"#" * 300_000, "is larger than 262144 bytes")):
        file.write_bytes(content)
        with pytest.raises(Faulty, match=problem):
            read_profile(file, name="api.yaml")


def test_profiles_that_claim_the_same_name_or_host_are_refused_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD)
    with pytest.raises(Faulty) as refused:
        read_profiles(tmp_path)
    assert list(map(str, refused.value.faults)) == [
        'b.yaml:1: the host "api.example.com" is taken by a.yaml; give each host one profile',
        'b.yaml:1: the name "api" is taken by a.yaml; choose another',
    ]


def test_a_directory_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Faulty, match="has no profile"):
        read_profiles(tmp_path / "missing")


def test_a_host_has_the_profile_that_names_it_most_exactly(tmp_path: Path) -> None:
    for name, host in (("exact", "a.b.example"), ("near", '"*.b.example"'), ("far", '"*.example"'), ("rest", '"*"')):
        text = GOOD.replace("profile: api", f"profile: {name}").replace("[api.example.com]", f"[{host}]")
        (tmp_path / f"{name}.yaml").write_text(text)
    profiles = read_profiles(tmp_path)
    hosts = ["a.b.example", "x.b.example", "b.example", "x.y.z.example", "elsewhere", ""]
    found = [profile.name for host in hosts if (profile := profiles.of_host(host))]
    assert found == ["exact", "near", "far", "far", "rest", "rest"]


def test_the_profile_in_the_documentation_has_no_fault_but_its_missing_answers(tmp_path: Path) -> None:
    documentation = (Path(__file__).resolve().parents[2] / "service" / "docs" / "envoy.md").read_text()
    example = documentation.partition("```yaml\n")[2].partition("```")[0]
    line = example.split("answers:")[0].count("\n") + 2
    (fault,) = faults(tmp_path, example)
    assert fault.startswith(f"api.yaml:{line}: nothing answers KEY_MISSING, IP_DENIED")
