"""What can be asked about keys of other systems and about keys that leaked, and what is answered."""

from dataclasses import dataclass, field
from datetime import datetime

from tollkeeper_server.core.errors import TollkeeperError
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.commands import CreateKey, Propagation
from tollkeeper_server.keys.workspace import Algorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """How the API key of another system's key is known: itself, or a digest of it."""

    raw_api_key: str = field(default="", repr=False)
    digest: bytes = field(default=b"", repr=False)
    algorithm: Algorithm = Algorithm.PEPPERED
    """What ``digest`` was made with."""
    pepper_version: int = 0
    """The pepper of a digest that was made with one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportKey:
    """One key of another system; its ``prefix``, ``length``, ``request_id`` and ``tenant_id`` are not looked at."""

    key: CreateKey
    credential: Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportKeys:
    """Keys of another system, 1 to 1,000; those that have a fault already keep their place."""

    tenant_id: str = ""
    """Whose keys they become; empty means the caller's own tenant."""
    items: tuple[ImportKey | TollkeeperError, ...]
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedKeys:
    """What became of each key, in order, and from when on every cache knows those that were imported."""

    results: tuple[Key | TollkeeperError, ...]
    revision: int
    propagation: Propagation
    effective_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakedKey:
    """An API key that was found where it should not be."""

    api_key: str = field(repr=False)
    url: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLeakedKeys:
    """API keys to end, 1 to 1,000."""

    leaked_keys: tuple[LeakedKey, ...]
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedKeys:
    """Which of the API keys were ours, in order, and from when on their keys are dead everywhere."""

    ours: tuple[bool, ...]
    propagation: Propagation
    effective_at: datetime
