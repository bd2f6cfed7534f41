"""Settings of sign-in: all of it or none, and nothing by which a user could become more than itself."""

from pathlib import Path

import pytest

from tollkeeper_server.settings import load_settings
from tollkeeper_server.startup import StartupError

WHOLE = {
    "ISSUER": "https://login.example",
    "AUDIENCE": "tollkeeper",
    "JWKS": "https://login.example/jwks.json",
    "TENANT": "acme",
}


def set_up(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"TOLLKEEPER_SIGN_IN_{name}", value)


def test_nobody_signs_in_unless_it_is_set_up() -> None:
    assert load_settings().sign_in_from() is None


def test_what_is_set_is_what_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(monkeypatch, **WHOLE)
    issuer = load_settings().sign_in_from()
    assert issuer is not None
    assert (issuer.issuer, issuer.audience, issuer.tenant_id) == ("https://login.example", "tollkeeper", "acme")
    assert issuer.algorithms == ("RS256", "ES256", "EdDSA")
    assert issuer.roles_claim == "roles"
    set_up(monkeypatch, ALGORITHMS="PS256, ES384", ROLES_CLAIM="groups")
    issuer = load_settings().sign_in_from()
    assert issuer is not None
    assert (issuer.algorithms, issuer.roles_claim) == (("PS256", "ES384"), "groups")


@pytest.mark.parametrize("missing", WHOLE)
def test_a_part_of_it_is_refused_by_the_name_of_what_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    set_up(monkeypatch, **{name: value for name, value in WHOLE.items() if name != missing})
    with pytest.raises(StartupError, match=f"^TOLLKEEPER_SIGN_IN_{missing} must be set for users to sign in"):
        load_settings().sign_in_from()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALGORITHMS", "HS256"),
        ("ALGORITHMS", "RS256,none"),
        ("ALGORITHMS", "rs256"),
        ("TENANT", "tollkeeper"),
        ("TENANT", "ACME"),
        ("JWKS", "ftp://login.example/jwks.json"),
        ("JWKS", "file:///etc/passwd"),
        ("JWKS", "/nowhere/jwks.json"),
    ],
)
def test_what_would_be_unsafe_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    set_up(monkeypatch, **WHOLE | {name: value})
    with pytest.raises(StartupError, match=f"^TOLLKEEPER_SIGN_IN_{name}: must be"):
        load_settings()


def test_a_key_set_may_be_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.touch()
    set_up(monkeypatch, **WHOLE | {"JWKS": str(path)})
    assert load_settings().sign_in_jwks == str(path)
