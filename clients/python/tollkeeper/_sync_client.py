"""The synchronous client. Generated from ``_async_client.py`` by ``scripts/unasync.py``; do not edit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from tollkeeper import _requests, _results
from tollkeeper._channel import CHANNEL_OPTIONS, authorization, server_from_env
from tollkeeper._decisions import Decision, QuotaReport, Verification
from tollkeeper._error_details import call_error
from tollkeeper._errors import CallError
from tollkeeper._keys import CreatedKey, Key, KeyPage, KeyState, RevokedKey, RevokeReason
from tollkeeper._limits import Limit
from tollkeeper.v1.audit_service_pb2_grpc import AuditServiceStub
from tollkeeper.v1.key_service_pb2_grpc import KeyServiceStub
from tollkeeper.v1.usage_service_pb2_grpc import UsageServiceStub
from tollkeeper.v1.verification_service_pb2_grpc import VerificationServiceStub

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Stubs:
    """The generated stubs of every service, on the client's channel.

    They speak protobuf and raise gRPC's own errors. Give each call ``timeout`` and ``metadata=client.metadata``, and
    each mutation a ``request_id``: the channel repeats those that failed.
    """

    verification: VerificationServiceStub
    keys: KeyServiceStub
    usage: UsageServiceStub
    audit: AuditServiceStub


class Client:
    """A client of Tollkeeper. Make one and share it, also between threads; it holds one connection a server.

        with Client("127.0.0.1:50051", token="tk_...") as client:
            decision = client.verify(api_key, resource="billing", permissions=["read"])
            if not decision.allowed:
                ...

    Every call has a timeout in seconds: ``verify_timeout`` for verifications and quota checks, ``timeout`` for the
    rest, and each method takes one of its own. Every method raises a :class:`CallError` if the call fails. A
    verification that cannot be decided raises; it is never ALLOWED.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = 5.0,
        verify_timeout: float = 1.0,
        wait_for_ready: bool = True,
    ) -> None:
        """Connects on the first call.

        ``address`` is ``host:port``, where every address of the host is used, or several servers as
        ``ipv4:10.0.0.1:50051,10.0.0.2:50051``. ``token`` is the API key of this caller. Without ``credentials`` nothing
        is encrypted: for loopback, or a mesh that encrypts. ``wait_for_ready`` lets calls wait, within their timeout,
        while no server is ready, as during a restart; without it they fail at once with :class:`Unavailable`.
        """
        self._metadata = authorization(token)
        self._timeout = timeout
        self._verify_timeout = verify_timeout
        self._wait_for_ready = wait_for_ready
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._stubs = Stubs(
            verification=VerificationServiceStub(self._channel),
            keys=KeyServiceStub(self._channel),
            usage=UsageServiceStub(self._channel),
            audit=AuditServiceStub(self._channel),
        )

    @classmethod
    def from_env(
        cls,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = 5.0,
        verify_timeout: float = 1.0,
        wait_for_ready: bool = True,
    ) -> Self:
        """A client of the server at TOLLKEEPER_ADDRESS, as the caller whose API key is TOLLKEEPER_TOKEN.

        Raises ValueError if one of them is not set.
        """
        address, token = server_from_env()
        return cls(
            address,
            token=token,
            credentials=credentials,
            timeout=timeout,
            verify_timeout=verify_timeout,
            wait_for_ready=wait_for_ready,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls that still run are cancelled."""
        self._channel.close()

    @property
    def stubs(self) -> Stubs:
        """The generated stubs, for what this client has no method for."""
        return self._stubs

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """What calls through :attr:`stubs` need as ``metadata``. It holds the token."""
        return self._metadata

    def verify(
        self,
        api_key: str,
        *,
        resource: str = "",
        permissions: Sequence[str] = (),
        client_ip: str | IPv4Address | IPv6Address | None = None,
        charges: Mapping[str, int] | None = None,
        reserve: bool = False,
        dry_run: bool = False,
        min_revision: int = 0,
        request_id: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> Decision:
        """Verifies an API key and charges what the request is about to use. A denial is an answer, not an error.

        :param api_key: as the end client sent it; empty answers KEY_MISSING.
        :param resource: what the request is for.
        :param permissions: every permission that the request needs.
        :param client_ip: address of the end client, needed for keys that are bound to networks.
        :param charges: amount by unit; None charges one of ``requests``, an empty mapping nothing.
        :param reserve: holds the charge until it is settled, for costs known only afterwards.
        :param dry_run: decides as if the charge were made, and charges nothing.
        :param min_revision: the answer reflects every change up to this revision.
        :param request_id: names the verification, so that a repeated one is charged once; made up if None.
        :param tenant_id: knows this tenant's keys only; for root callers.
        """
        question = Verification(
            api_key,
            resource=resource,
            permissions=permissions,
            client_ip=client_ip,
            charges=charges,
            reserve=reserve,
            dry_run=dry_run,
            min_revision=min_revision,
            request_id=request_id,
            tenant_id=tenant_id,
        )
        response = self._call(
            self._stubs.verification.Verify, _requests.verify(question), timeout, self._verify_timeout
        )
        return _results.decision(response)

    def verify_many(
        self, verifications: Iterable[Verification], *, timeout: float | None = None
    ) -> list[Decision | CallError]:
        """Verifies up to 1,000 at once: one outcome each, in order. What could not be decided is a CallError."""
        request = _requests.batch_verify(verifications)
        if not request.requests:
            return []
        response = self._call(self._stubs.verification.BatchVerify, request, timeout, self._verify_timeout)
        return _results.decisions(response, expected=len(request.requests))

    def check_quota(
        self,
        *,
        key_id: str | None = None,
        api_key: str | None = None,
        owner_id: str | None = None,
        charges: Mapping[str, int] | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> QuotaReport:
        """The state of every limit of a key or an owner, and whether ``charges`` would fit. Consumes nothing.

        Give exactly one of ``key_id``, ``api_key`` and ``owner_id``; ``tenant_id`` is the owner's, for root callers.
        Raises :class:`NotFound` if there is none such.
        """
        request = _requests.check_quota(
            key_id=key_id, api_key=api_key, owner_id=owner_id, charges=charges, tenant_id=tenant_id
        )
        response = self._call(self._stubs.verification.CheckQuota, request, timeout, self._verify_timeout)
        return _results.quota_report(response)

    def create_key(
        self,
        *,
        name: str = "",
        description: str = "",
        owner_id: str = "",
        environment: str = "",
        permissions: Iterable[str] = (),
        resources: Iterable[str] = (),
        allowed_cidrs: Iterable[str] = (),
        limits: Iterable[Limit] = (),
        metadata: Mapping[str, Any] | None = None,
        expires_at: datetime | None = None,
        ttl: timedelta | None = None,
        prefix: str = "",
        length: int = 0,
        request_id: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> CreatedKey:
        """Creates a key; the answer holds the only copy of its API key.

        :param owner_id: the customer, user or organization that the key acts for.
        :param permissions: what the key may do.
        :param resources: what it may be used for; none means everything.
        :param allowed_cidrs: networks it may be used from; none means everywhere.
        :param limits: its own limits, as ``Limit.rate("per-minute", 5, timedelta(minutes=1))``.
        :param metadata: what verifications tell about it, at most 4 KiB as JSON.
        :param expires_at: when it ends, with a time zone; or ``ttl``, from now; neither means never.
        :param prefix: start of the API key, before ``_``; empty means ``tk``.
        :param length: characters of the whole API key; 0 means the default.
        :param request_id: with the same id and request, the same key is answered for 24 hours; made up if None.
        :param tenant_id: whose key it becomes, for root callers.
        """
        request = _requests.create_key(
            name=name,
            description=description,
            owner_id=owner_id,
            environment=environment,
            permissions=permissions,
            resources=resources,
            allowed_cidrs=allowed_cidrs,
            limits=limits,
            metadata=metadata,
            expires_at=expires_at,
            ttl=ttl,
            prefix=prefix,
            length=length,
            request_id=request_id,
            tenant_id=tenant_id,
        )
        return _results.created_key(self._call(self._stubs.keys.CreateKey, request, timeout, self._timeout))

    def get_key(self, key_id: str, *, timeout: float | None = None) -> Key:
        """The record of a key. Raises :class:`NotFound` if there is none for this caller."""
        request = _requests.get_key(key_id)
        response = self._call(self._stubs.keys.GetKey, request, timeout, self._timeout)
        return _results.key(response.key)

    def list_keys(
        self,
        *,
        owner_id: str = "",
        environment: str = "",
        state: KeyState = KeyState.UNSPECIFIED,
        prefix: str = "",
        page_size: int = 0,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[Key]:
        """All keys that match, newest first; pages are fetched as they are needed, each within ``timeout``."""
        page_token = ""
        while True:
            page = self.list_keys_page(
                owner_id=owner_id,
                environment=environment,
                state=state,
                prefix=prefix,
                page_size=page_size,
                page_token=page_token,
                tenant_id=tenant_id,
                timeout=timeout,
            )
            yield from page.keys
            page_token = page.next_page_token
            if not page_token:
                return

    def list_keys_page(
        self,
        *,
        owner_id: str = "",
        environment: str = "",
        state: KeyState = KeyState.UNSPECIFIED,
        prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> KeyPage:
        """One page of keys: at most ``page_size``, where 0 means 50 and 1,000 is the most.

        :param owner_id: keys of this owner.
        :param environment: keys of this environment.
        :param state: keys in this state.
        :param prefix: keys whose API key has this prefix.
        :param page_token: ``next_page_token`` of the page before; empty starts at the newest key.
        :param tenant_id: whose keys, for root callers.
        """
        request = _requests.list_keys(
            owner_id=owner_id,
            environment=environment,
            state=state,
            prefix=prefix,
            page_size=page_size,
            page_token=page_token,
            tenant_id=tenant_id,
        )
        return _results.key_page(self._call(self._stubs.keys.ListKeys, request, timeout, self._timeout))

    def revoke_key(
        self,
        key_id: str | None = None,
        *,
        api_key: str | None = None,
        reason: RevokeReason = RevokeReason.UNSPECIFIED,
        comment: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> RevokedKey:
        """Ends a key for good: by ``key_id``, or by possession of its ``api_key``. Revoking it again succeeds.

        When this returns with ``propagation`` EVERYWHERE, no verification that starts from then on is ALLOWED.
        ``comment`` is kept in the audit log.
        """
        request = _requests.revoke_key(
            key_id=key_id, api_key=api_key, reason=reason, comment=comment, request_id=request_id
        )
        return _results.revoked_key(self._call(self._stubs.keys.RevokeKey, request, timeout, self._timeout))

    def _call(
        self,
        rpc: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout: float | None,
        timeout_default: float,
    ) -> Response:
        try:
            return rpc(
                request,
                timeout=timeout_default if timeout is None else timeout,
                metadata=self._metadata,
                wait_for_ready=self._wait_for_ready,
            )
        except grpc.RpcError as error:
            method = request.DESCRIPTOR.name.removesuffix("Request")
            raise call_error(method, error) from error
