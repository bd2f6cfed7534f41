"""Callers: who calls Tollkeeper, and what it may do."""

import enum
from dataclasses import dataclass

from tollkeeper_server.core.errors import PermissionDenied
from tollkeeper_server.core.key import ROOT_TENANT
from tollkeeper_server.core.policy import grants


class CallerPermission(enum.StrEnum):
    """What a caller may do; carried as a permission by the key that it authenticates with."""

    VERIFY = "tollkeeper:verify"
    KEYS_READ = "tollkeeper:keys.read"
    KEYS_WRITE = "tollkeeper:keys.write"
    USAGE_READ = "tollkeeper:usage.read"
    AUDIT_READ = "tollkeeper:audit.read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: a service, an operator or Envoy, by the key that it showed."""

    key_id: str
    tenant_id: str
    permissions: tuple[str, ...]
    address: str = ""
    """Network address that the call came from."""

    @property
    def is_root(self) -> bool:
        """Root callers may act in every tenant."""
        return self.tenant_id == ROOT_TENANT

    def require(self, permission: CallerPermission) -> None:
        """Raise PermissionDenied unless the caller has ``permission``."""
        if not grants(self.permissions, permission):
            raise PermissionDenied(
                f"the caller's key lacks the permission {permission}",
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

    def sees(self, tenant_id: str) -> bool:
        """Whether records of ``tenant_id`` exist for this caller."""
        return self.is_root or tenant_id == self.tenant_id
