"""All profiles in force: read from a directory as one set, and read again when a file changes."""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from tollkeeper_server.edge.document import Fault, Faulty
from tollkeeper_server.edge.profile import Profile
from tollkeeper_server.edge.profile_reader import read_profile

POLL_SECONDS = 1.0

_Stamp = tuple[tuple[str, int, int, int], ...]


class Profiles:
    """A set of profiles whose names and hosts are unique."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        self._by_name = {profile.name: profile for profile in profiles}
        self._by_host = {host: profile for profile in self._by_name.values() for host in profile.hosts}

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def names(self) -> Iterable[str]:
        """Names of all profiles, in order."""
        return sorted(self._by_name)

    def named(self, name: str) -> Profile | None:
        """The profile of this name."""
        return self._by_name.get(name)

    def of_host(self, host: str) -> Profile | None:
        """The profile of a host in lower case: its own name first, then the longest ``*.`` domain, then ``*``."""
        found = self._by_host.get(host)
        while found is None and "." in host:
            host = host.partition(".")[2]
            found = self._by_host.get(f"*.{host}")
        return found or self._by_host.get("*")


def read_profiles(directory: Path) -> Profiles:
    """All profiles in ``directory``: its ``*.yaml`` files. Raises Faulty with every fault of every file."""
    faults: list[Fault] = []
    read: list[tuple[str, Profile]] = []
    for path in _files(directory):
        try:
            read.append((path.name, read_profile(path, name=path.name)))
        except Faulty as error:
            faults += error.faults
    faults += _clashes(read)
    if not read and not faults:
        faults.append(Fault(str(directory), 1, "has no profile; add a *.yaml file, or name another directory"))
    if faults:
        raise Faulty(faults)
    return Profiles(profile for _, profile in read)


class ProfileLibrary:
    """Keeps the profiles of a directory in force.

    A changed directory comes into force as a whole, between two requests; with a fault anywhere in it the set before
    stays. Raises Faulty if the first set has one.
    """

    def __init__(self, directory: Path, *, log: FilteringBoundLogger, poll_seconds: float = POLL_SECONDS) -> None:
        self._directory = directory
        self._log = log
        self._poll_seconds = poll_seconds
        self._stamp = _stamp(directory)
        self.current = read_profiles(directory)
        """The set in force; take it once for each request."""

    async def watch(self) -> None:
        """Follow changes until cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            await self._follow()

    async def _follow(self) -> None:
        stamp = await asyncio.to_thread(_stamp, self._directory)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            profiles = await asyncio.to_thread(read_profiles, self._directory)
        except Faulty as error:
            self._log.error("profiles_refused", faults=list(map(str, error.faults)), in_force=list(self.current.names))
        else:
            self.current = profiles
            self._log.info("profiles_in_force", profiles=list(profiles.names))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.yaml") if not path.name.startswith("."))


def _stamp(directory: Path) -> _Stamp:
    """Changes whenever a profile does; follows links, as those by which Kubernetes swaps a mounted ConfigMap."""
    stamps = []
    for path in _files(directory):
        with contextlib.suppress(OSError):  # gone since it was listed
            status = path.stat()
            stamps.append((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def _clashes(read: Iterable[tuple[str, Profile]]) -> Iterable[Fault]:
    names: dict[str, str] = {}
    hosts: dict[str, str] = {}
    for file, profile in read:
        if names.setdefault(profile.name, file) != file:
            yield Fault(file, 1, f'the name "{profile.name}" is taken by {names[profile.name]}; choose another')
        for host in profile.hosts:
            if hosts.setdefault(host, file) != file:
                yield Fault(file, 1, f'the host "{host}" is taken by {hosts[host]}; give each host one profile')
