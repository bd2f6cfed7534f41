"""The house keeps its own rules: which part may know which, and nothing stale in it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import protos

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "service" / "tollkeeper_server"
CLIENT = ROOT / "clients" / "python" / "tollkeeper"

KNOWS = {
    "core": set[str](),
    "startup": set[str](),
    "storage": {"core", "startup"},
    "keys": {"core", "startup", "storage"},
    "usage": {"core", "startup", "storage", "keys"},
    "quota": {"core", "startup", "storage", "usage"},
    "audit": {"core", "startup", "storage"},
    "verify": {"core", "startup", "storage", "keys", "quota", "usage"},
    "api": {"core", "audit", "keys", "quota", "usage", "verify"},
    "edge": {"core", "keys", "quota", "verify", "api"},
    "settings": {"core", "startup"},
    "embedded": {"startup", "settings"},
    "ports": {"startup", "settings"},
    "development": {"core", "startup", "settings"},
}
"""What each part of the server may import of the others; those not named here put everything together."""

AT_HOME = {
    ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google", "tollkeeper", "envoy"): {
        "api",
        "edge",
        "servers",
        "canary",
        "tls",
    },
    ("asyncpg", "sqlalchemy", "alembic"): {"audit", "storage", "keys", "verify", "quota", "embedded"},
    ("redis",): {"storage", "quota", "embedded"},
    ("pydantic", "pydantic_settings"): {"settings"},
    ("typer",): {"cli"},
    ("jwt",): {"verify"},
    ("prometheus_client",): {"api", "servers", "canary", "ports", "storage", "keys", "verify", "quota", "usage"},
}
"""Which parts may know a library at all, so that its types stay there."""

WORLD = {"asyncio", "os", "socket", "subprocess", "time", "threading", "logging", "pathlib", "tempfile", "secrets"}
"""Modules of the standard library that do I/O, tell the time or draw random numbers: nothing for the pure core."""


def modules(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if "_pb2" not in path.name)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def requirements(pyproject: Path, *, extras: bool = True) -> set[str]:
    project = tomllib.loads(pyproject.read_text())["project"]
    optional = project.get("optional-dependencies", {}) if extras else {}
    return names([*project["dependencies"], *(each for group in optional.values() for each in group)])


def names(lines: list[str]) -> set[str]:
    return {found[0].lower() for line in lines if (found := re.match(r"[A-Za-z0-9._-]+", line))}


def locked(lock: Path) -> set[str]:
    return names([line for line in lock.read_text().splitlines() if "==" in line])


def part_of(path: Path) -> str:
    return path.relative_to(SERVER).parts[0].removesuffix(".py")


def part_named(module: str) -> str | None:
    words = module.split(".")
    return words[1] if words[0] == SERVER.name and len(words) > 1 else None


def test_imports_inside_the_server_run_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules(SERVER)
        for module in imports(path)
        if (part := part_named(module)) is not None
        and part != part_of(path)
        and part not in KNOWS.get(part_of(path), {part})
    ]
    assert not wrong


def test_libraries_stay_in_the_parts_that_they_are_for() -> None:
    homes = {library: parts for libraries, parts in AT_HOME.items() for library in libraries}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules(SERVER)
        for module in imports(path)
        if part_of(path) not in homes.get(module.split(".")[0], {part_of(path)})
    ]
    assert not wrong


def test_the_core_is_pure() -> None:
    wrong = [
        f"{path.name} imports {module}"
        for path in modules(SERVER / "core")
        for module in imports(path)
        if (library := module.split(".")[0]) in WORLD
        or (library not in sys.stdlib_module_names and part_named(module) != "core")
    ]
    assert not wrong


def test_the_client_knows_nothing_of_the_server() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules(CLIENT)
        for module in imports(path)
        if module.split(".")[0] == SERVER.name
    ]
    assert not wrong


def test_every_part_that_imports_are_checked_for_exists() -> None:
    parts = {part_of(path) for path in modules(SERVER)}
    assert KNOWS.keys() - {"edge"} <= parts


def test_every_setting_says_what_it_means() -> None:
    tree = ast.parse((SERVER / "settings.py").read_text())
    (settings,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    undocumented = [
        ast.unparse(field.target)
        for field, following in zip(settings.body, settings.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
    ]
    assert not undocumented


def test_the_contract_is_kept_and_nothing_made_from_it_is_stale(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert protos.check(tmp_path), capfd.readouterr()


def test_every_requirement_is_locked() -> None:
    service, client = (ROOT / path / "pyproject.toml" for path in ("service", "clients/python"))
    runtime = requirements(service, extras=False)
    everything = (
        requirements(service) | requirements(client) | names((ROOT / "tests/requirements.in").read_text().splitlines())
    )
    assert runtime - locked(ROOT / "service/requirements.lock") == {"tollkeeper"}
    assert everything - locked(ROOT / "tests/requirements.lock") == {"tollkeeper"}
