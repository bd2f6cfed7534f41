"""Callers: who calls Tollkeeper, and what it may do."""

import enum
from dataclasses import dataclass

from tollkeeper_server.core.errors import PermissionDenied
from tollkeeper_server.core.key import ROOT_TENANT, Key
from tollkeeper_server.core.policy import grants


class CallerPermission(enum.StrEnum):
    """What a caller may do; carried as a permission by the key that it authenticates with."""

    VERIFY = "tollkeeper:verify"
    KEYS_READ = "tollkeeper:keys.read"
    KEYS_WRITE = "tollkeeper:keys.write"
    USAGE_READ = "tollkeeper:usage.read"
    AUDIT_READ = "tollkeeper:audit.read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Where signed-in users come from: whose tokens are trusted, if they are meant for this server."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    """Of signatures: public-key ones alone."""
    tenant_id: str
    """Where the users' keys live."""
    roles_claim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: a service, an operator or Envoy, by the key that it showed; or a signed-in user."""

    key_id: str
    """Empty for a signed-in user."""
    tenant_id: str
    permissions: tuple[str, ...]
    """A signed-in user has none: it may call what is open to users, and only its own keys are there for it."""
    subject: str = ""
    """The signed-in user, and the owner of its keys; empty for a caller that showed a key."""
    address: str = ""
    """Network address that the call came from."""

    @classmethod
    def of(cls, key: Key, *, address: str) -> "Caller":
        """Who shows an API key of ``key``, from network address ``address``."""
        return cls(key_id=key.key_id, tenant_id=key.tenant_id, permissions=key.permissions, address=address)

    @property
    def is_root(self) -> bool:
        """Root callers may act in every tenant."""
        return self.tenant_id == ROOT_TENANT

    @property
    def name(self) -> str:
        """Who it is, for the audit log."""
        return self.subject or self.key_id

    def require(self, permission: CallerPermission, *, open_to_users: bool = False) -> None:
        """Raise PermissionDenied unless the caller has ``permission``, or is a signed-in user and those are let in."""
        if not (self.subject and open_to_users) and not grants(self.permissions, permission):
            raise PermissionDenied(
                f"the caller lacks the permission {permission}",
                reason="CALLER_PERMISSION_MISSING",
                metadata={"permission": permission},
            )

    def tenant(self, named: str) -> str:
        """The tenant to act in: ``named``, or the caller's own where none is named.

        Raises PermissionDenied if a caller that is not root names another's.
        """
        if not named or named == self.tenant_id:
            return self.tenant_id
        if not self.is_root:
            raise PermissionDenied(
                "only root callers may name another tenant",
                reason="FOREIGN_TENANT",
                metadata={"tenant_id": named},
            )
        return named

    def owner(self, named: str) -> str:
        """The owner to act for: ``named``, which is whoever it likes unless the caller is a signed-in user.

        Raises PermissionDenied if a signed-in user names another than itself.
        """
        if not self.subject:
            return named
        if named not in ("", self.subject):
            raise PermissionDenied(
                "signed-in users may only act for themselves",
                reason="FOREIGN_OWNER",
                metadata={"owner_id": named},
            )
        return self.subject

    def owns(self, owner_id: str) -> bool:
        """Whether keys of ``owner_id`` exist for this caller, as far as owners go."""
        return self.subject in ("", owner_id)

    def sees(self, tenant_id: str) -> bool:
        """Whether records of ``tenant_id`` exist for this caller."""
        return self.is_root or tenant_id == self.tenant_id
