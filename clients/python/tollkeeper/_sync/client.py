# Generated from ``_async`` by ``scripts/unasync.py``; do not edit.
"""The client as a whole: its connection, and the calls of every service."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc

from tollkeeper._channel import CHANNEL_OPTIONS, authorization, server_from_env
from tollkeeper._near_caching import NearCaching
from tollkeeper._sync.audit import AuditCalls
from tollkeeper._sync.calls import Stubs
from tollkeeper._sync.key_changes import KeyChangeCalls
from tollkeeper._sync.keys import KeyCalls
from tollkeeper._sync.owners import OwnerCalls
from tollkeeper._sync.usage import UsageCalls
from tollkeeper._sync.verification import VerificationCalls
from tollkeeper._tls import credentials_from_env
from tollkeeper.v1.audit_service_pb2_grpc import AuditServiceStub
from tollkeeper.v1.key_service_pb2_grpc import KeyServiceStub
from tollkeeper.v1.usage_service_pb2_grpc import UsageServiceStub
from tollkeeper.v1.verification_service_pb2_grpc import VerificationServiceStub


class Client(VerificationCalls, KeyCalls, KeyChangeCalls, OwnerCalls, UsageCalls, AuditCalls):
    """A client of Tollkeeper. Make one and share it, also between threads; it holds one connection a server.

        with Client("127.0.0.1:50051", token="tk_...") as client:
            decision = client.verify(api_key, resource="billing", permissions=["read"])
            if not decision.allowed:
                ...

    Every call has a timeout in seconds: ``verify_timeout`` for verifications, quota checks and settlements, ``timeout``
    for the rest, and each method takes one of its own. Every method raises a :class:`CallError` if the call fails. A
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
        near_cache: bool = False,
    ) -> None:
        """Connects on the first call.

        ``address`` is ``host:port``, where every address of the host is used, or several servers as
        ``ipv4:10.0.0.1:50051,10.0.0.2:50051``. ``token`` is the API key of this caller. Without ``credentials`` nothing
        is encrypted: for loopback, or a mesh that encrypts. ``wait_for_ready`` lets calls wait, within their timeout,
        while no server is ready, as during a restart; without it they fail at once with :class:`Unavailable`. With
        ``near_cache`` ALLOWED answers are given again without asking, in microseconds, while a server promises to tell
        of every change before it counts.
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
        verification = self._stubs.verification
        self._verify_rpc = verification.Verify
        self._near_caching = NearCaching(address, credentials, self._metadata) if near_cache else None
        self._near_cache = None if self._near_caching is None else self._near_caching.cache

    @classmethod
    def from_env(
        cls,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = 5.0,
        verify_timeout: float = 1.0,
        wait_for_ready: bool = True,
        near_cache: bool = False,
    ) -> Self:
        """A client of the server at TOLLKEEPER_ADDRESS, as the caller whose API key is TOLLKEEPER_TOKEN.

        Without ``credentials``, TOLLKEEPER_TLS_CA says whether the connection is encrypted: a PEM file of the
        authorities that are trusted, or ``public``. TOLLKEEPER_TLS_CLIENT_CERT and TOLLKEEPER_TLS_CLIENT_KEY are files,
        too, for servers that ask for a certificate. Raises ValueError if address or token is not set, or a file cannot
        be used.
        """
        address, token = server_from_env()
        return cls(
            address,
            token=token,
            credentials=credentials or credentials_from_env(),
            timeout=timeout,
            verify_timeout=verify_timeout,
            wait_for_ready=wait_for_ready,
            near_cache=near_cache,
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
        """Closes the connections; calls that still run are cancelled. A near-cache tells first what it was used for."""
        if self._near_caching is not None:
            self._near_caching.close()
        self._channel.close()

    @property
    def stubs(self) -> Stubs:
        """The generated stubs, for what this client has no method for."""
        return self._stubs

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """What calls through :attr:`stubs` need as ``metadata``. It holds the token."""
        return self._metadata
