"""Profiles follow their files while requests go on; what is wrong never comes into force."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import CapturingLogger

from tests.unit.test_profile_faults import GOOD
from tollkeeper_server.edge.document import Faulty
from tollkeeper_server.edge.library import ProfileLibrary


@asynccontextmanager
async def watching(library: ProfileLibrary) -> AsyncIterator[None]:
    task = asyncio.create_task(library.watch())
    try:
        yield
    finally:
        assert not task.done(), "the watch ended"
        task.cancel()
        await asyncio.wait([task])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 (files tell nobody when they change)
            await asyncio.sleep(0.005)


@pytest.fixture
def logger() -> CapturingLogger:
    return CapturingLogger()


def library_of(directory: Path, logger: CapturingLogger) -> ProfileLibrary:
    log = structlog.wrap_logger(logger, processors=[lambda _, __, event: ((), event)])
    return ProfileLibrary(directory, log=log, poll_seconds=0.01)


def tenant(library: ProfileLibrary) -> str | None:
    profile = library.current.named("api")
    return None if profile is None else profile.tenant_id


async def test_a_change_comes_into_force_and_a_fault_leaves_the_set_before_in_force(
    tmp_path: Path, logger: CapturingLogger
) -> None:
    file = tmp_path / "api.yaml"
    file.write_text(GOOD)
    library = library_of(tmp_path, logger)
    async with watching(library):
        file.write_text(GOOD + "tenant: first\n")
        await until(lambda: tenant(library) == "first")
        file.write_text(GOOD + "tenant: Not A Tenant\n")
        await until(lambda: any(call.kwargs["event"] == "profiles_refused" for call in logger.calls))
        assert tenant(library) == "first"
        (refusal,) = (call.kwargs for call in logger.calls if call.kwargs["event"] == "profiles_refused")
        assert refusal["faults"][0].startswith("api.yaml:30: must be a tenant")
        assert refusal["in_force"] == ["api"]
        file.write_text(GOOD + "tenant: second\n")
        await until(lambda: tenant(library) == "second")


async def test_files_that_come_and_go_are_followed_but_never_down_to_none(
    tmp_path: Path, logger: CapturingLogger
) -> None:
    (tmp_path / "api.yaml").write_text(GOOD)
    library = library_of(tmp_path, logger)
    async with watching(library):
        other = GOOD.replace("profile: api", "profile: other").replace("api.example.com", "other.example.com")
        (tmp_path / "other.yaml").write_text(other)
        await until(lambda: list(library.current.names) == ["api", "other"])
        (tmp_path / "api.yaml").unlink()
        await until(lambda: list(library.current.names) == ["other"])
        (tmp_path / "other.yaml").unlink()
        await until(lambda: any(call.kwargs["event"] == "profiles_refused" for call in logger.calls))
        assert list(library.current.names) == ["other"]


async def test_a_mounted_config_map_is_followed_when_its_link_is_swapped(
    tmp_path: Path, logger: CapturingLogger
) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "api.yaml").write_text(f"{GOOD}tenant: {version}\n")
        os.utime(tmp_path / version / "api.yaml", (0, 0))
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "..data").symlink_to(tmp_path / "one")
    (mounted / "api.yaml").symlink_to("..data/api.yaml")
    library = library_of(mounted, logger)
    async with watching(library):
        (mounted / "..data_tmp").symlink_to(tmp_path / "two")
        (mounted / "..data_tmp").rename(mounted / "..data")
        await until(lambda: tenant(library) == "two")


def test_nothing_starts_on_a_fault(tmp_path: Path, logger: CapturingLogger) -> None:
    (tmp_path / "api.yaml").write_text("profile: api\n")
    with pytest.raises(Faulty):
        library_of(tmp_path, logger)
