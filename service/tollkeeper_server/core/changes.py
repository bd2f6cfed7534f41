"""Changes of keys and owners, as those are told who remember any of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one subject."""

    revision: int
    """Grows by one from change to change."""
    tenant_id: str
    """Empty in changes from before tenants were named."""
    subject: str
    """The key that changed; or the owner whose keys all did, see ``owner_subject``."""
    adds_secret: bool
    """Whether an API key that nobody knew is known from now on."""
    imports: bool
    """Whether that API key may have any shape."""

    @property
    def key_id(self) -> str:
        """The key that changed; empty if an owner did."""
        return "" if "/" in self.subject else self.subject

    @property
    def owner_id(self) -> str:
        """The owner that changed; empty if a key did."""
        return self.subject.partition("/")[2]


def owner_subject(tenant_id: str, owner_id: str) -> str:
    """What an owner is called in changes; no key_id and no tenant_id has a "/"."""
    return f"{tenant_id}/{owner_id}"
