"""Settings: refused in one line that names the variable and what is allowed, and never shown where secret."""

import base64
from pathlib import Path

import pytest

from tollkeeper_server.settings import Address, load_settings
from tollkeeper_server.startup import StartupError

SECRET = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSTGRES_URL", "REDIS_URL", "PEPPERS", "TAG_KEYS", "LISTEN", "DATA_DIR", "DRAIN_SECONDS"):
        monkeypatch.delenv(f"TOLLKEEPER_{name}", raising=False)


def test_without_any_variable_private_stores_run() -> None:
    settings = load_settings()
    assert settings.embedded
    assert str(settings.listen) == "127.0.0.1:50051"
    assert settings.data_dir == Path(".tollkeeper")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LISTEN", "4711", "must be host:port"),
        ("LISTEN", "127.0.0.1:70000", "must be host:port"),
        ("LISTEN", "::1:50051", "must be host:port"),
        ("METRICS_LISTEN", "user@host:1", "must be host:port"),
        ("POSTGRES_URL", "mysql://localhost/x", "must start with postgresql:// or postgres://"),
        ("REDIS_URL", "localhost:6379", "must start with redis:// or rediss:// or unix://"),
        ("PEPPERS", "1:c2hvcnQ=", "32 bytes or more in base64"),
        ("PEPPERS", f"0:{SECRET}", "a version is 1 to 65535"),
        ("TAG_KEYS", f"1:{SECRET},1:{SECRET}", "comes once"),
        ("TAG_KEYS", SECRET, "must be version:secret"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("POSTGRES_POOL_SIZE", "many", "integer"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_does_not_repeat_it(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TOLLKEEPER_{name}", value)
    with pytest.raises(StartupError) as refused:
        load_settings()
    text = str(refused.value)
    assert text.startswith(f"TOLLKEEPER_{name}: ")
    assert allowed in text
    assert "\n" not in text
    assert value not in text.removeprefix(f"TOLLKEEPER_{name}: ")


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_LISTEN", "x")
    monkeypatch.setenv("TOLLKEEPER_LOG_FORMAT", "x")
    with pytest.raises(StartupError, match=r"TOLLKEEPER_LISTEN: .*; TOLLKEEPER_LOG_FORMAT: "):
        load_settings()


def test_one_store_without_the_other_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_REDIS_URL", "redis://localhost")
    settings = load_settings()
    assert not settings.embedded
    with pytest.raises(StartupError, match="TOLLKEEPER_POSTGRES_URL must be set: postgresql://"):
        settings.given_stores()


def test_secrets_are_asked_for_with_the_way_to_make_them() -> None:
    with pytest.raises(StartupError, match=r"TOLLKEEPER_PEPPERS must be set: .*openssl rand -base64 32"):
        load_settings().keyring()


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_POSTGRES_URL", "postgresql://toll:hunter2@db/toll")
    monkeypatch.setenv("TOLLKEEPER_REDIS_URL", "redis://:hunter2@cache")
    monkeypatch.setenv("TOLLKEEPER_PEPPERS", f"3:{SECRET}")
    settings = load_settings()
    assert settings.peppers is not None
    assert settings.peppers.get_secret_value() == {3: bytes(range(32))}
    shown = f"{settings!r} {settings} {settings.peppers!r} {settings.model_dump()}"
    assert "hunter2" not in shown
    assert SECRET not in shown
    assert repr(bytes(range(32))) not in shown


def test_the_environment_wins_over_the_secrets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secrets.env"
    file.write_text(f"TOLLKEEPER_PEPPERS=1:{SECRET}\nTOLLKEEPER_TAG_KEYS=2:{SECRET}\n")
    monkeypatch.setenv("TOLLKEEPER_TAG_KEYS", f"9:{SECRET}")
    settings = load_settings(secrets_file=file)
    assert settings.peppers is not None
    assert settings.tag_keys is not None
    assert (list(settings.peppers.get_secret_value()), list(settings.tag_keys.get_secret_value())) == ([1], [9])


@pytest.mark.parametrize(
    ("listen", "reachable"),
    [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("localhost:1", "localhost:1"), ("[::1]:1", "[::1]:1")],
)
def test_an_address_of_every_interface_is_reached_on_this_machine(
    listen: str, reachable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLKEEPER_LISTEN", listen)
    address = load_settings().listen
    assert isinstance(address, Address)
    assert str(address.reachable) == reachable
